//! The block device through its registers and rings, in front of a raw file or of a backend that
//! fails on command.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::config::*;
use super::request::*;
use super::*;
use crate::bus::BusDevice;
use crate::disk::buffers::GuestBuffers;
use crate::disk::raw::RawDisk;
use crate::disk::{CacheMode, Completion, Op, Outcome, Submission};
use crate::events::{BlockErrorAction, BlockIoError, GuestEvent};
use crate::io_thread::{IoThread, Recall};
use crate::saved::Saved;
use crate::virtio::device::ActiveQueue;
use crate::virtio::fake_driver::{
    self, Buffer, DATA, Driver, DriverQueue, Events, MEMORY_LEN, readable, writable,
};
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::{Layout, Position, Queue};
use crate::virtio::spec::{F_VERSION_1, INTERRUPT_CONFIG};

const SIZE: u64 = 1 << 20;
const STATUS: u64 = DATA + 0x8_0000;
const BUFFER: u64 = DATA + 0x1000;

fn options(events: &Arc<Events>) -> BlkOptions {
    BlkOptions {
        id: Arc::from("disk0"),
        serial: "a serial that is longer than twenty bytes".to_owned(),
        writeback: true,
        discard: true,
        rerror: ErrorPolicy::Report,
        werror: ErrorPolicy::Enospc,
        queues: 1,
        events: events.clone(),
    }
}

struct Machine {
    driver: Driver,
    stats: Arc<BlkStats>,
    _io: IoThread,
}

impl Machine {
    fn new(disk: Box<dyn Disk>, change: impl FnOnce(&mut BlkOptions)) -> Self {
        let events = Arc::new(Events::default());
        let mut options = options(&events);
        change(&mut options);
        let device = VirtioBlk::new(disk, options);
        let stats = device.stats();
        let io = IoThread::spawn(|| {}).unwrap();
        let mut driver = Driver::new(Box::new(device), io.handle(), events);
        let features = driver.offered();
        driver.start(features, 64);
        Self {
            driver,
            stats,
            _io: io,
        }
    }

    fn raw(read_only: bool) -> (Self, std::fs::File) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        let content: Vec<u8> = (0..SIZE).map(|n| (n / 512) as u8).collect();
        file.write_all_at(&content, 0).unwrap();
        let disk = RawDisk::new(file.try_clone().unwrap(), CacheMode::Writeback, read_only);
        (Self::new(Box::new(disk.unwrap()), |_| {}), file)
    }

    fn header(&mut self, kind: u32, sector: u64) {
        let memory = &self.driver.memory;
        memory.write_obj(kind, GuestAddress(DATA)).unwrap();
        memory.write_obj(0_u32, GuestAddress(DATA + 4)).unwrap();
        memory.write_obj(sector, GuestAddress(DATA + 8)).unwrap();
        memory.write_obj(0xee_u8, GuestAddress(STATUS)).unwrap();
    }

    fn add(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> u16 {
        self.header(kind, sector);
        let mut chain = vec![readable(DATA, 16)];
        chain.extend(data);
        chain.push(writable(STATUS, 1));
        self.driver.queues[0].add(&chain)
    }

    /// One request; its status and the bytes the device says it wrote.
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        let head = self.add(kind, sector, data);
        let (used, written) = self.driver.run(0);
        assert_eq!(used, head);
        (self.status(), written)
    }

    fn status(&self) -> u8 {
        self.driver.memory.read_obj(GuestAddress(STATUS)).unwrap()
    }

    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.driver
            .memory
            .read_slice(&mut data, GuestAddress(address))
            .unwrap();
        data
    }

    fn range(&mut self, sector: u64, sectors: u32, flags: u32) -> [Buffer; 1] {
        let mut raw = sector.to_le_bytes().to_vec();
        raw.extend(sectors.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        self.driver
            .memory
            .write_slice(&raw, GuestAddress(BUFFER))
            .unwrap();
        [readable(BUFFER, 16)]
    }

    fn config<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0xff; N];
        self.driver.transport.read(0x100 + offset, &mut data);
        data
    }
}

#[test]
fn reads_and_writes_reach_the_file_however_the_chain_is_cut() {
    let (mut m, file) = Machine::raw(false);
    // Across the place where the regions of memory meet.
    let seam = MEMORY_LEN / 2 - 700;
    let data = [
        writable(BUFFER, 1),
        writable(seam, 1000),
        writable(BUFFER + 9, 23),
    ];
    assert_eq!(m.request(T_IN, 7, &data), (S_OK, 1025));
    assert_eq!(m.bytes(BUFFER, 1), [7]);
    assert_eq!(m.bytes(seam, 1000), [vec![7; 511], vec![8; 489]].concat());
    assert_eq!(m.bytes(BUFFER + 9, 23), [8; 23]);

    let pattern: Vec<u8> = (0..1024).map(|n| (n % 251) as u8).collect();
    m.driver
        .memory
        .write_slice(&pattern, GuestAddress(seam))
        .unwrap();
    let data = [readable(seam, 1023), readable(seam + 1023, 1)];
    assert_eq!(m.request(T_OUT, 2, &data), (S_OK, 1));
    let mut back = vec![0; 1024];
    file.read_exact_at(&mut back, 1024).unwrap();
    assert_eq!(back, pattern);

    // Header and data in one descriptor, data and status in another; and by an indirect table.
    m.header(T_IN, 9);
    let chain = [
        readable(DATA, 7),
        readable(DATA + 7, 9),
        writable(STATUS - 512, 513),
    ];
    m.driver.queues[0].add(&chain);
    assert_eq!((m.driver.run(0).1, m.status()), (513, S_OK));
    assert_eq!(m.bytes(STATUS - 512, 512), [9; 512]);
    m.header(T_IN, 11);
    m.driver.queues[0].add_indirect(DATA + 0x4000, &chain);
    assert_eq!((m.driver.run(0).1, m.status()), (513, S_OK));
    assert_eq!(m.bytes(STATUS - 512, 512), [11; 512]);

    assert_eq!(m.request(T_FLUSH, 0, &[]), (S_OK, 1));
    let stats = &m.stats;
    assert_eq!(
        (
            stats.read.bytes.load(Relaxed),
            stats.read.operations.load(Relaxed)
        ),
        (2048, 3)
    );
    assert_eq!(
        (
            stats.write.bytes.load(Relaxed),
            stats.flush.operations.load(Relaxed)
        ),
        (1024, 1)
    );
    assert_eq!(stats.wr_highest_offset.load(Relaxed), 2048);
}

#[test]
fn the_serial_number_is_cut_and_padded() {
    let (mut m, _) = Machine::raw(false);
    assert_eq!(m.request(T_GET_ID, 0, &[writable(BUFFER, 20)]), (S_OK, 21));
    assert_eq!(m.bytes(BUFFER, 20), b"a serial that is lon");
    assert_eq!(m.request(T_GET_ID, 0, &[writable(BUFFER, 3)]), (S_OK, 4));
    assert_eq!(m.request(T_GET_ID, 0, &[]), (S_OK, 1));
}

#[test]
fn what_cannot_be_is_refused_with_a_status() {
    let (mut m, _) = Machine::raw(false);
    let sector = [writable(BUFFER, 512)];
    let out = [readable(BUFFER, 512)];
    let end = SIZE / 512;
    assert_eq!(m.request(T_IN, end - 1, &sector).0, S_OK);
    for at in [end, u64::MAX, u64::MAX / 512, (1 << 55) - 1] {
        assert_eq!(m.request(T_IN, at, &sector), (S_IOERR, 1), "{at}");
        assert_eq!(m.request(T_OUT, at, &out), (S_IOERR, 1), "{at}");
    }
    assert_eq!(
        m.request(T_IN, end - 1, &[writable(BUFFER, 1024)]).0,
        S_IOERR
    );
    assert_eq!(m.request(T_IN, 0, &[writable(BUFFER, 511)]).0, S_IOERR);
    assert_eq!(
        m.request(T_IN, 0, &[readable(BUFFER, 1), writable(BUFFER, 512)])
            .0,
        S_IOERR
    );
    for kind in [2, 3, 5, 14, u32::MAX] {
        assert_eq!(m.request(kind, 0, &sector), (S_UNSUPP, 1), "{kind}");
    }
    for (kind, flags) in [(T_DISCARD, 1), (T_WRITE_ZEROES, 2)] {
        let range = m.range(0, 1, flags);
        assert_eq!(m.request(kind, 0, &range).0, S_UNSUPP, "{kind}");
        for (sector, sectors) in [(end, 1), (0, 0), (0, u32::MAX), (u64::MAX, 1)] {
            let range = m.range(sector, sectors, 0);
            assert_eq!(
                m.request(kind, 0, &range).0,
                S_IOERR,
                "{kind} {sector} {sectors}"
            );
        }
        assert_eq!(
            m.request(kind, 0, &[readable(BUFFER, 32)]).0,
            S_UNSUPP,
            "{kind}"
        );
        assert_eq!(
            m.request(kind, 0, &[readable(BUFFER, 15)]).0,
            S_IOERR,
            "{kind}"
        );
    }
    let invalid = m.stats.read.invalid.load(Relaxed);
    assert_eq!((invalid, m.stats.read.failed.load(Relaxed)), (7, 0));
    assert_eq!(m.driver.events.take(), []);
}

#[test]
fn a_read_only_disk_takes_no_writes() {
    let (mut m, _) = Machine::raw(true);
    let offered = m.driver.offered();
    assert_eq!(offered & (F_RO | F_DISCARD | F_WRITE_ZEROES), F_RO);
    assert_eq!(m.request(T_OUT, 0, &[readable(BUFFER, 512)]).0, S_IOERR);
    assert_eq!(
        m.request(T_WRITE_ZEROES, 0, &[readable(BUFFER, 16)]).0,
        S_UNSUPP
    );
    assert_eq!(m.request(T_IN, 0, &[writable(BUFFER, 512)]).0, S_OK);
    assert_eq!(m.request(T_FLUSH, 0, &[]).0, S_OK);
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeroes() {
    for kind in [T_DISCARD, T_WRITE_ZEROES] {
        for flags in if kind == T_DISCARD { 0..1 } else { 0..2 } {
            let (mut m, file) = Machine::raw(false);
            let range = m.range(3, 16, flags);
            assert_eq!(m.request(kind, 0, &range), (S_OK, 1));
            let mut back = vec![0xff; 18 * 512];
            file.read_exact_at(&mut back, 2 * 512).unwrap();
            assert_eq!(back[..512], [2; 512]);
            assert!(back[512..17 * 512].iter().all(|&byte| byte == 0));
            assert_eq!(back[17 * 512..], [19; 512]);
            assert_eq!(file.metadata().unwrap().len(), SIZE);
        }
    }
}

#[test]
fn a_request_without_header_or_status_stops_the_device() {
    for (chain, reason) in [
        (
            vec![readable(DATA, 15), writable(STATUS, 1)],
            "without a header",
        ),
        (vec![readable(DATA, 16)], "without room for its status"),
        (vec![writable(STATUS, 600)], "without a header"),
    ] {
        let (mut m, _) = Machine::raw(false);
        m.header(T_FLUSH, 0);
        m.driver.queues[0].add(&chain);
        m.driver.notify(0);
        while m.driver.read(0x070) & 0x40 == 0 {
            m.driver.wait_interrupt();
        }
        // The status may be seen before the event is; taking the worker back waits for both.
        m.driver.transport.core_mut().pause().unwrap();
        let events = m.driver.events.take();
        assert!(format!("{events:?}").contains(reason), "{events:?}");
        assert_eq!(m.driver.queues[0].pop_used(), None);
    }
}

#[test]
fn a_resize_reaches_the_guest() {
    let (mut m, file) = Machine::raw(false);
    let generation = m.driver.read(0x0fc);
    let core = m.driver.transport.core_mut();
    let busy = core
        .device_mut::<VirtioBlk>()
        .unwrap()
        .resize(2 * SIZE)
        .unwrap_err();
    assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
    core.pause().unwrap();
    let device = core.device_mut::<VirtioBlk>().unwrap();
    assert!(device.resize(SIZE + 1).is_err());
    device.resize(2 * SIZE).unwrap();
    core.resume();
    core.config_changed();
    while m.driver.wait_interrupt() & INTERRUPT_CONFIG == 0 {}
    assert_eq!(u64::from_le_bytes(m.config(0)), 2 * SIZE / 512);
    assert_ne!(m.driver.read(0x0fc), generation);
    assert_eq!(file.metadata().unwrap().len(), 2 * SIZE);
    let last = 2 * SIZE / 512 - 1;
    assert_eq!(m.request(T_IN, last, &[writable(BUFFER, 512)]), (S_OK, 513));
}

#[test]
fn a_file_truncated_behind_our_back_gives_an_io_error() {
    let (mut m, file) = Machine::raw(false);
    file.set_len(1000).unwrap();
    assert_eq!(m.request(T_IN, 1, &[writable(BUFFER, 512)]), (S_IOERR, 1));
    let expected = BlockIoError {
        id: Arc::from("disk0"),
        write: false,
        action: BlockErrorAction::Report,
        errno: libc::EIO,
    };
    assert_eq!(m.driver.events.take(), [GuestEvent::BlockIoError(expected)]);
}

/// A disk on which every request takes a worker's whole turn.
struct Slow(Arc<Mutex<Vec<Op>>>);

impl Disk for Slow {
    fn geometry(&self) -> Geometry {
        Geometry {
            capacity: SIZE,
            block_size: 512,
            physical_block_size: 512,
            read_only: false,
        }
    }
    fn submit(
        &mut self,
        _tag: u64,
        op: Op,
        _buffers: &mut GuestBuffers,
        _recall: &Recall,
    ) -> Submission {
        let begun = Instant::now();
        while begun.elapsed() < worker::TURN {
            std::hint::spin_loop();
        }
        self.0.lock().unwrap().push(op);
        Submission::Done(Outcome::Success)
    }
    fn kick(&mut self) {}
    fn completion_event(&self) -> Option<RawFd> {
        None
    }
    fn reap(&mut self, _recall: &Recall, _done: &mut Vec<Completion>) {}
    fn resize(&mut self, _bytes: u64) -> io::Result<Geometry> {
        Ok(self.geometry())
    }
}

#[test]
fn a_ring_of_long_requests_does_not_keep_the_io_thread() {
    let memory = fake_driver::memory();
    let mut ring = DriverQueue::new(memory.clone(), 0, 16);
    memory.write_obj(T_IN, GuestAddress(DATA)).unwrap();
    let head = ring.add(&[
        readable(DATA, 16),
        writable(BUFFER, 512),
        writable(STATUS, 1),
    ]);
    ring.publish(head);
    ring.publish(head);

    let layout = Layout {
        size: ring.size,
        desc: ring.desc,
        avail: ring.avail,
        used: ring.used,
    };
    let queue = Queue::new(&memory, layout, Position::default(), F_VERSION_1).unwrap();
    let event = || EventFd::new(EFD_NONBLOCK).unwrap();
    let doorbell = Arc::new(event());
    let seen = Arc::default();
    let mut device = VirtioBlk::new(
        Box::new(Slow(Arc::clone(&seen))),
        options(&Arc::new(Events::default())),
    );
    let active = ActiveQueue {
        index: 0,
        queue,
        doorbell: Arc::clone(&doorbell),
    };
    let mut worker = device
        .activate(Activation {
            memory,
            features: F_VERSION_1,
            queues: vec![active],
            interrupt: Arc::new(Interrupt::new(Arc::new(event()))),
            recall: Recall::default(),
        })
        .unwrap();
    for turn in 1..=3 {
        worker.ready(0).unwrap();
        assert_eq!(seen.lock().unwrap().len(), turn);
        assert_eq!(ring.pop_used(), Some((head, 513)));
        // Woken again, by itself.
        assert_eq!(doorbell.read().unwrap(), 1);
    }
    worker.ready(0).unwrap();
    assert_eq!(ring.pop_used(), None);
    doorbell.read().unwrap_err();
}

/// What a [`Scripted`] disk saw, and what it is to answer; shared with the test.
#[derive(Default)]
struct Script {
    seen: Vec<Op>,
    /// Errors to answer with, one per operation; none left means success.
    errors: VecDeque<Option<i32>>,
    pending: Vec<(u64, GuestBuffers)>,
}

/// A disk that does nothing, fails on command, and may complete later.
struct Scripted {
    script: Arc<Mutex<Script>>,
    /// Signalled when pending operations may complete; `None` for a synchronous disk.
    later: Option<EventFd>,
}

impl Disk for Scripted {
    fn geometry(&self) -> Geometry {
        Geometry {
            capacity: SIZE,
            block_size: 512,
            physical_block_size: 512,
            read_only: false,
        }
    }
    fn submit(
        &mut self,
        tag: u64,
        op: Op,
        buffers: &mut GuestBuffers,
        _recall: &Recall,
    ) -> Submission {
        let mut script = self.script.lock().unwrap();
        script.seen.push(op);
        if self.later.is_some() {
            script.pending.push((tag, buffers.take()));
            return Submission::Pending;
        }
        Submission::Done(outcome(&mut script).into())
    }
    fn kick(&mut self) {}
    fn completion_event(&self) -> Option<RawFd> {
        self.later.as_ref().map(EventFd::as_raw_fd)
    }
    fn reap(&mut self, _recall: &Recall, done: &mut Vec<Completion>) {
        let mut script = self.script.lock().unwrap();
        drop(self.later.as_ref().map(EventFd::read));
        // Latest first: nothing may depend on the order.
        while let Some((tag, _buffers)) = script.pending.pop() {
            let outcome = outcome(&mut script).into();
            done.push(Completion { tag, outcome });
        }
    }
    fn resize(&mut self, _bytes: u64) -> io::Result<Geometry> {
        Ok(self.geometry())
    }
}

fn outcome(script: &mut Script) -> io::Result<()> {
    match script.errors.pop_front().flatten() {
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Ok(()),
    }
}

fn scripted(
    errors: &[Option<i32>],
    later: Option<EventFd>,
    change: impl FnOnce(&mut BlkOptions),
) -> (Machine, Arc<Mutex<Script>>) {
    let script = Script {
        errors: errors.iter().copied().collect(),
        ..Script::default()
    };
    let script = Arc::new(Mutex::new(script));
    let disk = Scripted {
        script: script.clone(),
        later,
    };
    (Machine::new(Box::new(disk), change), script)
}

#[test]
fn errors_are_treated_as_the_policy_says() {
    use BlockErrorAction::{Ignore, Report};
    let (enospc, eio) = (libc::ENOSPC, libc::EIO);
    for (rerror, werror, write, errno, action, status) in [
        (
            ErrorPolicy::Report,
            ErrorPolicy::Stop,
            false,
            eio,
            Report,
            S_IOERR,
        ),
        (
            ErrorPolicy::Ignore,
            ErrorPolicy::Stop,
            false,
            eio,
            Ignore,
            S_OK,
        ),
        (
            ErrorPolicy::Stop,
            ErrorPolicy::Report,
            true,
            enospc,
            Report,
            S_IOERR,
        ),
        (
            ErrorPolicy::Stop,
            ErrorPolicy::Ignore,
            true,
            enospc,
            Ignore,
            S_OK,
        ),
        (
            ErrorPolicy::Stop,
            ErrorPolicy::Enospc,
            true,
            eio,
            Report,
            S_IOERR,
        ),
    ] {
        let (mut m, _) = scripted(&[Some(errno)], None, |options| {
            (options.rerror, options.werror) = (rerror, werror);
        });
        let (kind, data) = match write {
            true => (T_OUT, readable(BUFFER, 512)),
            false => (T_IN, writable(BUFFER, 512)),
        };
        assert_eq!(m.request(kind, 0, &[data]).0, status);
        let id = Arc::from("disk0");
        let event = GuestEvent::BlockIoError(BlockIoError {
            id,
            write,
            action,
            errno,
        });
        assert_eq!(m.driver.events.take(), [event]);
        // The next one is not affected.
        assert_eq!(m.request(kind, 0, &[data]).0, S_OK);
        let counters = if write { &m.stats.write } else { &m.stats.read };
        assert_eq!(
            (
                counters.failed.load(Relaxed),
                counters.operations.load(Relaxed)
            ),
            (1, 1)
        );
    }
}

/// Takes the worker back and starts another, as the machine does on `cont`.
fn cycle(m: &mut Machine) {
    m.driver.transport.core_mut().pause().unwrap();
    m.driver.transport.core_mut().resume();
}

/// A disk whose first operation lasts until its worker is wanted back.
struct Patient {
    begun: Option<mpsc::Sender<()>>,
}

impl Disk for Patient {
    fn geometry(&self) -> Geometry {
        Geometry {
            capacity: SIZE,
            block_size: 512,
            physical_block_size: 512,
            read_only: false,
        }
    }
    fn submit(
        &mut self,
        _tag: u64,
        _op: Op,
        _buffers: &mut GuestBuffers,
        recall: &Recall,
    ) -> Submission {
        let Some(begun) = self.begun.take() else {
            return Submission::Done(Outcome::Success);
        };
        begun.send(()).unwrap();
        while !recall.is_set() {
            std::thread::yield_now();
        }
        Submission::Done(Outcome::Recalled)
    }
    fn kick(&mut self) {}
    fn completion_event(&self) -> Option<RawFd> {
        None
    }
    fn reap(&mut self, _recall: &Recall, _done: &mut Vec<Completion>) {}
    fn resize(&mut self, _bytes: u64) -> io::Result<Geometry> {
        Ok(self.geometry())
    }
}

/// Nobody is told of it, because nothing went wrong.
#[test]
fn a_request_given_up_for_a_pause_is_begun_anew_by_the_next_worker() {
    let (begun, has_begun) = mpsc::channel();
    let disk = Patient { begun: Some(begun) };
    let mut m = Machine::new(Box::new(disk), |_| {});
    let sector = [readable(BUFFER, 512)];
    let heads: Vec<_> = (0..2).map(|n| m.add(T_OUT, n, &sector)).collect();
    m.driver.notify(0);
    has_begun.recv().unwrap();
    m.driver.transport.core_mut().pause().unwrap();
    assert_eq!(m.driver.queues[0].pop_used(), None);
    assert_eq!(m.driver.events.take(), []);
    m.driver.transport.core_mut().resume();
    let done: Vec<_> = (0..2).map(|_| m.driver.next_used(0).0).collect();
    assert_eq!(done, heads);
    assert_eq!(
        (m.stats.write.operations.load(Relaxed), m.status()),
        (2, S_OK)
    );
}

#[test]
fn a_stopped_request_is_kept_and_tried_again_first_until_it_works() {
    let errno = Some(libc::ENOSPC);
    let (mut m, script) = scripted(&[None, errno, errno], None, |_| {});
    let sector = [readable(BUFFER, 512)];
    let heads: Vec<_> = (0..4).map(|n| m.add(T_OUT, n, &sector)).collect();
    // The header is shared: all four see the last sector. What counts is how often.
    assert_eq!(m.driver.run(0).0, heads[0]);
    cycle(&mut m);
    m.driver.transport.core_mut().pause().unwrap();
    let stopped = |events: Vec<GuestEvent>| {
        events.iter().all(|event| {
            matches!(event, GuestEvent::BlockIoError(e) if e.action == BlockErrorAction::Stop)
        })
    };
    let events = m.driver.events.take();
    assert!((1..=2).contains(&events.len()) && stopped(events));
    let device = m
        .driver
        .transport
        .core_mut()
        .device_mut::<VirtioBlk>()
        .unwrap();
    assert!(device.is_stalled());
    assert_eq!(m.driver.queues[0].pop_used(), None);
    // Kept over a save and a restore as well.
    let state = m.driver.transport.save();
    m.driver.transport.restore(&state).unwrap();
    assert_eq!(m.driver.transport.save(), state);
    script.lock().unwrap().errors.clear();
    m.driver.transport.core_mut().resume();
    let done: Vec<_> = (0..3).map(|_| m.driver.next_used(0).0).collect();
    assert_eq!(done, heads[1..]);
    assert_eq!(m.driver.queues[0].pop_used(), None);
    assert_eq!(
        (m.stats.write.operations.load(Relaxed), m.status()),
        (4, S_OK)
    );
}

#[test]
fn a_stopped_device_can_be_reset() {
    let (mut m, _) = scripted(&[Some(libc::ENOSPC)], None, |_| {});
    m.add(T_OUT, 0, &[readable(BUFFER, 512)]);
    m.driver.notify(0);
    while m.driver.events.take().is_empty() {
        std::thread::yield_now();
    }
    let features = m.driver.offered();
    m.driver.start(features, 64);
    assert_eq!(m.request(T_OUT, 0, &[readable(BUFFER, 512)]).0, S_OK);
}

#[test]
fn requests_that_complete_later_are_each_answered_once() {
    let later = EventFd::new(EFD_NONBLOCK).unwrap();
    let completer = later.try_clone().unwrap();
    let (mut m, _) = scripted(&[None, Some(libc::EIO)], Some(later), |_| {});
    let mut heads: Vec<_> = (0..3)
        .map(|n| m.add(T_IN, n, &[writable(BUFFER, 512)]))
        .collect();
    m.driver.notify(0);
    completer.write(1).unwrap();
    // Pausing waits for what has begun; nothing is lost or answered twice either way.
    m.driver.transport.core_mut().pause().unwrap();
    m.driver.transport.core_mut().resume();
    completer.write(1).unwrap();
    let mut done = Vec::new();
    while done.len() < 3 {
        match m.driver.queues[0].pop_used() {
            Some((head, _)) => done.push(head),
            // Wakes the worker until it has taken everything.
            None => {
                completer.write(1).unwrap();
                std::thread::yield_now();
            }
        }
    }
    done.sort_unstable();
    heads.sort_unstable();
    assert_eq!(done, heads);
    assert_eq!(m.driver.queues[0].pop_used(), None);
    assert_eq!(m.stats.read.failed.load(Relaxed), 1);
}

#[test]
fn the_guest_switches_the_write_cache() {
    let (mut m, script) = scripted(&[], None, |_| {});
    let durable = |script: &Mutex<Script>| {
        let last = script.lock().unwrap().seen.last().copied();
        matches!(last, Some(Op::Write { durable: true, .. }))
    };
    assert_eq!(m.config(WRITEBACK_OFFSET), [1]);
    m.request(T_OUT, 0, &[readable(BUFFER, 512)]);
    assert!(!durable(&script));
    m.driver.transport.write(0x100 + WRITEBACK_OFFSET, &[0]);
    assert_eq!(m.config(WRITEBACK_OFFSET), [0]);
    m.request(T_OUT, 0, &[readable(BUFFER, 512)]);
    assert!(durable(&script));
    // Other fields are not writable, nor is this one without the feature.
    m.driver.transport.write(0x100, &[0xff; 4]);
    assert_eq!(u64::from_le_bytes(m.config(0)), SIZE / 512);
    m.driver.start(F_VERSION_1, 64);
    assert_eq!(m.config(WRITEBACK_OFFSET), [1]);
    m.driver.transport.write(0x100 + WRITEBACK_OFFSET, &[0]);
    assert_eq!(m.config(WRITEBACK_OFFSET), [1]);
    // A driver that knows no flush must not need one.
    m.request(T_OUT, 0, &[readable(BUFFER, 512)]);
    assert!(durable(&script));
}

#[test]
fn a_state_for_another_image_is_refused() {
    let (mut m, _) = scripted(&[], None, |_| {});
    m.driver.transport.core_mut().pause().unwrap();
    let good = m.driver.transport.save();
    let stalled = |queue, head| vec![StalledRequest { queue, head }];
    let state = |capacity, stalled| BlkState {
        capacity,
        writeback: true,
        stalled,
    };
    for (field, broken) in [
        ("capacity", state(1, Vec::new())),
        ("stalled", state(SIZE / 512, stalled(1, 0))),
        ("stalled", state(SIZE / 512, stalled(0, QUEUE_SIZE))),
        ("stalled", state(SIZE / 512, stalled(0, 0).repeat(257))),
    ] {
        let mut bad = good.clone();
        bad.device = DeviceState::Blk(broken);
        assert_eq!(m.driver.transport.restore(&bad).unwrap_err().field, field);
        assert_eq!(m.driver.transport.save(), good);
    }
}
