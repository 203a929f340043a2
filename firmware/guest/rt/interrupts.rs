//! Interrupts: the handlers in boot.s count and acknowledge; programs look at the counts.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::clock::Deadline;
use crate::exception::VECTORS;
use crate::{apic, service};

/// Vector of the I/O APIC's line 0.
const FIRST_LINE_VECTOR: u8 = 0x20;
/// Lines of the I/O APIC.
const LINES: u32 = 24;

/// Vector for interrupts between processors.
pub const IPI_VECTOR: u8 = 0x40;
/// Vector of the local APIC's timer.
pub const TIMER_VECTOR: u8 = 0x41;
/// Vector the local APIC delivers when an interrupt has gone away.
pub const SPURIOUS_VECTOR: u8 = 0x4f;
/// Vector of the non-maskable interrupt.
pub const NMI_VECTOR: u8 = 2;

unsafe extern "C" {
    safe static rt_interrupts: AtomicU64;
    safe static rt_counts: [AtomicU64; VECTORS];
}

/// Lets this processor take interrupts.
pub fn enable() {
    apic::enable();
    service::enable_interrupts();
}

/// Routes a line (GSI 0-23) of the I/O APIC to this processor; edge-triggered, active high.
pub fn route(line: u32) {
    apic::route(line, line_vector(line));
}

fn line_vector(line: u32) -> u8 {
    assert!(line < LINES);
    FIRST_LINE_VECTOR + line as u8
}

/// Interrupts taken so far, NMIs apart, by all processors. For `service::wait_unless_interrupted`.
pub fn total() -> u64 {
    rt_interrupts.load(SeqCst)
}

/// Interrupts taken so far by vector.
pub fn count(vector: u8) -> u64 {
    rt_counts
        .get(usize::from(vector))
        .map_or(0, |count| count.load(SeqCst))
}

/// Interrupts taken so far of a line.
pub fn line_count(line: u32) -> u64 {
    count(line_vector(line))
}

/// How often a halted wait looks again without an interrupt.
const LOOK_AGAIN_MS: u64 = 5;

/// Halts until `done` says so or `timeout_ms` is over; says whether it was done. Needs `enable`.
///
/// `done` is asked after each interrupt, and a few times a second without one: a device that loses
/// an interrupt is slow, and not a hang.
pub fn wait_until(timeout_ms: u64, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Deadline::after_ms(timeout_ms);
    loop {
        let seen = total();
        if done() {
            return true;
        }
        if deadline.passed() {
            return false;
        }
        apic::start_timer_ms(LOOK_AGAIN_MS);
        service::wait_unless_interrupted(seen);
    }
}
