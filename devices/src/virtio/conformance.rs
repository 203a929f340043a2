//! What must hold of every virtio device, whatever it does: applied to each by its own tests below.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::blk::{BlkOptions, ErrorPolicy, VirtioBlk};
use super::device::VirtioDevice;
use super::fake_driver::{
    DATA, Driver, DriverQueue, Events, MEMORY_LEN, descriptor, readable, writable,
};
use super::net::{NetLimits, NetOptions, VirtioNet};
use super::rng::{HostEntropy, Rng};
use super::spec::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};
use super::transport::saved::TransportState;
use super::vsock::{PATIENCE, VirtioVsock};
use crate::disk::CacheMode;
use crate::disk::raw::RawDisk;
use crate::events::GuestEvent;
use crate::io_thread::IoThread;
use crate::memory::SharedMemory;
use crate::net::fake;
use crate::saved::Saved;
use crate::vsock::{Connector, SocketKind, VsockBackend};

/// Breaks one field of a state.
type Damage = fn(&mut TransportState);
/// Makes a device that raises its events there.
type Make = fn(&Arc<Events>) -> Box<dyn VirtioDevice>;

/// A device under test.
#[derive(Clone, Copy)]
struct Subject {
    name: &'static str,
    make: Make,
    /// The queue it is asked by.
    queue: u16,
    /// Makes something available there that it can always answer, and returns the answer: the head
    /// and the bytes written.
    ask: fn(&mut Driver) -> (u16, u32),
}

fn blk(events: &Arc<Events>) -> Box<dyn VirtioDevice> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let disk = RawDisk::new(file, CacheMode::Writeback, false).unwrap();
    let options = BlkOptions {
        id: Arc::from("dev0"),
        serial: "serial".to_owned(),
        writeback: true,
        discard: true,
        rerror: ErrorPolicy::Report,
        werror: ErrorPolicy::Enospc,
        queues: 2,
        events: events.clone(),
    };
    Box::new(VirtioBlk::new(Box::new(disk), options))
}

fn rng(_events: &Arc<Events>) -> Box<dyn VirtioDevice> {
    Box::new(Rng::new(Box::new(HostEntropy)))
}

/// Its peer has gone: what is sent is lost, which the driver does not see.
fn net(events: &Arc<Events>) -> Box<dyn VirtioDevice> {
    let (backend, _peer) = fake::pair(2);
    let options = NetOptions {
        id: Arc::from("dev0"),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: Some(1500),
        limits: NetLimits::default(),
        events: events.clone(),
    };
    Box::new(VirtioNet::new(Box::new(backend), options).unwrap())
}

/// Nobody connects to it, and it connects nowhere.
fn vsock(_events: &Arc<Events>) -> Box<dyn VirtioDevice> {
    struct Nowhere;
    impl Connector for Nowhere {
        fn connect(&mut self, _port: u32, _kind: SocketKind) -> io::Result<OwnedFd> {
            Err(io::ErrorKind::NotFound.into())
        }
    }
    let (listener, _) = UnixStream::pair().unwrap();
    let backend = VsockBackend {
        listener: listener.into(),
        connector: Box::new(Nowhere),
    };
    Box::new(VirtioVsock::new(backend, 3, PATIENCE).unwrap())
}

/// A header and a byte to write: a flush for the block device, and a byte of entropy.
fn ask_for_a_byte(driver: &mut Driver) -> (u16, u32) {
    let header = [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let memory = driver.memory.clone();
    memory.write_slice(&header, GuestAddress(DATA)).unwrap();
    let chain = [readable(DATA, 16), writable(DATA + 0x100, 1)];
    (driver.queues[0].add(&chain), 1)
}

/// A frame of 84 bytes whose header is invalid; it is dropped.
fn send_a_frame(driver: &mut Driver) -> (u16, u32) {
    let memory = driver.memory.clone();
    let header = [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    memory.write_slice(&header, GuestAddress(DATA)).unwrap();
    (driver.queues[1].add(&[readable(DATA, 96)]), 0)
}

/// A packet of nobody's, which is taken and dropped.
fn send_a_packet(driver: &mut Driver) -> (u16, u32) {
    let memory = driver.memory.clone();
    memory.write_slice(&[0; 44], GuestAddress(DATA)).unwrap();
    (driver.queues[1].add(&[readable(DATA, 44)]), 0)
}

const DEVICES: [Subject; 4] = [
    Subject {
        name: "blk",
        make: blk,
        queue: 0,
        ask: ask_for_a_byte,
    },
    Subject {
        name: "net",
        make: net,
        queue: 1,
        ask: send_a_frame,
    },
    Subject {
        name: "rng",
        make: rng,
        queue: 0,
        ask: ask_for_a_byte,
    },
    Subject {
        name: "vsock",
        make: vsock,
        queue: 1,
        ask: send_a_packet,
    },
];

/// One I/O thread for all tests: it must survive them all.
fn io() -> &'static IoThread {
    static IO: OnceLock<IoThread> = OnceLock::new();
    IO.get_or_init(|| IoThread::spawn(|| {}).unwrap())
}

impl Subject {
    fn driver(&self) -> Driver {
        let events = Arc::new(Events::default());
        Driver::new((self.make)(&events), io().handle(), events)
    }

    /// The same device in another machine's place.
    fn in_memory(&self, memory: &SharedMemory) -> Driver {
        let events = Arc::new(Events::default());
        let memory = Arc::clone(memory);
        Driver::with_memory((self.make)(&events), io().handle(), events, memory)
    }

    /// Asks something, and wants the answer.
    fn exchange(&self, driver: &mut Driver) {
        let answer = (self.ask)(driver);
        assert_eq!(driver.run(self.queue), answer, "{}", self.name);
    }
}

fn saved(driver: &mut Driver) -> TransportState {
    driver.transport.core_mut().pause().unwrap();
    driver.transport.save()
}

#[test]
fn a_device_works_again_after_each_of_two_resets() {
    for subject in DEVICES {
        let name = subject.name;
        let mut driver = subject.driver();
        let fresh = saved(&mut driver);
        for _ in 0..2 {
            let features = driver.offered();
            driver.start(features, 16);
            subject.exchange(&mut driver);
            driver.write(0x070, 0);
            assert_eq!((driver.read(0x070), driver.read(0x060)), (0, 0), "{name}");
            driver.transport.reset();
            assert_eq!(saved(&mut driver), fresh, "{name}");
        }
        assert_eq!(driver.events.take(), []);
    }
}

#[test]
fn a_saved_state_comes_back_equal_and_the_device_goes_on() {
    for subject in DEVICES {
        let name = subject.name;
        let mut source = subject.driver();
        let features = source.offered();
        source.start(features, 16);
        for _ in 0..20 {
            subject.exchange(&mut source);
        }
        let state = saved(&mut source);
        let queue = usize::from(subject.queue);
        assert!(
            state.queues[queue].next_used == 20 && state.queues[queue].ready,
            "{name}"
        );
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(
            serde_json::from_str::<TransportState>(&text).unwrap(),
            state,
            "{name}"
        );

        let mut target = subject.in_memory(&source.memory);
        target.transport.restore(&state).unwrap();
        assert_eq!(target.transport.save(), state, "{name}");
        target.queues = std::mem::take(&mut source.queues);
        // Made available while nobody looked: found without a notification.
        let answer = (subject.ask)(&mut target);
        target.transport.core_mut().resume();
        assert_eq!(target.next_used(subject.queue), answer, "{name}");
        subject.exchange(&mut target);
    }
}

#[test]
fn every_field_of_a_hostile_state_is_refused_and_changes_nothing() {
    for subject in DEVICES {
        let name = subject.name;
        let mut source = subject.driver();
        let features = source.offered();
        source.start(features, 16);
        subject.exchange(&mut source);
        let good = saved(&mut source);
        let damage: [(&str, Damage); 15] = [
            ("device_type", |s| s.device_type = 99),
            ("device_features", |s| s.device_features |= 1 << 63),
            ("status", |s| s.status = 4),
            ("status", |s| s.status |= 0x20),
            ("driver_features", |s| s.driver_features |= 1 << 62),
            ("driver_features", |s| s.driver_features &= !F_VERSION_1),
            ("interrupt_status", |s| s.interrupt_status = 4),
            ("queues", |s| s.queues.clear()),
            ("queues", |s| s.queues.push(s.queues[0])),
            ("queues", |s| s.queues[0].max_size = 8),
            ("queues", |s| s.queues[0].size = 3),
            ("queues", |s| s.queues[0].size = 0x4000),
            ("queues", |s| s.queues[0].desc = 8),
            ("queues", |s| s.queues[0].avail = MEMORY_LEN),
            ("queues", |s| s.queues[0].used = u64::MAX - 3),
        ];
        let mut target = subject.driver();
        let fresh = target.transport.save();
        for (field, break_it) in damage {
            let mut state = good.clone();
            break_it(&mut state);
            let error = target.transport.restore(&state).unwrap_err();
            assert_eq!(error.field, field, "{name}: {error}");
            assert_eq!(target.transport.save(), fresh, "{name}: {field}");
        }
        for other in DEVICES {
            if other.name != name {
                let mut state = good.clone();
                state.device = other.driver().transport.save().device;
                assert!(target.transport.restore(&state).is_err(), "{name}");
                assert_eq!(target.transport.save(), fresh, "{name}");
            }
        }
    }
}

#[test]
fn a_notification_before_driver_ok_does_nothing_and_is_not_needed_after_it() {
    for subject in DEVICES {
        let Subject { name, queue, .. } = subject;
        let mut driver = subject.driver();
        let features = driver.offered();
        for index in [0, 1, 0xffff] {
            driver.notify(index);
        }
        assert!(driver.negotiate(features));
        let count = u16::try_from(driver.transport.core_mut().queue_count()).unwrap();
        for index in 0..count {
            let queue = DriverQueue::new(driver.memory.clone(), index, 16);
            driver.place_queue(index, &queue);
            driver.queues.push(queue);
        }
        let answer = (subject.ask)(&mut driver);
        driver.notify(queue);
        assert_eq!(driver.queues[usize::from(queue)].used_idx(), 0, "{name}");
        assert!(!driver.transport.core_mut().is_running(), "{name}");
        driver.drive();
        assert_eq!(driver.next_used(queue), answer, "{name}");
    }
}

#[test]
fn a_fault_is_told_once_and_cured_by_a_reset() {
    for subject in DEVICES {
        let Subject { name, queue, .. } = subject;
        let mut driver = subject.driver();
        let features = driver.offered();
        driver.start(features, 16);
        driver.queues[usize::from(queue)].set_avail_idx(17);
        driver.notify(queue);
        while driver.read(0x070) & 0x40 == 0 {
            driver.wait_interrupt();
        }
        driver.notify(queue);
        driver.transport.core_mut().pause().unwrap();
        let events = driver.events.take();
        let [GuestEvent::DeviceNeedsReset { id, reason }] = &events[..] else {
            panic!("{name}: {events:?}")
        };
        assert_eq!(
            (&**id, &**reason),
            ("dev0", "available index 17 is more than a queue ahead of 0")
        );
        // A faulted device is not started by a resume, here or where its state goes.
        driver.transport.core_mut().resume();
        assert!(!driver.transport.core_mut().is_running(), "{name}");
        let state = saved(&mut driver);
        let mut other = subject.driver();
        other.transport.restore(&state).unwrap();
        other.transport.core_mut().resume();
        assert!(!other.transport.core_mut().is_running() && other.read(0x070) & 0x40 != 0);

        driver.start(features, 16);
        subject.exchange(&mut driver);
        assert_eq!(driver.events.take(), []);
    }
}

/// A register write by a driver that has lost its mind: mostly at registers, mostly small values.
fn register_write() -> impl Strategy<Value = (u64, u32)> {
    let offset = prop_oneof![
        8 => (0_u64..0x40).prop_map(|n| n * 4),
        1 => 0_u64..0x1000,
    ];
    let value = prop_oneof![
        4 => 0_u32..32,
        2 => (0_u32..32).prop_map(|bit| 1 << bit),
        1 => any::<u32>(),
    ];
    (offset, value)
}

/// A descriptor that is mostly right: addresses in or near memory, short tables, all flags.
fn any_descriptor() -> impl Strategy<Value = [u8; 16]> {
    let address = prop_oneof![
        6 => (0_u64..0x100).prop_map(|n| DATA + n * 16),
        1 => Just(MEMORY_LEN / 2 - 8),
        1 => (MEMORY_LEN - 0x20)..(MEMORY_LEN + 0x20),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![
        4 => Just(16_u32), 3 => Just(1), 3 => Just(512), 1 => Just(0), 1 => Just(32),
        1 => any::<u32>(),
    ];
    (address, len, 0_u16..8, 0_u16..18)
        .prop_map(|(address, len, flags, next)| descriptor(address, len, flags, next))
}

#[derive(Debug, Clone)]
struct Hostile {
    features: u64,
    before: Vec<(u64, u32)>,
    descriptors: Vec<[u8; 16]>,
    tables: Vec<[u8; 16]>,
    heads: Vec<u16>,
    jump: Option<u16>,
    after: Vec<(u64, u32)>,
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let optional = prop_oneof![
        Just(0),
        Just(F_EVENT_IDX),
        Just(F_INDIRECT_DESC),
        Just(F_EVENT_IDX | F_INDIRECT_DESC),
    ];
    (
        optional,
        prop::collection::vec(register_write(), 0..20),
        prop::collection::vec(any_descriptor(), 16),
        prop::collection::vec(any_descriptor(), 32),
        prop::collection::vec(0_u16..17, 0..16),
        prop::option::weighted(0.1, any::<u16>()),
        prop::collection::vec(register_write(), 0..40),
    )
        .prop_map(
            |(optional, before, descriptors, tables, heads, jump, after)| Hostile {
                features: F_VERSION_1 | optional,
                before,
                descriptors,
                tables,
                heads,
                jump,
                after,
            },
        )
}

/// Does all of `case` to queue `place` of a device; then it must still work after a reset.
fn survive(subject: &Subject, place: usize, case: &Hostile) {
    let mut driver = subject.driver();
    for &(offset, value) in &case.before {
        driver.write(offset, value);
        driver.read(offset);
    }
    driver.start(case.features, 16);
    for (raw, at) in case.tables.iter().zip((DATA..).step_by(16)) {
        driver.memory.write_slice(raw, GuestAddress(at)).unwrap();
    }
    let queue = &mut driver.queues[place];
    for (index, raw) in (0..).zip(&case.descriptors) {
        queue.set_descriptor(index, *raw);
    }
    for &head in &case.heads {
        queue.publish(head);
    }
    if let Some(index) = case.jump {
        queue.set_avail_idx(index);
    }
    driver.notify(u16::try_from(place).unwrap());
    for &(offset, value) in &case.after {
        driver.write(offset, value);
        driver.read(offset);
    }
    // Whatever it is now, it can be paused, and saved, and that state restored.
    let state = saved(&mut driver);
    let taken = state.queues[place].next_avail;
    assert!(taken <= 16 || case.jump.is_some(), "took {taken}");
    let mut other = subject.in_memory(&driver.memory);
    other.transport.restore(&state).unwrap();
    driver.events.take();
    driver.start(case.features, 16);
    subject.exchange(&mut driver);
    assert_eq!(driver.events.take(), []);
    // The I/O thread would keep the worker, and its descriptors, until the tests end.
    saved(&mut driver);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_hostile_driver_is_survived(case in hostile()) {
        for subject in DEVICES {
            survive(&subject, subject.queue.into(), &case);
        }
    }

    /// What a socket device has to say goes into a hostile receive queue.
    #[test]
    fn a_hostile_receive_queue_is_survived(case in hostile()) {
        survive(&DEVICES[2], 0, &case);
    }
}
