//! A block device whose disk fails and answers late, among pauses and moves to another process: what
//! a full or broken host disk does to a guest. Any order of outcomes, under every policy.
//!
//! Once the disk is well and the guest goes on, every request has been answered, once, whatever was
//! kept, retried or restored in between; and a request is kept only after the owner was told to
//! stop the guest.
#![no_main]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};

use devices::disk::buffers::GuestBuffers;
use devices::disk::{Completion, Disk, Geometry, Op, Submission};
use devices::events::{BlockErrorAction, GuestEvent};
use devices::io_thread::Recall;
use devices::saved::Saved;
use devices::virtio::blk::request::{T_DISCARD, T_FLUSH, T_IN, T_OUT};
use devices::virtio::blk::{BlkOptions, ErrorPolicy, VirtioBlk};
use devices::virtio::fake_driver::{DATA, Driver, Events, readable, writable};
use libfuzzer_sys::fuzz_target;
use thimble_fuzz::rig::{Rig, io};
use thimble_fuzz::source::Source;
use thimble_fuzz::sparse::Sparse;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

thread_local!(static RAM: Sparse = Rig::ram());

const POLICIES: [ErrorPolicy; 4] = [
    ErrorPolicy::Enospc,
    ErrorPolicy::Stop,
    ErrorPolicy::Report,
    ErrorPolicy::Ignore,
];
const QUEUES: u16 = 2;
const QUEUE_LEN: u16 = 16;
/// Room of each request: header, data, status.
const ROOM: u64 = 0x1000;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What becomes of operations, in their order; when it has run out they succeed at once.
#[derive(Default)]
struct Script {
    outcomes: VecDeque<u8>,
    pending: Vec<(u64, GuestBuffers, u8)>,
}

fn result(outcome: u8) -> io::Result<()> {
    match outcome % 4 {
        0 | 1 => Ok(()),
        2 => Err(io::Error::from_raw_os_error(EIO)),
        _ => Err(io::Error::from_raw_os_error(ENOSPC)),
    }
}

struct Flaky {
    script: Arc<Mutex<Script>>,
    later: EventFd,
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().expect("a panic ends the process")
}

impl Disk for Flaky {
    fn geometry(&self) -> Geometry {
        Geometry {
            capacity: 1 << 20,
            block_size: 512,
            physical_block_size: 4096,
            read_only: false,
        }
    }

    fn submit(
        &mut self,
        tag: u64,
        _op: Op,
        buffers: &mut GuestBuffers,
        _recall: &Recall,
    ) -> Submission {
        let mut script = lock(&self.script);
        let outcome = script.outcomes.pop_front().unwrap_or(0);
        if outcome & 0x80 == 0 {
            return Submission::Done(result(outcome).into());
        }
        script.pending.push((tag, buffers.take(), outcome));
        self.later.write(1).expect("room in the counter");
        Submission::Pending
    }

    fn completion_event(&self) -> Option<RawFd> {
        Some(self.later.as_raw_fd())
    }

    fn kick(&mut self) {}

    fn reap(&mut self, _recall: &Recall, done: &mut Vec<Completion>) {
        let mut script = lock(&self.script);
        drop(self.later.read());
        // The latest first, and not always all.
        while let Some((tag, _, outcome)) = script.pending.pop() {
            done.push(Completion {
                tag,
                outcome: result(outcome).into(),
            });
            if outcome & 0x40 != 0 {
                break;
            }
        }
        if !script.pending.is_empty() {
            self.later.write(1).expect("room in the counter");
        }
    }

    fn resize(&mut self, _bytes: u64) -> io::Result<Geometry> {
        Ok(self.geometry())
    }
}

struct Guest<'a> {
    driver: Driver,
    ram: &'a Sparse,
    script: Arc<Mutex<Script>>,
    policies: [ErrorPolicy; 2],
    /// The heads made available in each queue from the oldest that is not used yet on, and whether
    /// each is used. Descriptors are taken round and round: those of a request that takes long must
    /// not be written over.
    open: [VecDeque<(u16, bool)>; QUEUES as usize],
    requests: u64,
}

fn driver(script: &Arc<Mutex<Script>>, [rerror, werror]: [ErrorPolicy; 2], ram: &Sparse) -> Driver {
    let events = Arc::new(Events::default());
    let disk = Flaky {
        script: Arc::clone(script),
        later: EventFd::new(EFD_NONBLOCK).expect("a descriptor"),
    };
    let options = BlkOptions {
        id: Arc::from("dev0"),
        serial: String::new(),
        writeback: true,
        discard: true,
        rerror,
        werror,
        queues: QUEUES,
        events: events.clone(),
    };
    let device = Box::new(VirtioBlk::new(Box::new(disk), options));
    Driver::with_memory(device, io().handle(), events, Arc::clone(&ram.memory))
}

impl Guest<'_> {
    fn ask(&mut self, source: &mut Source<'_>) {
        let number = usize::from(source.u8() & 1);
        if self.open[number].len() >= usize::from(QUEUE_LEN) / 3 || self.requests >= 64 {
            return;
        }
        let at = DATA + self.requests * ROOM;
        let kind = source.pick(&[T_OUT, T_IN, T_FLUSH, T_DISCARD]);
        let mut header = u128::from(kind).to_le_bytes().to_vec();
        header.extend(
            u128::from(8_u32 << (source.u8() % 2))
                .rotate_left(64)
                .to_le_bytes(),
        );
        let memory = &self.ram.memory;
        memory
            .write_slice(&header, GuestAddress(at))
            .expect("in memory");
        memory
            .write_slice(&[0xee], GuestAddress(at + ROOM - 1))
            .expect("in memory");
        let data = match kind {
            T_OUT => Some(readable(at + 0x200, 512)),
            T_IN => Some(writable(at + 0x200, 512)),
            T_DISCARD => Some(readable(at + 16, 16)),
            _ => None,
        };
        let chain: Vec<_> = std::iter::once(readable(at, 16))
            .chain(data)
            .chain(std::iter::once(writable(at + ROOM - 1, 1)))
            .collect();
        let head = self.driver.queues[number].add(&chain);
        self.open[number].push_back((head, false));
        self.requests += 1;
        if !source.rarely(4) {
            self.driver.notify(number as u16);
        }
    }

    /// Looks for used chains.
    fn look(&mut self) {
        for number in 0..usize::from(QUEUES) {
            while let Some((head, _)) = self.driver.queues[number].pop_used() {
                self.close(number, head);
            }
        }
    }

    /// Waits until every chain is used.
    fn wait(&mut self) {
        for number in 0..QUEUES {
            while !self.open[usize::from(number)].is_empty() {
                let (head, _) = self.driver.next_used(number);
                self.close(usize::from(number), head);
            }
        }
    }

    fn close(&mut self, number: usize, head: u16) {
        let open = &mut self.open[number];
        let chain = open.iter_mut().find(|chain| **chain == (head, false));
        chain.expect("only what is available is used").1 = true;
        while open.front().is_some_and(|(_, used)| *used) {
            open.pop_front();
        }
    }

    /// Takes the worker back. What it kept, it told.
    fn pause(&mut self, told: &mut bool) {
        self.driver
            .transport
            .core_mut()
            .pause()
            .expect("the I/O thread lives");
        for event in self.driver.events.take() {
            let GuestEvent::BlockIoError(error) = event else {
                panic!("{event:?}");
            };
            *told |= error.action == BlockErrorAction::Stop;
        }
        let device = self.driver.transport.core_mut().device_mut::<VirtioBlk>();
        let stalled = device.expect("a block device").is_stalled();
        assert!(!stalled || *told, "requests are kept and nobody was told");
        *told = stalled;
        assert!(lock(&self.script).pending.is_empty(), "drained");
    }

    /// Goes on in another process.
    fn migrate(&mut self) {
        let state = self.driver.transport.save();
        let mut other = driver(&self.script, self.policies, self.ram);
        other.transport.restore(&state).expect("a state we saved");
        assert_eq!(other.transport.save(), state);
        other.queues = std::mem::take(&mut self.driver.queues);
        self.driver = other;
    }
}

fn run(source: &mut Source<'_>, ram: &Sparse) {
    ram.clear();
    let policies = [source.pick(&POLICIES), source.pick(&POLICIES)];
    let script = Arc::new(Mutex::new(Script::default()));
    let count = source.below(32);
    lock(&script).outcomes.extend(source.take(count));
    let mut guest = Guest {
        driver: driver(&script, policies, ram),
        ram,
        script,
        policies,
        open: Default::default(),
        requests: 0,
    };
    let features = guest.driver.offered() & !(u64::from(source.pick(&[0_u8, 2])) << 28);
    guest.driver.start(features, QUEUE_LEN);
    let mut told = false;
    while !source.is_empty() {
        match source.u8() % 8 {
            0..=3 => guest.ask(source),
            4 => guest.look(),
            5 => {
                guest.pause(&mut told);
                guest.driver.transport.core_mut().resume();
            }
            6 => {
                guest.pause(&mut told);
                guest.migrate();
                guest.driver.transport.core_mut().resume();
            }
            _ => {
                guest.driver.acknowledge();
            }
        }
    }
    lock(&guest.script).outcomes.clear();
    guest.pause(&mut told);
    guest.driver.transport.core_mut().resume();
    guest.wait();
    guest.pause(&mut told);
    guest.look();
    for number in 0..guest.requests {
        let at = GuestAddress(DATA + number * ROOM + ROOM - 1);
        let status: u8 = ram.memory.read_obj(at).expect("in memory");
        assert!(status <= 1, "request {number} has the status {status:#x}");
    }
}

fuzz_target!(|data: &[u8]| RAM.with(|ram| run(&mut Source::new(data), ram)));
