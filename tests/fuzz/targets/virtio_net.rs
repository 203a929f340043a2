//! The network card, reached by the guest's driver and by the network: any ring, any frame.
//!
//! The card writes nowhere but into what the driver called writable; answers a chain at most once;
//! sends no header that makes no sense; tells a fault once; its state can be saved and restored;
//! and after a reset it works.
#![no_main]

use devices::virtio::fake_driver::{Buffer, DATA, readable, writable};
use devices::virtio::net::header::checked;
use libfuzzer_sys::fuzz_target;
use thimble_fuzz::queue::{TABLES, any_descriptor, check_used, writable_by_device};
use thimble_fuzz::rig::{Kind, QUEUE_LEN, Rig, Snapshot};
use thimble_fuzz::source::Source;
use thimble_fuzz::sparse::Sparse;
use vm_memory::{Bytes, GuestAddress};

thread_local!(static RAM: Sparse = Rig::ram());

/// Control commands of every class, most of them right.
fn command(source: &mut Source<'_>) -> [u8; 16] {
    let mut request = [0; 16];
    request[0] = source.u8() % 7;
    request[1] = source.u8() % 3;
    for byte in &mut request[2..] {
        *byte = source.u8() % 4;
    }
    request
}

/// A chain as the queue wants it, of one piece or two.
fn chain(source: &mut Source<'_>, index: usize) -> Vec<Buffer> {
    let at = DATA + u64::from(source.u8()) * 64;
    let len = 1 + u32::from(source.u8());
    match index {
        0 => vec![writable(at, 11 + len), writable(at + 0x4000, 64)],
        1 => vec![readable(at, 11 + len), readable(at + 0x4000, 64)],
        _ => vec![readable(at, len), writable(at + 0x4000, 1)],
    }
}

fn run(source: &mut Source<'_>, ram: &Sparse) {
    ram.clear();
    let mut rig = Rig::new(Kind::Net, ram);
    let features = rig.driver.offered() & !(u64::from(source.u8()) << source.below(57));
    rig.driver.start(features | 1 << 32, QUEUE_LEN);
    // It looks at its queues when they are as they are to be, and not before.
    rig.pause();
    let index = source.below(3);
    for n in 0..source.below(32) as u64 {
        let at = GuestAddress(DATA + n * 64);
        let raw = command(source);
        ram.memory.write_slice(&raw, at).expect("in memory");
    }
    let queue = &mut rig.driver.queues[index];
    let mut heads = Vec::new();
    for _ in 0..source.below(8) {
        let pieces = chain(source, index);
        heads.push(match source.u8() % 4 {
            0 => queue.add_indirect(TABLES + heads.len() as u64 * 0x100, &pieces),
            _ => queue.add(&pieces[..1 + source.below(2)]),
        });
    }
    for _ in 0..source.below(16) {
        queue.set_descriptor(source.below(16) as u16, any_descriptor(source));
    }
    for n in 0..source.below(16) as u64 {
        let raw = any_descriptor(source);
        let at = GuestAddress(TABLES + n * 16);
        ram.memory.write_slice(&raw, at).expect("in memory");
    }
    for _ in 0..source.below(8) {
        let head = source.below(17) as u16;
        queue.publish(head);
        heads.push(head);
    }
    if source.rarely(16) {
        queue.set_avail_idx(source.u16());
        heads.extend([0; 64]);
    }
    let allowed = writable_by_device(&ram.memory, queue);
    // As many as the socket takes without anybody at its other end.
    for _ in 0..source.below(5) {
        let len = source.below(600);
        let fill = source.u8();
        rig.network().send(&vec![fill; len]);
    }
    let before = Snapshot::of(ram);
    rig.driver.notify(index as u16);
    rig.settle();
    if let Some(mut allowed) = allowed {
        // The card looks at its other queues as well, and says in each whether to notify it.
        let used = rig.driver.queues.iter().map(|queue| queue.used);
        allowed.extend(used.map(|at| at..at + 6 + u64::from(QUEUE_LEN) * 8));
        before.check_only(ram, &allowed);
        check_used(&ram.memory, &rig.driver.queues[index], heads);
    }
    check_sent(&rig);
    // Changes of the filter are told of as well.
    rig.check_faults();
    rig.check_restores(ram);
    rig.check_works();
}

/// Whatever came out has a header that passes, whatever the features.
fn check_sent(rig: &Rig) {
    let socket = &rig.network().queues[0];
    socket.set_nonblocking(true).expect("a flag");
    let mut frame = vec![0; 0x2_0000];
    while let Ok(len) = socket.recv(&mut frame) {
        let header = frame[..12].try_into().expect("twelve bytes");
        let len = (len - 12) as u32;
        assert_eq!(checked(&header, len, u64::MAX), Ok(header));
    }
}

fuzz_target!(|data: &[u8]| RAM.with(|ram| run(&mut Source::new(data), ram)));
