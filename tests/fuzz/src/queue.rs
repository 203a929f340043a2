//! Hostile and nearly valid split virtqueues.

use std::ops::Range;

use devices::virtio::fake_driver::{DATA, DriverQueue, MEMORY_LEN, descriptor};
use devices::virtio::spec::{DESC_F_INDIRECT, DESC_F_WRITE, DESC_SIZE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::source::Source;

/// Where indirect tables are put.
pub const TABLES: u64 = DATA + 0x2_0000;

/// A descriptor that is mostly right: in or near memory, short, with any flags.
pub fn any_descriptor(source: &mut Source<'_>) -> [u8; 16] {
    let address = match source.u8() % 8 {
        0..=3 => DATA + u64::from(source.u8()) * 16,
        4 => TABLES + u64::from(source.u8() % 8) * 0x100,
        5 => MEMORY_LEN / 2 - u64::from(source.u8()),
        6 => MEMORY_LEN - u64::from(source.u8()),
        _ => source.edge(),
    };
    let len = match source.u8() % 8 {
        0..=2 => 16,
        3 => 1,
        4 => 512,
        5 => u32::from(source.u8()),
        6 => u32::from(source.u8()) * 16,
        _ => source.edge() as u32,
    };
    let flags = if source.rarely(16) {
        source.u16()
    } else {
        u16::from(source.u8() % 8)
    };
    descriptor(address, len, flags, u16::from(source.u8() % 18))
}

/// A descriptor's address, length and flags.
fn fields(raw: [u8; 16]) -> (u64, u64, u16) {
    let raw = u128::from_le_bytes(raw);
    (
        raw as u64,
        u64::from((raw >> 64) as u32),
        (raw >> 96) as u16,
    )
}

fn read(memory: &GuestMemoryMmap<()>, at: u64) -> Option<[u8; 16]> {
    let mut raw = [0; 16];
    memory.read_slice(&mut raw, GuestAddress(at)).ok()?;
    Some(raw)
}

/// Everything a device may write for the sake of what is in `queue` now: all that any descriptor
/// of it, or of a table it refers to, calls writable, and the used ring. `None` when some of it
/// lies over the queue or a table, so that the device may change what it is asked while it works.
pub fn writable_by_device(
    memory: &GuestMemoryMmap<()>,
    queue: &DriverQueue,
) -> Option<Vec<Range<u64>>> {
    let size = u64::from(queue.size);
    let mut writable = Vec::new();
    let mut tables = vec![
        queue.desc..queue.desc + size * DESC_SIZE,
        queue.avail..queue.avail + 6 + size * 2,
        queue.used..queue.used + 6 + size * 8,
    ];
    for index in 0..size {
        let raw = read(memory, queue.desc + index * DESC_SIZE)?;
        let (address, len, flags) = fields(raw);
        if flags & DESC_F_WRITE != 0 {
            writable.push(address..address.saturating_add(len));
        }
        if flags & DESC_F_INDIRECT == 0 {
            continue;
        }
        let entries = (len / DESC_SIZE).min(1024);
        let end = address.saturating_add(entries * DESC_SIZE);
        tables.push(address..end);
        for at in (address..end).step_by(16) {
            let Some((address, len, flags)) = read(memory, at).map(fields) else {
                break;
            };
            if flags & DESC_F_WRITE != 0 {
                writable.push(address..address.saturating_add(len));
            }
        }
    }
    let meets = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
    if writable.iter().any(|w| tables.iter().any(|t| meets(w, t))) {
        return None;
    }
    writable.push(queue.used..queue.used + 6 + size * 8);
    Some(writable)
}

/// Panics unless each chain in the used ring was made available, no more often than it was used.
pub fn check_used(memory: &GuestMemoryMmap<()>, queue: &DriverQueue, mut available: Vec<u16>) {
    let used: u16 = memory
        .read_obj(GuestAddress(queue.used + 2))
        .expect("in memory");
    assert!(
        usize::from(used) <= available.len(),
        "{used} used of {available:?}"
    );
    for index in 0..used {
        let at = queue.used + 4 + u64::from(index % queue.size) * 8;
        let head: u32 = memory.read_obj(GuestAddress(at)).expect("in memory");
        let place = available.iter().position(|known| u32::from(*known) == head);
        let place = place.unwrap_or_else(|| panic!("{head} is used and not of {available:?}"));
        available.swap_remove(place);
    }
}
