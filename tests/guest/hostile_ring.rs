//! Test guest: gives a virtio block device broken rings and chains, one at a time. Each must be
//! answered: the request fails, or the device says NEEDS_RESET. After a reset it must work.
#![no_std]
#![no_main]

use rt::clock::Deadline;
use rt::memory::{PAGE, Region};
use rt::virtio::blk::{self, Blk};
use rt::virtio::queue::{self, INDIRECT, NEXT, Segment, WRITE};
use rt::virtio::{self, DEVICE_BLOCK, F_INDIRECT_DESC, NEEDS_RESET, Transport, register};
use rt::{test, test_report};

rt::entry!(main, "hostile_ring\n");

/// How long the device may take to answer.
const PATIENCE_MS: u64 = 3000;

/// In the MMIO window, where there is no memory.
const NO_MEMORY: u64 = 0xe000_0000;

/// A descriptor, as it is written: address, length, flags, next.
type Descriptor = (u64, u32, u16, u16);

/// Where the parts of a request lie in the page `request`.
const HEADER: u64 = 0;
const STATUS: u64 = 64;
const DATA: u64 = 512;
const TABLE: u64 = 2048;

fn main() {
    let Some(transport) = virtio::find(DEVICE_BLOCK) else {
        test!("find", false, "no block device");
        test_report::done();
        return;
    };
    let request = Region::allocate(PAGE);
    let page = request.address();
    let (header, status, data) = (page + HEADER, page + STATUS, page + DATA);
    let good_header: Descriptor = (header, 16, NEXT, 1);
    let good_data: Descriptor = (data, 512, NEXT | WRITE, 2);
    let good_status: Descriptor = (status, 1, WRITE, 0);

    let chains: &[(&str, &[Descriptor])] = &[
        ("loop_of_one", &[(header, 16, NEXT, 0)]),
        ("loop_of_two", &[good_header, (data, 512, NEXT | WRITE, 0)]),
        (
            "loop_later",
            &[good_header, good_data, (status, 1, NEXT | WRITE, 1)],
        ),
        (
            "header_nowhere",
            &[(NO_MEMORY, 16, NEXT, 1), good_data, good_status],
        ),
        (
            "data_nowhere",
            &[good_header, (NO_MEMORY, 512, NEXT | WRITE, 2), good_status],
        ),
        (
            "status_nowhere",
            &[good_header, good_data, (NO_MEMORY, 1, WRITE, 0)],
        ),
        (
            "data_far",
            &[good_header, (1 << 52, 512, NEXT | WRITE, 2), good_status],
        ),
        (
            "data_wraps",
            &[
                good_header,
                (u64::MAX - 255, 512, NEXT | WRITE, 2),
                good_status,
            ],
        ),
        (
            "data_huge",
            &[good_header, (data, u32::MAX, NEXT | WRITE, 2), good_status],
        ),
        (
            "data_odd_length",
            &[good_header, (data, 511, NEXT | WRITE, 2), good_status],
        ),
        (
            "data_wrong_way",
            &[good_header, (data, 512, NEXT, 2), good_status],
        ),
        (
            "header_writable",
            &[(header, 16, NEXT | WRITE, 1), good_data, good_status],
        ),
        (
            "header_short",
            &[(header, 8, NEXT, 1), good_data, good_status],
        ),
        (
            "header_empty",
            &[(header, 0, NEXT, 1), good_data, good_status],
        ),
        (
            "status_read_only",
            &[good_header, good_data, (status, 1, 0, 0)],
        ),
        (
            "status_empty",
            &[good_header, good_data, (status, 0, WRITE, 0)],
        ),
        ("only_header", &[(header, 16, 0, 0)]),
        ("only_status", &[good_status]),
        (
            "read_after_write",
            &[
                good_header,
                (data, 512, NEXT | WRITE, 2),
                (header, 16, NEXT, 3),
                good_status,
            ],
        ),
        ("next_outside", &[(header, 16, NEXT, 0xffff)]),
        ("indirect_nowhere", &[(NO_MEMORY, 48, INDIRECT, 0)]),
        ("indirect_odd_length", &[(page + TABLE, 40, INDIRECT, 0)]),
        ("indirect_empty", &[(page + TABLE, 0, INDIRECT, 0)]),
        ("indirect_huge", &[(page + TABLE, 0xffff_fff0, INDIRECT, 0)]),
        (
            "indirect_and_next",
            &[(page + TABLE, 48, INDIRECT | NEXT, 1), good_status],
        ),
        ("indirect_in_indirect", &[(page + TABLE, 16, INDIRECT, 0)]),
        ("unknown_flags", &[(header, 16, 0xfff8 | NEXT, 0)]),
    ];
    for (name, chain) in chains {
        // What an indirect descriptor leads to: another.
        let nested = Segment {
            address: page + TABLE,
            length: 16,
            device_writes: false,
        };
        run(name, transport, |disk| {
            request.fill(0);
            request.write32(HEADER, blk::IN);
            request.write8(STATUS, blk::UNTOUCHED);
            request.write64(TABLE, nested.address);
            request.write32(TABLE + 8, nested.length);
            request.write16(TABLE + 12, INDIRECT);
            let ring = disk.queue();
            for (i, descriptor) in chain.iter().enumerate() {
                write(ring.memory(), i as u64, *descriptor);
            }
            ring.publish(0);
        });
    }
    rings(transport, request);
    test_report::done();
}

/// Broken rings, as apart from broken chains.
fn rings(transport: Transport, request: Region) {
    run("head_outside", transport, |disk| {
        disk.queue().publish(0xffff);
    });
    run("head_at_size", transport, |disk| {
        let size = disk.queue().size();
        disk.queue().publish(size);
    });
    run("index_jumps", transport, |disk| {
        // More new entries than the ring has.
        let ring = disk.queue();
        let size = ring.size();
        ring.memory().write16(PAGE + 2, size + 1);
    });
    run("index_back", transport, |disk| {
        disk.queue().memory().write16(PAGE + 2, u16::MAX);
    });

    for (name, part) in [
        ("descriptors_nowhere", register::QUEUE_DESC),
        ("available_nowhere", register::QUEUE_DRIVER),
        ("used_nowhere", register::QUEUE_DEVICE),
    ] {
        let outcome = with_part_nowhere(transport, part, request);
        test!(
            name,
            outcome.is_some(),
            "{}",
            outcome.unwrap_or("no answer")
        );
        works_again(name, transport);
    }
}

/// Sets a queue up with one part where there is no memory, and notifies. Refusing the queue is an
/// answer too.
fn with_part_nowhere(transport: Transport, part: u64, request: Region) -> Option<&'static str> {
    transport.negotiate(0).ok()?;
    let mut ring = transport.set_up_queue(0).ok()?;
    transport.write(register::QUEUE_READY, 0);
    transport.write(part, NO_MEMORY as u32);
    transport.write(part + 4, 0);
    transport.write(register::QUEUE_READY, 1);
    let refused = transport.read(register::QUEUE_READY) == 0;
    transport.driver_ok();
    let header = Segment {
        address: request.address(),
        length: 16,
        device_writes: false,
    };
    let status = Segment {
        address: request.address() + 64,
        length: 1,
        device_writes: true,
    };
    request.write32(HEADER, blk::FLUSH);
    ring.submit(&[header, status]);
    transport.notify(0);
    if refused {
        return Some("queue refused");
    }
    let deadline = Deadline::after_ms(PATIENCE_MS);
    while !deadline.passed() {
        if transport.status() & NEEDS_RESET != 0 {
            return Some("NEEDS_RESET");
        }
    }
    None
}

/// Sets the device up, lets `break_it` at the ring, and looks what the device does.
fn run(name: &str, transport: Transport, break_it: impl FnOnce(&mut Blk)) {
    match Blk::new(transport) {
        Ok(mut disk) => {
            if name.starts_with("indirect") && disk.features() & F_INDIRECT_DESC == 0 {
                test!(name, true, "not offered");
                return;
            }
            break_it(&mut disk);
            disk.notify();
            let outcome = answer(&mut disk);
            test!(
                name,
                outcome.is_some(),
                "{}",
                outcome.unwrap_or("no answer")
            );
        }
        Err(error) => test!(name, false, "set-up: {error:?}"),
    }
    works_again(name, transport);
}

fn answer(disk: &mut Blk) -> Option<&'static str> {
    let deadline = Deadline::after_ms(PATIENCE_MS);
    while !deadline.passed() {
        if disk.transport().status() & NEEDS_RESET != 0 {
            return Some("NEEDS_RESET");
        }
        if disk.queue().has_used() {
            return Some("finished");
        }
    }
    None
}

fn works_again(name: &str, transport: Transport) {
    let buffer = Region::allocate(PAGE);
    let status = Blk::new(transport).and_then(|mut disk| disk.read(0, buffer, 0, 512));
    if status != Ok(blk::OK) {
        test!("works_again", false, "after {name}: {status:?}");
    }
}

/// Writes a descriptor as it is.
fn write(table: Region, index: u64, (address, length, flags, next): Descriptor) {
    let at = index * queue::DESCRIPTOR_SIZE;
    table.write64(at, address);
    table.write32(at + 8, length);
    table.write16(at + 12, flags);
    table.write16(at + 14, next);
}
