//! What must hold of every virtio device, whatever it does: applied to each by its own tests below.

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::blk::{BlkOptions, ErrorPolicy, VirtioBlk};
use super::device::VirtioDevice;
use super::fake_driver::{
    DATA, Driver, DriverQueue, Events, MEMORY_LEN, descriptor, readable, writable,
};
use super::rng::{HostEntropy, Rng};
use super::spec::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};
use super::transport::saved::TransportState;
use crate::disk::CacheMode;
use crate::disk::raw::RawDisk;
use crate::events::GuestEvent;
use crate::io_thread::IoThread;
use crate::saved::Saved;

/// Breaks one field of a state.
type Damage = fn(&mut TransportState);
/// Makes a device that raises its events there.
type Make = fn(&Arc<Events>) -> Box<dyn VirtioDevice>;

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

const DEVICES: [(&str, Make); 2] = [("blk", blk), ("rng", rng)];

/// One I/O thread for all tests: it must survive them all.
fn io() -> &'static IoThread {
    static IO: OnceLock<IoThread> = OnceLock::new();
    IO.get_or_init(|| IoThread::spawn(|| {}).unwrap())
}

fn driver(make: Make) -> Driver {
    let events = Arc::new(Events::default());
    Driver::new(make(&events), io().handle(), events)
}

/// Asks for something every device here can answer: a header and a byte to write are a flush to
/// the one, and a byte of entropy to the other.
fn exchange(driver: &mut Driver) {
    let mut header = [0; 16];
    header[0] = 4;
    driver
        .memory
        .write_slice(&header, GuestAddress(DATA))
        .unwrap();
    let head = driver.queues[0].add(&[readable(DATA, 16), writable(DATA + 0x100, 1)]);
    assert_eq!(driver.run(0), (head, 1));
}

fn saved(driver: &mut Driver) -> TransportState {
    driver.transport.core_mut().pause().unwrap();
    driver.transport.save()
}

#[test]
fn a_device_works_again_after_each_of_two_resets() {
    for (name, make) in DEVICES {
        let mut driver = driver(make);
        let fresh = saved(&mut driver);
        for _ in 0..2 {
            let features = driver.offered();
            driver.start(features, 16);
            exchange(&mut driver);
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
    for (name, make) in DEVICES {
        let mut source = driver(make);
        let features = source.offered();
        source.start(features, 16);
        for _ in 0..20 {
            exchange(&mut source);
        }
        let state = saved(&mut source);
        assert!(
            state.queues[0].next_used == 20 && state.queues[0].ready,
            "{name}"
        );
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(
            serde_json::from_str::<TransportState>(&text).unwrap(),
            state,
            "{name}"
        );

        let events = Arc::new(Events::default());
        let memory = source.memory.clone();
        let mut target = Driver::with_memory(make(&events), io().handle(), events, memory);
        target.transport.restore(&state).unwrap();
        assert_eq!(target.transport.save(), state, "{name}");
        target.queues = std::mem::take(&mut source.queues);
        // Made available while nobody looked: found without a notification.
        let head = target.queues[0].add(&[readable(DATA, 16), writable(DATA + 0x100, 1)]);
        target.transport.core_mut().resume();
        assert_eq!(target.next_used(0), (head, 1), "{name}");
        exchange(&mut target);
    }
}

#[test]
fn every_field_of_a_hostile_state_is_refused_and_changes_nothing() {
    for (name, make) in DEVICES {
        let mut source = driver(make);
        let features = source.offered();
        source.start(features, 16);
        exchange(&mut source);
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
        let mut target = driver(make);
        let fresh = target.transport.save();
        for (field, break_it) in damage {
            let mut state = good.clone();
            break_it(&mut state);
            let error = target.transport.restore(&state).unwrap_err();
            assert_eq!(error.field, field, "{name}: {error}");
            assert_eq!(target.transport.save(), fresh, "{name}: {field}");
        }
        for (other, make_other) in DEVICES {
            if other != name {
                let mut state = good.clone();
                state.device = driver(make_other).transport.save().device;
                assert!(target.transport.restore(&state).is_err(), "{name}");
                assert_eq!(target.transport.save(), fresh, "{name}");
            }
        }
    }
}

#[test]
fn a_notification_before_driver_ok_does_nothing_and_is_not_needed_after_it() {
    for (name, make) in DEVICES {
        let mut driver = driver(make);
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
        driver
            .memory
            .write_slice(&[4, 0, 0, 0], GuestAddress(DATA))
            .unwrap();
        let head = driver.queues[0].add(&[readable(DATA, 16), writable(DATA + 0x100, 1)]);
        driver.notify(0);
        assert_eq!(driver.queues[0].used_idx(), 0, "{name}");
        assert!(!driver.transport.core_mut().is_running(), "{name}");
        driver.drive();
        assert_eq!(driver.next_used(0), (head, 1), "{name}");
    }
}

#[test]
fn a_fault_is_told_once_and_cured_by_a_reset() {
    for (name, make) in DEVICES {
        let mut driver = driver(make);
        let features = driver.offered();
        driver.start(features, 16);
        driver.queues[0].set_avail_idx(17);
        driver.notify(0);
        while driver.read(0x070) & 0x40 == 0 {
            driver.wait_interrupt();
        }
        driver.notify(0);
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
        let mut other = self::driver(make);
        other.transport.restore(&state).unwrap();
        other.transport.core_mut().resume();
        assert!(!other.transport.core_mut().is_running() && other.read(0x070) & 0x40 != 0);

        driver.start(features, 16);
        exchange(&mut driver);
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

/// Does all of `case` to a device; then it must still work after a reset.
fn survive(make: Make, case: &Hostile) {
    let mut driver = driver(make);
    for &(offset, value) in &case.before {
        driver.write(offset, value);
        driver.read(offset);
    }
    driver.start(case.features, 16);
    for (raw, at) in case.tables.iter().zip((DATA..).step_by(16)) {
        driver.memory.write_slice(raw, GuestAddress(at)).unwrap();
    }
    for (index, raw) in (0..).zip(&case.descriptors) {
        driver.queues[0].set_descriptor(index, *raw);
    }
    for &head in &case.heads {
        driver.queues[0].publish(head);
    }
    if let Some(index) = case.jump {
        driver.queues[0].set_avail_idx(index);
    }
    driver.notify(0);
    for &(offset, value) in &case.after {
        driver.write(offset, value);
        driver.read(offset);
    }
    // Whatever it is now, it can be paused, and saved, and that state restored.
    let state = saved(&mut driver);
    let taken = state.queues[0].next_avail;
    assert!(taken <= 16 || case.jump.is_some(), "took {taken}");
    let events = Arc::new(Events::default());
    let memory = driver.memory.clone();
    let mut other = Driver::with_memory(make(&events), io().handle(), events, memory);
    other.transport.restore(&state).unwrap();
    driver.events.take();
    driver.start(case.features, 16);
    exchange(&mut driver);
    assert_eq!(driver.events.take(), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_hostile_driver_is_survived(case in hostile()) {
        for (_, make) in DEVICES {
            survive(make, &case);
        }
    }
}
