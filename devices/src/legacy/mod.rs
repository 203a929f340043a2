//! The chips of a PC that a guest still expects, and the two blocks that make power work without
//! one.
//!
//! Every chip here is pure: no file descriptor, no thread, no clock of its own. It is called on
//! vCPU threads through [`BusDevice`](crate::bus::BusDevice) and, for the few calls each names, on
//! the main thread, always with its lock held. Chips on the ISA bus are eight bits wide: a wider
//! access is the byte accesses it consists of, at ascending offsets, as the bus bridge of a PC
//! splits it. Where a chip sits, and on which line, is the machine's business and not the chip's.
//!
//! * [`serial`]: 16550A UART. * [`rtc`]: MC146818 clock and CMOS memory.
//! * [`i8042`]: the keyboard controller's reset line. * [`mod@panic`]: pvpanic.
//! * [`power`]: power button, sleep and reset of hardware-reduced ACPI.
//! * [`vmgenid`]: the VM generation ID in guest memory.

pub mod i8042;
pub mod panic;
pub mod power;
pub mod rtc;
pub mod serial;
pub mod vmgenid;

#[cfg(test)]
mod conformance;
