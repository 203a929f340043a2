//! The block device, reached by the guest's driver: requests that are nearly valid, in rings that
//! are nearly valid, through registers and I/O thread.
//!
//! The device answers a chain at most once, a whole one exactly once; it writes nowhere but into
//! what the driver called writable; a fault is told once; its state can be saved and restored; and
//! after a reset it works.
#![no_main]

use devices::virtio::blk::request::{T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT, T_WRITE_ZEROES};
use devices::virtio::fake_driver::{Buffer, DATA, readable, writable};
use libfuzzer_sys::fuzz_target;
use thimble_fuzz::queue::{TABLES, any_descriptor, check_used, writable_by_device};
use thimble_fuzz::rig::{DISK_LEN, Kind, QUEUE_LEN, Rig, Snapshot};
use thimble_fuzz::source::Source;
use thimble_fuzz::sparse::Sparse;
use vm_memory::{Bytes, GuestAddress};

thread_local!(static RAM: Sparse = Rig::ram());

const TYPES: [u32; 6] = [T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, T_WRITE_ZEROES];
/// Room of each request: header, ranges, data and status.
const ROOM: u64 = 0x1000;
/// A status the device does not give.
const UNANSWERED: u8 = 0xee;

/// Writes one request at its place; its buffers. Valid in form, maybe not in what it asks.
fn request(ram: &Sparse, source: &mut Source<'_>, number: u64) -> Vec<Buffer> {
    let at = DATA + number * ROOM;
    let kind = if source.rarely(32) {
        source.u32()
    } else {
        source.pick(&TYPES)
    };
    let sector = if source.rarely(8) {
        source.edge()
    } else {
        u64::from(source.u16()) % (DISK_LEN / 512)
    };
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    let write = |at, bytes: &[u8]| {
        ram.memory
            .write_slice(bytes, GuestAddress(at))
            .expect("in memory");
    };
    write(at, &header);
    let mut chain = match source.u8() % 8 {
        0 => vec![readable(at, 7), readable(at + 7, 9)],
        _ => vec![readable(at, 16)],
    };
    let data = at + 0x100;
    match kind {
        T_IN | T_GET_ID => {
            for part in 0..source.below(3) as u64 {
                let len = source.pick(&[512, 1024, 20, 511]);
                chain.push(writable(data + part * 0x400, len));
            }
        }
        T_DISCARD | T_WRITE_ZEROES => {
            let mut range = sector.to_le_bytes().to_vec();
            range.extend((source.mostly(8) as u32).to_le_bytes());
            range.extend((source.mostly(u64::from(source.clone().u8() & 1)) as u32).to_le_bytes());
            write(data, &range);
            chain.push(readable(data, source.pick(&[16, 32, 15])));
        }
        _ => {
            for part in 0..source.below(3) as u64 {
                let len = source.pick(&[512, 1024, 511]);
                chain.push(readable(data + part * 0x400, len));
            }
        }
    }
    write(at + ROOM - 1, &[UNANSWERED]);
    chain.push(writable(at + ROOM - 1, 1));
    chain
}

fn run(source: &mut Source<'_>, ram: &Sparse) {
    ram.clear();
    let kind = source.pick(&[Kind::Blk, Kind::Blk, Kind::Blk, Kind::ReadOnlyBlk]);
    let mut rig = Rig::new(kind, ram);
    let features = rig.driver.offered() & !(u64::from(source.pick(&[0_u8, 1, 2, 3])) << 28);
    rig.driver.start(features, QUEUE_LEN);
    let queue_number = source.pick(&[0, 1]);
    let mut heads = Vec::new();
    let mut free = usize::from(QUEUE_LEN);
    for number in 0..1 + source.below(4) as u64 {
        let chain = request(ram, source, number);
        let queue = &mut rig.driver.queues[usize::from(queue_number)];
        let indirect = features >> 28 & 1 != 0 && source.coin();
        let wanted = if indirect { 1 } else { chain.len() };
        let Some(left) = free.checked_sub(wanted) else {
            break;
        };
        free = left;
        heads.push(if indirect {
            queue.add_indirect(TABLES + number * 0x100, &chain)
        } else {
            queue.add(&chain)
        });
    }
    let whole = !source.rarely(3);
    if !whole {
        break_queue(&mut rig, source, usize::from(queue_number), &mut heads);
    }
    let queue = &rig.driver.queues[usize::from(queue_number)];
    let allowed = writable_by_device(&ram.memory, queue);
    let before = Snapshot::of(ram);
    rig.driver.notify(queue_number);
    if whole {
        for _ in &heads {
            rig.driver.next_used(queue_number);
        }
    }
    rig.settle();
    if let Some(mut allowed) = allowed {
        // The driver's own wish for an interrupt, written while it waited.
        let queue = &rig.driver.queues[usize::from(queue_number)];
        let wish = queue.avail + 4 + u64::from(queue.size) * 2;
        allowed.push(wish..wish + 2);
        // The other queue's used ring holds the device's wish for a notification.
        for queue in &rig.driver.queues {
            allowed.push(queue.used..queue.used + 6 + u64::from(queue.size) * 8);
        }
        before.check_only(ram, &allowed);
        let queue = &rig.driver.queues[usize::from(queue_number)];
        check_used(&ram.memory, queue, heads.clone());
        if whole {
            for number in 0..heads.len() as u64 {
                let at = GuestAddress(DATA + number * ROOM + ROOM - 1);
                let status: u8 = ram.memory.read_obj(at).expect("in memory");
                assert!(status <= 2, "request {number} has the status {status:#x}");
            }
        }
    }
    rig.check_faults();
    rig.check_restores(ram);
    rig.check_works();
}

/// Damages descriptors, tables and rings.
fn break_queue(rig: &mut Rig, source: &mut Source<'_>, number: usize, heads: &mut Vec<u16>) {
    let memory = rig.driver.memory.clone();
    let queue = &mut rig.driver.queues[number];
    for _ in 0..1 + source.below(6) {
        match source.u8() % 8 {
            0..=3 => queue.set_descriptor(source.below(16) as u16, any_descriptor(source)),
            4 => {
                let at = TABLES + source.below(0x40) as u64 * 16;
                let raw = any_descriptor(source);
                memory
                    .write_slice(&raw, GuestAddress(at))
                    .expect("in memory");
            }
            5 | 6 => {
                let head = source.below(18) as u16;
                queue.publish(head);
                heads.push(head);
            }
            _ => {
                // Entries that were never written name descriptor 0.
                let index = if source.coin() {
                    source.u16()
                } else {
                    source.below(32) as u16
                };
                queue.set_avail_idx(index);
                heads.extend([0; 64]);
            }
        }
    }
}

fuzz_target!(|data: &[u8]| RAM.with(|ram| run(&mut Source::new(data), ram)));
