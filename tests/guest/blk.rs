//! Test guest: every request of a virtio block device, right and wrong.
//!
//! Needs a disk of at least 1 MiB, whose data it destroys. Command line: `readonly` if the disk is
//! to refuse writing, `serial=TEXT` if it is to have that serial.
#![no_std]
#![no_main]

use rt::memory::{PAGE, Region};
use rt::virtio::blk::{self, Blk, SECTOR};
use rt::virtio::queue::Segment;
use rt::virtio::{self, DEVICE_BLOCK, F_INDIRECT_DESC};
use rt::{boot_info, interrupts, test, test_report};

rt::entry!(main, "blk\n");

/// Sectors the tests write to lie from here on.
const PLACE: u64 = 64;
/// A request type that no specification has.
const NONSENSE: u32 = 0x7fff_fff0;
const IN_FLIGHT: u64 = 16;

fn main() {
    run();
    test_report::done();
}

fn run() {
    let Some(transport) = virtio::find(DEVICE_BLOCK) else {
        test!("find", false, "no block device");
        return;
    };
    let mut disk = match Blk::new(transport) {
        Ok(disk) => disk,
        Err(error) => {
            test!("set_up", false, "{error:?}");
            return;
        }
    };
    test!(
        "capacity",
        disk.capacity() >= 2048,
        "{} sectors",
        disk.capacity()
    );
    test!(
        "features",
        true,
        "{:#x} seg_max {}",
        disk.features(),
        disk.segments_max()
    );
    let data = Region::allocate(128 * PAGE);
    identify(&mut disk, data);
    out_of_range(&mut disk, data);
    let status = disk.request(NONSENSE, 0, &[part(data, 0, 512, true)]);
    test!("unknown_request", status == Ok(blk::UNSUPP), "{status:?}");

    if disk.features() & blk::F_RO != 0 {
        read_only(&mut disk, data);
        return;
    }
    let expected = !boot_info::command_line()
        .split_ascii_whitespace()
        .any(|w| w == "readonly");
    test!("writable", expected);
    write_and_read(&mut disk, data);
    segments(&mut disk, data);
    unaligned(&mut disk, data);
    in_flight(&mut disk, data);
    indirect(&mut disk, data);
    erase(&mut disk, data);
    by_interrupt(&mut disk, data);
    disk.transport().reset();
}

fn part(data: Region, offset: u64, length: u32, device_writes: bool) -> Segment {
    Segment {
        address: data.address() + offset,
        length,
        device_writes,
    }
}

fn identify(disk: &mut Blk, data: Region) {
    data.fill(0);
    let status = disk.request(blk::GET_ID, 0, &[part(data, 0, blk::ID_LENGTH, true)]);
    let mut id = [0; blk::ID_LENGTH as usize];
    data.copy_to(0, &mut id);
    let length = id.iter().position(|&byte| byte == 0).unwrap_or(id.len());
    let matches = boot_info::option("serial").is_none_or(|serial| {
        // A longer one is cut off.
        id[..length] == serial.as_bytes()[..serial.len().min(id.len())]
    });
    let passed = status == Ok(blk::OK) && matches;
    test!(
        "get_id",
        passed,
        "{status:?} \"{}\"",
        id[..length].escape_ascii()
    );
}

fn out_of_range(disk: &mut Blk, data: Region) {
    let end = disk.capacity();
    for (name, sector, bytes, wanted) in [
        ("read_first", 0, 512, blk::OK),
        ("read_last", end - 1, 512, blk::OK),
        ("read_at_end", end, 512, blk::IOERR),
        ("read_over_end", end - 1, 1024, blk::IOERR),
        ("read_far", u64::MAX / 512, 512, blk::IOERR),
        ("read_wrapping", u64::MAX, 512, blk::IOERR),
        ("read_half_sector", 0, 256, blk::IOERR),
    ] {
        let status = disk.read(sector, data, 0, bytes);
        test!(name, status == Ok(wanted), "{status:?}");
    }
}

fn read_only(disk: &mut Blk, data: Region) {
    let expected = boot_info::command_line()
        .split_ascii_whitespace()
        .any(|w| w == "readonly");
    test!("readonly", expected);
    let status = disk.write(PLACE, data, 0, 512);
    test!("readonly_write", status == Ok(blk::IOERR), "{status:?}");
    let status = disk.read(PLACE, data, 0, 512);
    test!("readonly_read", status == Ok(blk::OK), "{status:?}");
}

/// Fills part of the data with a pattern that tells where it was written.
fn fill(data: Region, offset: u64, bytes: u64, seed: u64) {
    for at in (0..bytes).step_by(8) {
        data.write64(offset + at, pattern(seed, at));
    }
}

/// Whether part of the data holds that pattern.
fn holds(data: Region, offset: u64, bytes: u64, seed: u64) -> bool {
    (0..bytes)
        .step_by(8)
        .all(|at| data.read64(offset + at) == pattern(seed, at))
}

fn pattern(seed: u64, at: u64) -> u64 {
    (seed << 32 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn write_and_read(disk: &mut Blk, data: Region) {
    const BYTES: u64 = 16 * PAGE;
    fill(data, 0, BYTES, 1);
    let wrote = disk.write(PLACE, data, 0, BYTES as u32);
    let flushed = disk.request(blk::FLUSH, 0, &[]);
    data.fill(0xee);
    let read = disk.read(PLACE, data, 0, BYTES as u32);
    let same = holds(data, 0, BYTES, 1);
    let passed = wrote == Ok(blk::OK) && read == Ok(blk::OK) && same;
    test!("write_read", passed, "{wrote:?} {read:?} same {same}");
    test!("flush", flushed == Ok(blk::OK), "{flushed:?}");
    // One sector of many: its neighbours stay.
    fill(data, 0, SECTOR, 2);
    let wrote = disk.write(PLACE + 3, data, 0, 512);
    let read = disk.read(PLACE + 2, data, 0, 3 * 512);
    let alone = holds(data, SECTOR, SECTOR, 2)
        && data.read64(0) == pattern(1, 2 * SECTOR)
        && data.read64(2 * SECTOR) == pattern(1, 4 * SECTOR);
    let passed = wrote == Ok(blk::OK) && read == Ok(blk::OK) && alone;
    test!("one_sector", passed, "{wrote:?} {read:?} alone {alone}");
}

/// As many segments as the device takes, a sector each.
fn segments(disk: &mut Blk, data: Region) {
    let count = disk.segments_max().min(blk::SEGMENTS_MAX) as u64;
    let mut list = [part(data, 0, 0, false); blk::SEGMENTS_MAX];
    let list = &mut list[..count as usize];
    fill(data, 0, count * SECTOR, 3);
    for (i, segment) in list.iter_mut().enumerate() {
        *segment = part(data, i as u64 * SECTOR, 512, false);
    }
    let wrote = disk.request(blk::OUT, PLACE, list);
    data.fill(0);
    // Backwards, so that the order of segments counts.
    for (i, segment) in list.iter_mut().enumerate() {
        *segment = part(data, (count - 1 - i as u64) * SECTOR, 512, true);
    }
    let read = disk.request(blk::IN, PLACE, list);
    let right = (0..count).all(|i| data.read64((count - 1 - i) * SECTOR) == pattern(3, i * SECTOR));
    let passed = wrote == Ok(blk::OK) && read == Ok(blk::OK) && right;
    test!(
        "segments",
        passed,
        "{count}: {wrote:?} {read:?} right {right}"
    );
}

/// A buffer at an odd address, in two pieces that part inside a sector.
fn unaligned(disk: &mut Blk, data: Region) {
    fill(data, 0, 2 * SECTOR, 4);
    let wrote = disk.write(PLACE, data, 0, 1024);
    data.fill(0);
    let pieces = [part(data, 1, 700, true), part(data, 4097, 324, true)];
    let read = disk.request(blk::IN, PLACE, &pieces);
    let right = (0..1024).all(|i| {
        let wanted = pattern(4, i / 8 * 8).to_le_bytes()[(i % 8) as usize];
        data.read8(if i < 700 { 1 + i } else { 4097 + i - 700 }) == wanted
    });
    let passed = wrote == Ok(blk::OK) && read == Ok(blk::OK) && right;
    test!("unaligned", passed, "{wrote:?} {read:?} right {right}");
}

/// Many requests at once, whatever order they finish in.
fn in_flight(disk: &mut Blk, data: Region) {
    for (kind, seed) in [(blk::OUT, 5), (blk::IN, 6)] {
        for i in 0..IN_FLIGHT {
            fill(data, i * PAGE, PAGE, seed + i);
            let segment = part(data, i * PAGE, PAGE as u32, kind == blk::IN);
            let submitted = disk.submit(kind, PLACE + i * 8, &[segment]);
            if submitted.is_none() {
                test!("in_flight", false, "no room for request {i}");
                return;
            }
        }
        disk.notify();
        let failed = (0..IN_FLIGHT)
            .filter(|_| !matches!(disk.wait(), Ok((_, status)) if status == blk::OK))
            .count();
        test!("in_flight", failed == 0, "{failed} of {IN_FLIGHT} failed");
    }
    let right = (0..IN_FLIGHT).all(|i| holds(data, i * PAGE, PAGE, 5 + i));
    test!("in_flight_data", right);
}

fn indirect(disk: &mut Blk, data: Region) {
    if disk.features() & F_INDIRECT_DESC == 0 {
        test!("indirect", true, "not offered");
        return;
    }
    fill(data, 0, 2 * SECTOR, 7);
    let list = [part(data, 0, 512, false), part(data, SECTOR, 512, false)];
    let submitted = disk.submit_indirect(blk::OUT, PLACE, &list);
    disk.notify();
    let wrote = disk.wait().map(|(_, status)| status);
    data.fill(0);
    let read = disk.read(PLACE, data, 0, 1024);
    let same = holds(data, 0, 2 * SECTOR, 7);
    let passed = submitted.is_some() && wrote == Ok(blk::OK) && read == Ok(blk::OK) && same;
    test!("indirect", passed, "{wrote:?} {read:?} same {same}");
}

/// Discard and write-zeroes, one range each; a range beyond the end; a flag nobody knows.
fn erase(disk: &mut Blk, data: Region) {
    for (name, feature, kind) in [
        ("discard", blk::F_DISCARD, blk::DISCARD),
        ("write_zeroes", blk::F_WRITE_ZEROES, blk::WRITE_ZEROES),
    ] {
        if disk.features() & feature == 0 {
            test!(name, true, "not offered");
            continue;
        }
        data.fill(0x5a);
        let wrote = disk.write(PLACE, data, 0, 3 * PAGE as u32);
        let erased = range(disk, data, kind, PLACE + 8, 8, 0);
        let read = disk.read(PLACE, data, 0, 3 * PAGE as u32);
        let around = data.read64(PAGE - 8) == 0x5a5a_5a5a_5a5a_5a5a
            && data.read64(2 * PAGE) == 0x5a5a_5a5a_5a5a_5a5a;
        // Discarded sectors may read as anything.
        let zero = kind == blk::DISCARD || (PAGE..2 * PAGE).all(|at| data.read8(at) == 0);
        let done = [wrote, erased, read]
            .iter()
            .all(|status| *status == Ok(blk::OK));
        test!(
            name,
            done && around && zero,
            "{erased:?} around {around} zero {zero}"
        );
        let end = disk.capacity();
        let beyond = range(disk, data, kind, end - 1, 8, 0);
        test!(name, beyond == Ok(blk::IOERR), "beyond the end: {beyond:?}");
        let flagged = range(disk, data, kind, PLACE, 8, 0x8000_0000);
        test!(
            name,
            flagged == Ok(blk::UNSUPP),
            "unknown flag: {flagged:?}"
        );
    }
}

fn range(
    disk: &mut Blk,
    data: Region,
    kind: u32,
    sector: u64,
    sectors: u32,
    flags: u32,
) -> Result<u8, virtio::Error> {
    data.write64(64 * PAGE, sector);
    data.write32(64 * PAGE + 8, sectors);
    data.write32(64 * PAGE + 12, flags);
    disk.request(kind, 0, &[part(data, 64 * PAGE, 16, false)])
}

/// The same by interrupt, where the line is known.
fn by_interrupt(disk: &mut Blk, data: Region) {
    let Some(line) = disk.transport().line() else {
        test!("interrupt", true, "line not known");
        return;
    };
    interrupts::enable();
    disk.use_interrupts();
    let before = interrupts::line_count(line);
    let status = disk.read(PLACE, data, 0, 512);
    // The interrupt may come after the request was seen to be done.
    let came = interrupts::wait_until(5000, || interrupts::line_count(line) != before);
    test!(
        "interrupt",
        came && status == Ok(blk::OK),
        "line {line}: {status:?}"
    );
}
