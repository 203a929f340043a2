//! Descriptor chains of split virtqueues, reached by every guest's drivers.
//!
//! The walk finds the descriptors, or the refusal, that the standard's words lead to (a second,
//! plain walk below), and the cursors over a chain read and write its bytes and no others.
#![no_main]

use devices::virtio::chain::{ChainBuffers, Descriptor, INDIRECT_MAX};
use devices::virtio::fake_driver::{DriverQueue, MEMORY_LEN, descriptor};
use devices::virtio::queue::{Layout, Position, Queue};
use devices::virtio::spec::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1,
};
use libfuzzer_sys::fuzz_target;
use thimble_fuzz::queue::{TABLES, any_descriptor};
use thimble_fuzz::rig::Rig;
use thimble_fuzz::source::Source;
use thimble_fuzz::sparse::Sparse;
use vm_memory::{Bytes, GuestAddress};

thread_local!(static RAM: Sparse = Rig::ram());

const SIZE: u16 = 16;

struct Raw {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

fn fetch(ram: &Sparse, table: u64, entries: u64, index: u16) -> Option<Raw> {
    if u64::from(index) >= entries {
        return None;
    }
    let at = table.checked_add(u64::from(index) * 16)?;
    let mut raw = [0; 16];
    ram.memory.read_slice(&mut raw, GuestAddress(at)).ok()?;
    let raw = u128::from_le_bytes(raw);
    Some(Raw {
        address: raw as u64,
        len: (raw >> 64) as u32,
        flags: (raw >> 96) as u16,
        next: (raw >> 112) as u16,
    })
}

/// The chain at `head`, walked by the words of virtio 1.2, 2.7.5; `None` if it breaks them.
fn walk(ram: &Sparse, desc: u64, head: u16, indirect: bool) -> Option<Vec<Descriptor>> {
    let mut found: Vec<Descriptor> = Vec::new();
    let (mut table, mut entries, mut inside) = (desc, u64::from(SIZE), false);
    let mut in_table = 0;
    let mut index = head;
    let mut total = 0_u64;
    loop {
        let raw = fetch(ram, table, entries, index)?;
        in_table += 1;
        if in_table > entries {
            return None;
        }
        if raw.flags & DESC_F_INDIRECT != 0 {
            let len = u64::from(raw.len);
            let whole = len > 0 && len.is_multiple_of(16) && len <= u64::from(INDIRECT_MAX) * 16;
            if inside || !indirect || raw.flags & DESC_F_NEXT != 0 || !whole {
                return None;
            }
            (table, entries, inside) = (raw.address, len / 16, true);
            (in_table, index) = (0, 0);
            continue;
        }
        let writable = raw.flags & DESC_F_WRITE != 0;
        let after_writable = found.last().is_some_and(|last| last.writable);
        let end = raw.address.checked_add(raw.len.into())?;
        total += u64::from(raw.len);
        if (after_writable && !writable)
            || raw.len == 0
            || end > MEMORY_LEN
            || total > u64::from(u32::MAX)
        {
            return None;
        }
        found.push(Descriptor {
            address: raw.address,
            len: raw.len,
            writable,
        });
        if raw.flags & DESC_F_NEXT == 0 {
            return Some(found);
        }
        index = raw.next;
    }
}

fn set_up(source: &mut Source<'_>, ram: &Sparse, queue: &mut DriverQueue) {
    let write = |at, raw: [u8; 16]| {
        ram.memory
            .write_slice(&raw, GuestAddress(at))
            .expect("in memory");
    };
    for index in 0..SIZE {
        // Mostly a chain of readable, then writable buffers, in order.
        let flags = if index >= 8 { DESC_F_WRITE } else { 0 }
            | if source.rarely(4) || index == 15 {
                0
            } else {
                DESC_F_NEXT
            };
        let address = 0x20_0000 - 64 + u64::from(index) * 16;
        let plain = descriptor(address, 1 + u32::from(source.u8()), flags, index + 1);
        let broken = source.rarely(6);
        queue.set_descriptor(
            index,
            if broken {
                any_descriptor(source)
            } else {
                plain
            },
        );
    }
    for index in 0..source.below(40) as u64 {
        write(TABLES + index * 16, any_descriptor(source));
    }
    for _ in 0..1 + source.below(8) {
        queue.publish(source.mostly(source.clone().u8().into()) as u16 % 18);
    }
    if source.rarely(16) {
        queue.set_avail_idx(source.u16());
    }
}

fn run(source: &mut Source<'_>, ram: &Sparse) {
    ram.clear();
    let memory = &*ram.memory;
    let mut queue = DriverQueue::new(ram.memory.clone(), 0, SIZE);
    set_up(source, ram, &mut queue);
    let layout = Layout {
        size: source.mostly(SIZE.into()) as u16,
        desc: source.mostly(queue.desc),
        avail: source.mostly(queue.avail),
        used: source.mostly(queue.used),
    };
    let features = F_VERSION_1
        | source.pick(&[
            F_INDIRECT_DESC,
            0,
            F_EVENT_IDX,
            F_INDIRECT_DESC | F_EVENT_IDX,
        ]);
    let Ok(mut device) = Queue::new(memory, layout, Position::default(), features) else {
        return;
    };
    assert!(layout.size.is_power_of_two() && layout.desc.is_multiple_of(16));
    let mut buffers = ChainBuffers::new();
    let mut taken = 0;
    while let Ok(Some(head)) = device.pop(memory) {
        taken += 1;
        assert!(head < layout.size && taken <= layout.size);
        let found: Result<Vec<_>, _> = device.chain(memory, head).collect();
        if layout.size == SIZE {
            let indirect = features & F_INDIRECT_DESC != 0;
            let expected = walk(ram, layout.desc, head, indirect);
            assert_eq!(found.as_ref().ok(), expected.as_ref(), "{found:?}");
        }
        let collected = buffers.collect(device.chain(memory, head));
        assert_eq!(collected.is_ok(), found.is_ok());
        if let Ok(found) = found {
            check_cursors(source, ram, &buffers, &found);
        }
        if device.push_used(memory, head, 0).is_err() {
            return;
        }
        let _ = device.should_signal(memory);
        let _ = device.enable_notification(memory);
    }
}

fn check_cursors(
    source: &mut Source<'_>,
    ram: &Sparse,
    buffers: &ChainBuffers,
    found: &[Descriptor],
) {
    let sum = |writable| -> u64 {
        let kind = found
            .iter()
            .filter(|descriptor| descriptor.writable == writable);
        kind.map(|descriptor| u64::from(descriptor.len)).sum()
    };
    let mut reader = buffers.readable(&ram.memory);
    let mut writer = buffers.writable(&ram.memory);
    assert_eq!(u64::from(reader.remaining()), sum(false));
    assert_eq!(u64::from(writer.remaining()), sum(true));
    // A few bytes at a time, across the seams of the buffers.
    let mut expected = found
        .iter()
        .filter(|d| !d.writable)
        .flat_map(|d| d.address..d.address + u64::from(d.len));
    for _ in 0..4 {
        let mut piece = vec![0; 1 + source.below(40)];
        let left = reader.remaining();
        let enough = piece.len() <= left as usize;
        assert_eq!(reader.read(&mut piece).is_ok(), enough);
        if !enough {
            assert_eq!(reader.remaining(), left, "all or nothing");
            break;
        }
        for byte in piece {
            let at = expected.next().expect("as long as the readable part");
            assert_eq!(
                ram.memory
                    .read_obj::<u8>(GuestAddress(at))
                    .expect("in memory"),
                byte
            );
        }
    }
    let left = writer.remaining();
    let len = 1 + source.below(40) as u32;
    let Ok(mut part) = writer.take(len) else {
        assert!(len > left);
        return;
    };
    assert_eq!((part.remaining(), writer.remaining()), (len, left - len));
    let first = part.address();
    let target = found
        .iter()
        .find(|descriptor| descriptor.writable)
        .map(|d| d.address);
    assert_eq!(first.ok(), target);
    assert!(part.write(&vec![0xa5; len as usize + 1]).is_err());
}

fuzz_target!(|data: &[u8]| RAM.with(|ram| run(&mut Source::new(data), ram)));
