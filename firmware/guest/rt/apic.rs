//! The local APIC, in xAPIC mode at its usual address, and the I/O APIC.
//! Intel SDM volume 3, chapter 12; 82093AA data sheet.

use crate::interrupts::{SPURIOUS_VECTOR, TIMER_VECTOR};
use crate::mmio;

const LOCAL: u64 = 0xfee0_0000;
const LOCAL_ID: u64 = LOCAL + 0x20;
const SPURIOUS: u64 = LOCAL + 0xf0;
const COMMAND_LOW: u64 = LOCAL + 0x300;
const COMMAND_HIGH: u64 = LOCAL + 0x310;
const LVT_LINT0: u64 = LOCAL + 0x350;
const LVT_TIMER: u64 = LOCAL + 0x320;
const TIMER_INITIAL: u64 = LOCAL + 0x380;
const TIMER_DIVIDE: u64 = LOCAL + 0x3e0;

const LVT_MASKED: u32 = 1 << 16;
const SPURIOUS_ENABLE: u32 = 1 << 8;
const COMMAND_INIT: u32 = 5 << 8 | 1 << 14;
const COMMAND_STARTUP: u32 = 6 << 8 | 1 << 14;
const COMMAND_FIXED: u32 = 1 << 14;
const DIVIDE_BY_16: u32 = 0x3;
/// KVM's APIC bus runs at 1 GHz unless told otherwise; other clocks only make waits shorter or
/// longer.
const TIMER_TICKS_PER_MS: u64 = 1_000_000 / 16;

const IO: u64 = 0xfec0_0000;
const IO_SELECT: u64 = IO;
const IO_WINDOW: u64 = IO + 0x10;
const IO_REDIRECTION: u32 = 0x10;

/// Switches this processor's local APIC on, for interrupts of the I/O APIC only: the legacy PIC,
/// which sees the same lines and has never been given vectors, sits behind LINT0.
pub fn enable() {
    mmio::write32(LVT_LINT0, LVT_MASKED);
    mmio::write32(SPURIOUS, SPURIOUS_ENABLE | u32::from(SPURIOUS_VECTOR));
}

/// This processor's local APIC id.
pub fn id() -> u32 {
    mmio::read32(LOCAL_ID) >> 24
}

/// Routes a line of the I/O APIC to this processor; edge-triggered, active high, not masked.
pub fn route(line: u32, vector: u8) {
    write_io(IO_REDIRECTION + 2 * line + 1, id() << 24);
    write_io(IO_REDIRECTION + 2 * line, u32::from(vector));
}

fn write_io(register: u32, value: u32) {
    mmio::write32(IO_SELECT, register);
    mmio::write32(IO_WINDOW, value);
}

/// Interrupts another processor.
pub fn send(to: u32, vector: u8) {
    command(to, COMMAND_FIXED | u32::from(vector));
}

/// Puts another processor into wait-for-SIPI.
pub fn send_init(to: u32) {
    command(to, COMMAND_INIT);
}

/// Starts a processor that waits for it, in real mode at the page `page` (0-255).
pub fn send_startup(to: u32, page: u8) {
    command(to, COMMAND_STARTUP | u32::from(page));
}

fn command(to: u32, low: u32) {
    mmio::write32(COMMAND_HIGH, to << 24);
    mmio::write32(COMMAND_LOW, low);
}

/// Has the timer interrupt this processor once, on `TIMER_VECTOR`.
pub fn start_timer_ms(ms: u64) {
    mmio::write32(TIMER_DIVIDE, DIVIDE_BY_16);
    mmio::write32(LVT_TIMER, u32::from(TIMER_VECTOR));
    mmio::write32(TIMER_INITIAL, (ms * TIMER_TICKS_PER_MS) as u32);
}
