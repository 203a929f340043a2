//! Bench guest: one line, then the end, by whatever ends the machine it runs on. It is timed under
//! thimble and its peers alike, so it looks at nothing before that line.
#![no_std]
#![no_main]

use rt::clock::Deadline;
use rt::{boot_info, power, service};

rt::entry!(main, "B\n");

/// How long each way is given before the next is tried.
const PATIENCE_MS: u64 = 300;

fn main() {
    // Firecracker knows no power-off, and the command line says so.
    if boot_info::option("end") == Some("i8042") {
        power::request_i8042_reset();
    }
    // thimble, Cloud Hypervisor, QEMU's microvm: what ACPI says.
    power::request_off();
    Deadline::after_ms(PATIENCE_MS).wait();
    // QEMU with -no-reboot.
    power::request_i8042_reset();
    Deadline::after_ms(PATIENCE_MS).wait();
    service::triple_fault();
}
