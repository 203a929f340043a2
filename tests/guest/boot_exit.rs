//! Bench guest: one line, then the end, by whatever ends the machine it runs on. It is timed under
//! thimble and its peers alike, so it looks at nothing first.
#![no_std]
#![no_main]

use rt::clock::Deadline;
use rt::{power, service};

rt::entry!(main, "B\n");

/// How long each way is given before the next is tried.
const PATIENCE_MS: u64 = 300;

fn main() {
    // thimble, Cloud Hypervisor, QEMU's microvm: what ACPI says.
    power::request_off();
    Deadline::after_ms(PATIENCE_MS).wait();
    // Firecracker; QEMU with -no-reboot.
    power::request_i8042_reset();
    Deadline::after_ms(PATIENCE_MS).wait();
    service::triple_fault();
}
