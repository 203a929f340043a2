//! Test guest: writes to all ends of memory, and only then looks whether what it wrote is there,
//! so that two addresses of the same memory show.
//!
//! Command line: `stride=MIB` between the pages taken inside a range (default 64).
#![no_std]
#![no_main]

use rt::memory::{self, PAGE};
use rt::{boot_info, paging, println, test};

rt::entry!(main, "memtest\n");

const MIB: u64 = 1 << 20;

/// Boot data and the trampoline's page lie below.
const LOWEST: u64 = 0x9_1000;

fn main() {
    let stride = boot_info::number("stride").unwrap_or(64).max(1) * MIB;
    // Tables first: they are made of the memory that is tested.
    for range in ram() {
        paging::map(range.start, range.length);
    }
    let mut pages = 0;
    for_each_page(stride, |page| {
        for address in (page..page + PAGE).step_by(8) {
            // SAFETY: RAM that is neither the image nor allocated (`for_each_page`), mapped above.
            unsafe { (address as *mut u64).write_volatile(pattern(address)) };
        }
        pages += 1;
    });
    let mut wrong = 0;
    let mut highest = 0;
    for_each_page(stride, |page| {
        for address in (page..page + PAGE).step_by(8) {
            let found = memory::read::<u64>(address);
            if found != pattern(address) {
                wrong += 1;
                println!("at {address:#x}: {found:#x}, not {:#x}", pattern(address));
            }
        }
        highest = page + PAGE;
    });
    test!(
        "memory",
        wrong == 0 && pages != 0,
        "{pages} pages, {wrong} words wrong"
    );
    test!("reach", true, "highest={highest:#x}");
    // What was not written since power-on reads as zero.
    let fresh = memory::read::<u64>(memory::allocated_end() + 16 * PAGE);
    test!("fresh", fresh == 0, "{fresh:#x}");
    rt::test_report::done();
}

fn ram() -> impl Iterator<Item = boot_info::MemoryRange> {
    boot_info::memory_map().filter(|range| range.kind == boot_info::RAM)
}

/// First and last page of each range of RAM, and one every `stride` between.
fn for_each_page(stride: u64, mut visit: impl FnMut(u64)) {
    let own = MIB..memory::allocated_end() + 64 * PAGE;
    for range in ram() {
        let start = range.start.next_multiple_of(PAGE).max(LOWEST);
        let end = (range.start + range.length) / PAGE * PAGE;
        if end < start + PAGE {
            continue;
        }
        let inside = (start..end - PAGE).step_by(stride as usize);
        for page in inside
            .chain([end - PAGE])
            .filter(|page| !own.contains(page))
        {
            visit(page);
        }
    }
}

fn pattern(address: u64) -> u64 {
    address.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ address
}
