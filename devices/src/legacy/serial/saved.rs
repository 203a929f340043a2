//! The saved form of the UART.

use serde::{Deserialize, Serialize};

/// Version 1. What the guest sent is not here: it belongs to the backend of the process that ran
/// the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialState {
    /// Interrupt enable register.
    pub ier: u8,
    /// FIFO control register: enable and trigger level.
    pub fcr: u8,
    /// Line control register.
    pub lcr: u8,
    /// Modem control register.
    pub mcr: u8,
    /// Scratch register.
    pub scr: u8,
    /// Baud rate divisor.
    pub divisor: u16,
    /// Whether the overrun bit of the line status register is set.
    pub overrun: bool,
    /// The change bits of the modem status register.
    pub modem_deltas: u8,
    /// Whether "transmitter holding register empty" waits to be identified.
    pub thr_empty_pending: bool,
    /// Whether the guest is held off because the backend had no room.
    pub held_off: bool,
    /// Receiver FIFO, at most 16 bytes.
    pub fifo: Vec<u8>,
    /// Bytes from the host that have not reached the FIFO.
    pub queue: Vec<u8>,
}
