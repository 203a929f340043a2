//! Test guest: crashes, and tells pvpanic so.
//!
//! Command line: `by=exception` for a processor exception instead of a Rust panic.
#![no_std]
#![no_main]

use rt::boot_info;

rt::entry!(main, "panic\n");

fn main() {
    if boot_info::option("by") == Some("exception") {
        // SAFETY: the instruction is undefined, and its exception is the point.
        unsafe { core::arch::asm!("ud2") };
    }
    panic!("on purpose");
}
