//! Test guest: resets the machine several times and then powers off. The count is kept in a
//! battery-backed byte of the CMOS clock, which a reset leaves alone.
//!
//! Command line: `resets=N` (default 3, at most 200), `by=acpi|i8042|triple-fault` (default acpi).
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rt::clock::Deadline;
use rt::{boot_info, cmos, power, println, service, test};

rt::entry!(main, "reset_loop\n");

const COUNTER: u8 = 0x40;

/// In bss: a run that finds it changed has not been loaded anew, nor cleared what it must.
static USED: AtomicU64 = AtomicU64::new(0);
/// In the image's data: the loader has to load it again.
static LOADED: AtomicU64 = AtomicU64::new(0x1234);

fn main() {
    let wanted = boot_info::number("resets").unwrap_or(3).min(200);
    let count = u64::from(cmos::read(COUNTER));
    let fresh = USED.swap(1, Relaxed) == 0 && LOADED.swap(0, Relaxed) == 0x1234;
    test!("image", fresh, "boot {count}");
    if count >= wanted {
        cmos::write(COUNTER, 0);
        test!("resets", count == wanted, "{count}");
        rt::test_report::done();
        return;
    }
    cmos::write(COUNTER, count as u8 + 1);
    println!("RESET {}", count + 1);
    match boot_info::option("by") {
        Some("i8042") => power::request_i8042_reset(),
        Some("triple-fault") => service::triple_fault(),
        _ => power::reset(),
    }
    Deadline::after_ms(2000).wait();
    test!("resets", false, "still running");
}
