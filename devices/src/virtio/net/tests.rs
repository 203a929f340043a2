//! The card as its driver and its network see it.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::config::*;
use super::*;
use crate::events::GuestEvent;
use crate::io_thread::IoThread;
use crate::net::fake::{self, FakePeer};
use crate::net::{FRAME_MAX, HEADER_LEN};
use crate::rate_limit::Rate;
use crate::virtio::fake_driver::{Buffer, DATA, Driver, Events, readable, writable};
use crate::virtio::spec::{F_EVENT_IDX, F_VERSION_1};

const MAC: MacAddress = [2, 0, 0, 0, 0, 1];
const HEADER: u64 = HEADER_LEN as u64;
const RX: usize = 0;
const TX: usize = 1;

/// A card with its driver, its network, and the owner's handle.
struct Bench {
    _io: IoThread,
    driver: Driver,
    peer: FakePeer,
    card: NetHandle,
}

fn bench_with(queues: u16, limits: NetLimits) -> Bench {
    let io = IoThread::spawn(|| {}).unwrap();
    let events = Arc::new(Events::default());
    let (backend, peer) = fake::pair(queues);
    let options = NetOptions {
        id: Arc::from("net0"),
        mac: MAC,
        mtu: Some(1500),
        limits,
        events: events.clone(),
    };
    let device = VirtioNet::new(Box::new(backend), options).unwrap();
    let card = device.handle();
    let driver = Driver::new(Box::new(device), io.handle(), events);
    Bench {
        _io: io,
        driver,
        peer,
        card,
    }
}

/// One pair of queues, started with all features but `without`.
fn bench(without: u64) -> Bench {
    let mut bench = bench_with(1, NetLimits::default());
    let features = bench.driver.offered() & !without;
    bench.driver.start(features, 16);
    bench
}

impl Bench {
    fn put(&self, at: u64, bytes: &[u8]) {
        self.driver
            .memory
            .write_slice(bytes, GuestAddress(at))
            .unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.driver
            .memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        bytes
    }

    /// Makes receive buffers available, and tells.
    fn give(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.driver.queues[RX].add(buffers);
        self.driver.notify(0);
        head
    }

    fn command(&mut self, class: u8, command: u8, data: &[u8]) -> u8 {
        let at = DATA + 0x10_0000;
        self.put(at, &[&[class, command], data].concat());
        self.put(at + 0x1000, &[0xee]);
        let len = 2 + u32::try_from(data.len()).unwrap();
        let control = u16::try_from(self.driver.queues.len()).unwrap() - 1;
        self.driver.queues[usize::from(control)]
            .add(&[readable(at, len), writable(at + 0x1000, 1)]);
        assert_eq!(self.driver.run(control).1, 1);
        self.get(at + 0x1000, 1)[0]
    }

    fn counter(&self, wanted: &str) -> u64 {
        let mut each = self.card.stats().each();
        each.find(|(name, _)| *name == wanted).unwrap().1
    }

    fn pause(&mut self) {
        self.driver.transport.core_mut().pause().unwrap();
    }

    fn resume(&mut self) {
        self.driver.transport.core_mut().resume();
    }

    fn set_link(&mut self, up: bool) {
        let core = self.driver.transport.core_mut();
        core.device_mut::<VirtioNet>().unwrap().set_link(up);
        core.config_changed();
    }
}

/// A frame to `to` of `len` bytes, none like another.
fn frame_to(to: MacAddress, len: usize) -> Vec<u8> {
    let mut frame = [&to[..], &[2, 0, 0, 0, 0, 9, 0x88, 0xb5]].concat();
    frame.extend((frame.len()..len).map(|n| (n % 251) as u8));
    frame
}

fn frame(len: usize) -> Vec<u8> {
    frame_to(MAC, len)
}

#[test]
fn a_frame_is_sent_from_however_many_pieces() {
    let mut b = bench(0);
    let sent = frame(1000);
    b.put(DATA, &[0; HEADER_LEN]);
    b.put(DATA + HEADER, &sent);
    let whole = HEADER_LEN as u32 + 1000;
    for pieces in [
        vec![readable(DATA, whole)],
        vec![readable(DATA, 12), readable(DATA + 12, 1000)],
        vec![
            readable(DATA, 5),
            readable(DATA + 5, 8),
            readable(DATA + 13, whole - 13),
        ],
    ] {
        let head = b.driver.queues[TX].add(&pieces);
        assert_eq!(b.driver.run(1), (head, 0));
        assert_eq!(b.peer.frame(), [&[0; HEADER_LEN][..], &sent].concat());
    }
    assert_eq!((b.counter("tx-frames"), b.counter("tx-bytes")), (3, 3000));
}

#[test]
fn headers_are_checked_and_passed_on() {
    let mut b = bench(0);
    // TCP over IPv4, with a number of buffers that only the device may set.
    let header = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 7, 7];
    b.put(DATA, &header);
    b.put(DATA + HEADER, &frame(3000));
    b.driver.queues[TX].add(&[readable(DATA, 3012)]);
    b.driver.run(1);
    assert_eq!(
        b.peer.frame()[..12],
        [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]
    );
    // A segmentation that does not exist is dropped; the next frame is sent.
    b.put(DATA + 1, &[9]);
    b.driver.queues[TX].add(&[readable(DATA, 3012)]);
    assert_eq!(b.driver.run(1).1, 0);
    b.put(DATA, &[0; 12]);
    b.driver.queues[TX].add(&[readable(DATA, 112)]);
    b.driver.run(1);
    assert_eq!(b.peer.frame().len(), 112);
    assert_eq!(b.counter("tx-invalid"), 1);
}

#[test]
fn a_frame_arrives_in_as_few_buffers_as_it_needs() {
    let mut b = bench(0);
    let at = |n: u64| DATA + n * 0x1000;
    let heads = [0, 1, 2, 3].map(|n| b.give(&[writable(at(n), 100)]));
    // Waits for the card to have seen them, by a command that is answered after.
    let short = frame(60);
    b.peer.send(&short);
    assert_eq!(b.driver.next_used(0), (heads[0], 72));
    assert_eq!(b.get(at(0), 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(b.get(at(0) + HEADER, 60), short);
    let long = frame(250);
    b.peer.send(&long);
    assert_eq!(b.driver.next_used(0), (heads[1], 100));
    assert_eq!(b.driver.next_used(0), (heads[2], 100));
    assert_eq!(b.driver.next_used(0), (heads[3], 62));
    assert_eq!(b.get(at(1) + 10, 2), [3, 0]);
    let got = [b.get(at(1) + 12, 88), b.get(at(2), 100), b.get(at(3), 62)].concat();
    assert_eq!(got, long);
    assert_eq!((b.counter("rx-frames"), b.counter("rx-bytes")), (2, 310));
}

#[test]
fn a_frame_waits_for_the_buffers_it_needs() {
    let mut b = bench(0);
    let sent = frame(250);
    b.peer.send(&sent);
    let first = b.give(&[writable(DATA, 50), writable(DATA + 0x100, 50)]);
    // One is too few, and so are two.
    let second = b.give(&[writable(DATA + 0x200, 100)]);
    b.pause();
    assert_eq!(b.driver.queues[RX].used_idx(), 0);
    // Taken back in between, the frame is lost, but no buffer is.
    b.resume();
    b.peer.send(&sent);
    let third = b.give(&[writable(DATA + 0x300, 100)]);
    assert_eq!(b.driver.next_used(0), (first, 100));
    assert_eq!(b.driver.next_used(0), (second, 100));
    assert_eq!(b.driver.next_used(0), (third, 62));
    let got = [
        b.get(DATA + 12, 38),
        b.get(DATA + 0x100, 50),
        b.get(DATA + 0x200, 100),
        b.get(DATA + 0x300, 62),
    ];
    assert_eq!(got.concat(), sent);
}

#[test]
fn a_frame_that_no_ring_can_hold_is_dropped_and_the_next_arrives() {
    let mut b = bench(0);
    let heads = [0; 16].map(|_| b.give(&[writable(DATA, 20)]));
    b.peer.send(&frame(400));
    b.peer.send(&frame(20));
    assert_eq!(b.driver.next_used(0), (heads[0], 20));
    assert_eq!(b.driver.next_used(0), (heads[1], 12));
    assert_eq!(b.counter("rx-dropped"), 1);
}

#[test]
fn the_longest_frame_passes_and_a_longer_one_does_not() {
    let mut b = bench(0);
    let longest = usize::try_from(FRAME_MAX).unwrap();
    let head = b.give(&[writable(DATA, 0x2_0000)]);
    b.peer.send(&frame(longest + 1));
    b.peer.send(&frame(longest));
    assert_eq!(b.driver.next_used(0), (head, FRAME_MAX + 12));
    assert_eq!(b.get(DATA + HEADER, longest), frame(longest));
    assert_eq!(b.counter("rx-dropped"), 1);
}

#[test]
fn without_mergeable_buffers_a_frame_has_one() {
    let mut b = bench(F_MRG_RXBUF);
    let first = b.give(&[writable(DATA, 112)]);
    let second = b.give(&[writable(DATA + 0x1000, 112)]);
    for len in [101, 100, 60] {
        b.peer.send(&frame(len));
    }
    assert_eq!(b.driver.next_used(0), (first, 112));
    assert_eq!(b.driver.next_used(0), (second, 72));
    assert_eq!(b.get(DATA + 10, 2), [1, 0]);
    assert_eq!(b.get(DATA + HEADER, 100), frame(100));
    assert_eq!(b.counter("rx-dropped"), 1);
}

#[test]
fn without_guest_checksums_no_flag_says_anything_of_them() {
    for (without, expected) in [(0, 2), (F_GUEST_CSUM, 0)] {
        let mut b = bench(without);
        b.give(&[writable(DATA, 200)]);
        let whole = [&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &frame(60)].concat();
        b.peer.queues[0].send(&whole).unwrap();
        b.driver.next_used(0);
        assert_eq!(b.get(DATA, 1), [expected]);
    }
}

#[test]
fn a_full_backend_is_waited_for_and_nothing_is_lost() {
    let mut b = bench(0);
    b.put(DATA, &[0; HEADER_LEN]);
    const FRAMES: u64 = 600;
    let mut sent = 0;
    let mut received = 0;
    let mut outstanding = 0;
    while received < FRAMES {
        // The socket takes fewer than the ring.
        while outstanding < 8 && sent < FRAMES {
            let at = DATA + 0x1000 + sent * 64;
            b.put(at, &frame(60));
            b.put(at + 14, &sent.to_le_bytes());
            b.driver.queues[TX].add(&[readable(DATA, 12), readable(at, 60)]);
            outstanding += 1;
            sent += 1;
        }
        b.driver.notify(1);
        if b.counter("tx-blocked") == 0 && sent < FRAMES {
            // Until it is full nothing is taken out.
            while b.counter("tx-blocked") == 0 && outstanding > 0 {
                match b.driver.queues[TX].pop_used() {
                    Some(_) => outstanding -= 1,
                    None => std::thread::yield_now(),
                }
            }
            continue;
        }
        let got = b.peer.frame();
        assert_eq!(got[26..34], received.to_le_bytes());
        received += 1;
        while b.driver.queues[TX].pop_used().is_some() {
            outstanding -= 1;
        }
    }
    assert!(b.counter("tx-blocked") > 0);
    while b.driver.queues[TX].used_idx() != (FRAMES % 0x1_0000) as u16 {
        b.driver.wait_interrupt();
    }
    assert_eq!(
        (b.counter("tx-frames"), b.counter("tx-dropped")),
        (FRAMES, 0)
    );
}

#[test]
fn taking_the_worker_back_loses_no_chain() {
    let mut b = bench(0);
    let received = [0, 1, 2].map(|n| b.give(&[writable(DATA + n * 0x1000, 500)]));
    b.put(DATA + 0x8000, &[0; 200]);
    for head in received {
        b.pause();
        b.resume();
        b.peer.send(&frame(60));
        assert_eq!(b.driver.next_used(0), (head, 72));
        let head = b.driver.queues[TX].add(&[readable(DATA + 0x8000, 100)]);
        assert_eq!(b.driver.run(1), (head, 0));
        assert_eq!(b.peer.frame().len(), 100);
    }
}

#[test]
fn the_driver_says_what_it_receives_and_the_owner_is_told_once() {
    let mut b = bench(0);
    let group = [0x33, 0x33, 0, 0, 0, 5];
    b.give(&[writable(DATA, 500)]);
    // At first everything.
    b.peer.send(&frame_to(group, 60));
    b.driver.next_used(0);
    assert_eq!(b.command(control::CLASS_RX, 0, &[0]), control::OK);
    assert_eq!(b.command(control::CLASS_RX, 0, &[]), control::ERR);
    b.give(&[writable(DATA, 500)]);
    b.peer.send(&frame_to(group, 60));
    b.peer.send(&frame_to([2, 5, 5, 5, 5, 5], 60));
    b.peer.send(&frame_to(MAC, 61));
    assert_eq!(b.driver.next_used(0).1, 73);
    assert_eq!(b.counter("rx-filtered"), 2);
    let told = [GuestEvent::NicRxFilterChanged {
        id: Arc::from("net0"),
    }];
    assert_eq!(b.driver.events.take(), told);
    let mac = [2, 7, 7, 7, 7, 7];
    assert_eq!(
        b.command(control::CLASS_MAC, control::MAC_ADDR_SET, &mac),
        0
    );
    assert_eq!(b.driver.events.take(), []);
    let mut space = [0; 6];
    b.driver.transport.core_mut().read_config(0, &mut space);
    let filter = b.card.filter();
    assert_eq!((space, filter.mac, filter.promiscuous), (mac, mac, false));
    assert_eq!(b.command(control::CLASS_RX, 1, &[1]), control::OK);
    assert_eq!(b.driver.events.take(), told);
    assert_eq!(
        (b.counter("control-done"), b.counter("control-refused")),
        (3, 1)
    );
    // A reset puts the card's own address back.
    b.driver.transport.reset();
    assert_eq!(b.card.filter(), RxFilter::new(MAC));
}

#[test]
fn the_backend_is_told_what_the_driver_takes() {
    let mut b = bench(F_GUEST_USO6);
    let asked = b.peer.asked().offloads;
    assert!(asked.csum && asked.tso4 && asked.tso6 && asked.ufo && !asked.uso);
    let only = (F_GUEST_CSUM | F_GUEST_TSO4).to_le_bytes();
    assert_eq!(b.command(control::CLASS_GUEST_OFFLOADS, 0, &only), 0);
    let asked = b.peer.asked().offloads;
    assert!(asked.csum && asked.tso4 && !asked.tso6);
    // It stays over a pause, and ends with a reset.
    b.pause();
    b.resume();
    assert_eq!(b.peer.asked().offloads, asked);
    b.driver.transport.reset();
    assert_eq!(b.peer.asked().offloads, Offloads::default());
}

#[test]
fn pairs_of_queues_come_into_use_as_the_driver_says() {
    let mut b = bench_with(2, NetLimits::default());
    let features = b.driver.offered();
    assert!(features & F_MQ != 0);
    b.driver.start(features, 16);
    assert_eq!((b.driver.queues.len(), b.peer.asked().active), (5, 1));
    let head = b.driver.queues[2].add(&[writable(DATA, 500)]);
    b.driver.notify(2);
    let whole = [&[0; HEADER_LEN][..], &frame(60)].concat();
    b.peer.queues[1].send(&whole).unwrap();
    assert_eq!(b.command(control::CLASS_MQ, 0, &[3, 0]), control::ERR);
    assert_eq!(b.driver.queues[2].used_idx(), 0);
    assert_eq!(b.command(control::CLASS_MQ, 0, &[2, 0]), control::OK);
    assert_eq!(b.driver.next_used(2), (head, 72));
    assert_eq!(b.peer.asked().active, 2);
    b.put(DATA, &[0; 100]);
    let head = b.driver.queues[3].add(&[readable(DATA, 100)]);
    assert_eq!(b.driver.run(3), (head, 0));
    assert_eq!(b.peer.queues[1].recv(&mut [0; 200]).unwrap(), 100);
}

#[test]
fn without_mq_the_control_queue_is_the_third() {
    let mut b = bench_with(2, NetLimits::default());
    let features = b.driver.offered() & !F_MQ;
    b.driver.start(features, 16);
    b.driver.queues.truncate(3);
    assert_eq!(b.command(control::CLASS_RX, 0, &[0]), control::OK);
    assert_eq!(b.command(control::CLASS_MQ, 0, &[1, 0]), control::ERR);
}

#[test]
fn with_the_link_down_nothing_passes_and_nothing_old_comes_later() {
    let mut b = bench(0);
    b.give(&[writable(DATA, 500)]);
    b.set_link(false);
    assert_eq!(b.driver.acknowledge() & 2, 2);
    assert_eq!(b.driver.read(0x100 + 4) >> 16, 0);
    b.peer.send(&frame(99));
    b.put(DATA + 0x8000, &[0; 100]);
    let head = b.driver.queues[TX].add(&[readable(DATA + 0x8000, 100)]);
    assert_eq!(b.driver.run(1), (head, 0));
    while b.counter("rx-dropped") == 0 {
        std::thread::yield_now();
    }
    b.set_link(true);
    assert_eq!(b.driver.read(0x100 + 4) >> 16, 1);
    b.peer.send(&frame(60));
    assert_eq!(b.driver.next_used(0).1, 72);
    assert_eq!((b.counter("tx-dropped"), b.counter("rx-dropped")), (1, 1));
    assert!(b.card.carrier());
}

#[test]
fn a_network_that_goes_takes_the_carrier_along_and_nothing_else() {
    let mut b = bench(0);
    b.give(&[writable(DATA, 500)]);
    // A datagram socket whose peer has gone says so once it is written to.
    b.peer.queues.clear();
    b.put(DATA + 0x8000, &[0; 100]);
    let head = b.driver.queues[TX].add(&[readable(DATA + 0x8000, 100)]);
    assert_eq!(b.driver.run(1), (head, 0));
    assert!(b.counter("tx-dropped") == 1);
    assert_eq!(b.command(control::CLASS_RX, 0, &[1]), control::OK);
    assert_eq!(b.driver.read(0x070) & 0x40, 0);
}

#[test]
fn a_driver_that_is_asked_to_announces_itself() {
    let mut b = bench(0);
    let core = b.driver.transport.core_mut();
    core.device_mut::<VirtioNet>().unwrap().announce();
    core.config_changed();
    assert_eq!(b.driver.wait_interrupt() & 2, 2);
    assert_eq!(b.driver.read(0x104) >> 16, 3);
    assert_eq!(b.command(control::CLASS_ANNOUNCE, 0, &[]), control::OK);
    assert_eq!(b.driver.read(0x104) >> 16, 1);
}

#[test]
fn limits_hold_frames_back_and_can_be_lifted() {
    let slow = Limits {
        bytes: None,
        // The first passes, the second in eleven days.
        operations: Some(
            Rate {
                per_second: 1,
                burst: 1,
            }
            .with_burst(1),
        ),
    };
    let never = Limits {
        bytes: Some(Rate {
            per_second: 1,
            burst: 1,
        }),
        ..slow
    };
    let limits = NetLimits {
        rx: never,
        tx: never,
    };
    let mut b = bench_with(1, limits);
    let features = b.driver.offered();
    b.driver.start(features, 16);
    b.put(DATA + 0x8000, &[0; 0x4000]);
    let first = b.driver.queues[TX].add(&[readable(DATA + 0x8000, 0x3000)]);
    let second = b.driver.queues[TX].add(&[readable(DATA + 0x8000, 100)]);
    assert_eq!(b.driver.run(1), (first, 0));
    while b.counter("tx-throttled") == 0 {
        std::thread::yield_now();
    }
    b.give(&[writable(DATA, 500)]);
    b.give(&[writable(DATA + 0x1000, 500)]);
    b.peer.send(&frame(400));
    b.peer.send(&frame(60));
    b.driver.next_used(0);
    while b.counter("rx-throttled") == 0 {
        std::thread::yield_now();
    }
    // What waits is not lost by a pause.
    b.pause();
    b.resume();
    assert_eq!(b.driver.queues[TX].used_idx(), 1);
    assert_eq!(b.driver.queues[RX].used_idx(), 1);
    b.card.set_limits(NetLimits::default());
    assert_eq!(b.driver.next_used(1), (second, 0));
    assert_eq!(b.driver.next_used(0).1, 72);
}

#[test]
fn a_limit_ends_by_itself() {
    let quick = Limits {
        bytes: None,
        operations: Some(Rate {
            per_second: 200,
            burst: 1,
        }),
    };
    let limits = NetLimits {
        rx: quick,
        tx: quick,
    };
    let mut b = bench_with(1, limits);
    let features = b.driver.offered();
    b.driver.start(features, 16);
    b.put(DATA, &[0; 100]);
    for _ in 0..4 {
        b.driver.queues[TX].add(&[readable(DATA, 100)]);
        b.give(&[writable(DATA + 0x1000, 500)]);
        b.peer.send(&frame(60));
    }
    b.driver.notify(1);
    for _ in 0..4 {
        b.driver.next_used(1);
        b.driver.next_used(0);
    }
    assert!(b.counter("tx-throttled") > 0 && b.counter("rx-throttled") > 0);
}

#[test]
fn what_breaks_the_rules_stops_the_card_until_a_reset() {
    type Break = fn(&mut Bench);
    let cases: [(&str, Break); 6] = [
        ("only to be read", |b| _ = b.give(&[readable(DATA, 100)])),
        ("of 11 bytes", |b| _ = b.give(&[writable(DATA, 11)])),
        ("to be written", |b| {
            b.driver.queues[TX].add(&[readable(DATA, 20), writable(DATA, 20)]);
            b.driver.notify(1);
        }),
        ("header of 11 bytes", |b| {
            b.driver.queues[TX].add(&[readable(DATA, 11)]);
            b.driver.notify(1);
        }),
        ("without room for its answer", |b| {
            b.driver.queues[2].add(&[readable(DATA, 3)]);
            b.driver.notify(2);
        }),
        ("a queue ahead", |b| {
            b.driver.queues[RX].set_avail_idx(100);
            b.driver.notify(0);
        }),
    ];
    for (expected, break_it) in cases {
        let mut b = bench(0);
        break_it(&mut b);
        while b.driver.read(0x070) & 0x40 == 0 {
            b.driver.wait_interrupt();
        }
        // Frames that come in now wake nobody for long.
        b.peer.send(&frame(60));
        b.pause();
        let events = b.driver.events.take();
        let [GuestEvent::DeviceNeedsReset { reason, .. }] = &events[..] else {
            panic!("{expected}: {events:?}")
        };
        assert!(reason.contains(expected), "{reason}");
        let features = b.driver.offered();
        b.driver.start(features, 16);
        b.give(&[writable(DATA, 500)]);
        assert_eq!(b.driver.next_used(0).1, 72);
    }
}

#[test]
fn too_many_pieces_are_too_many_for_one_frame_only() {
    let mut b = bench(0);
    let pieces = vec![readable(DATA, 1); 1020];
    b.put(DATA, &[0; 200]);
    b.driver.queues[TX].add_indirect(DATA + 0x1_0000, &pieces);
    b.driver.run(1);
    assert_eq!(b.counter("tx-invalid"), 1);
    let pieces = vec![readable(DATA, 1); 1000];
    b.driver.queues[TX].add_indirect(DATA + 0x1_0000, &pieces);
    b.driver.run(1);
    assert_eq!(b.peer.frame().len(), 1000);
    // To receive into such a chain its first pieces are used.
    let pieces = vec![writable(DATA, 1); 1020];
    let head = b.driver.queues[RX].add_indirect(DATA + 0x1_0000, &pieces);
    b.driver.notify(0);
    b.peer.send(&frame(60));
    assert_eq!(b.driver.next_used(0), (head, 72));
}

#[test]
fn every_field_of_a_hostile_state_is_refused() {
    let mut b = bench(0);
    b.pause();
    let core = b.driver.transport.core_mut();
    let device = core.device_mut::<VirtioNet>().unwrap();
    let DeviceState::Net(good) = device.save() else {
        panic!("another device's state")
    };
    type Damage = fn(&mut NetState);
    let damage: [(&str, Damage); 8] = [
        ("pairs", |s| s.pairs = 0),
        ("pairs", |s| s.pairs = 2),
        ("offloads", |s| s.offloads = Some(1)),
        ("offloads", |s| s.offloads = Some(u64::MAX)),
        ("filter.unicast", |s| {
            s.filter.unicast.addresses = vec![MAC; 65];
        }),
        ("filter.multicast", |s| {
            s.filter.multicast.addresses = vec![MAC; 65];
        }),
        ("filter.vlans", |s| s.filter.vlans = Some(vec![4096])),
        ("filter.vlans", |s| s.filter.vlans = Some(vec![2, 2])),
    ];
    for (field, break_it) in damage {
        let mut state = good.clone();
        break_it(&mut state);
        let error = device.restore(&DeviceState::Net(state)).unwrap_err();
        assert_eq!(error.field, field);
        assert_eq!(device.save(), DeviceState::Net(good.clone()));
    }
    let mut other = good.clone();
    other.filter.vlans = Some(vec![0, 7, 4095]);
    other.filter.unicast.addresses = vec![[2, 1, 1, 1, 1, 1]];
    other.filter.multicast.overflow = true;
    other.offloads = Some(F_GUEST_CSUM);
    (other.link_up, other.announce) = (false, true);
    device.restore(&DeviceState::Net(other.clone())).unwrap();
    assert_eq!(device.save(), DeviceState::Net(other));
}

#[test]
fn a_plain_driver_of_the_standard_works() {
    // Nothing but what every driver must have; legacy rules do not apply.
    let mut b = bench(!(F_VERSION_1 | F_EVENT_IDX));
    b.driver.queues[RX].add(&[writable(DATA, 1526)]);
    b.driver.notify(0);
    b.peer.send(&frame(1514));
    assert_eq!(b.driver.next_used(0).1, 1526);
    assert_eq!(b.peer.asked().offloads, Offloads::default());
    b.put(DATA, &[0; 100]);
    b.driver.queues[TX].add(&[readable(DATA, 100)]);
    b.driver.run(1);
    assert_eq!(b.peer.frame().len(), 100);
}
