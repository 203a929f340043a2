//! Register offsets and bits of the 16550A (National Semiconductor, PC16550D data sheet, section
//! 8.0 "Registers" and table II).

/// Receiver buffer (read), transmitter holding (write); divisor low byte with [`LCR_DLAB`].
pub(super) const DATA: u64 = 0;
/// Interrupt enable; divisor high byte with [`LCR_DLAB`].
pub(super) const IER: u64 = 1;
/// Interrupt identification (read), FIFO control (write).
pub(super) const IIR_FCR: u64 = 2;
/// Line control.
pub(super) const LCR: u64 = 3;
/// Modem control.
pub(super) const MCR: u64 = 4;
/// Line status.
pub(super) const LSR: u64 = 5;
/// Modem status.
pub(super) const MSR: u64 = 6;
// Offset 7 is the scratch register.

/// Received data.
pub(super) const IER_RECEIVED: u8 = 1 << 0;
/// Transmitter holding register empty.
pub(super) const IER_THR_EMPTY: u8 = 1 << 1;
/// Line status: an error.
pub(super) const IER_LINE: u8 = 1 << 2;
/// Modem status: a line changed.
pub(super) const IER_MODEM: u8 = 1 << 3;
/// The bits that exist.
pub(super) const IER_MASK: u8 = 0x0f;

/// No interrupt is pending.
pub(super) const IIR_NONE: u8 = 0x01;
/// Causes, in falling priority.
pub(super) const IIR_LINE: u8 = 0x06;
/// The FIFO has reached its trigger level.
pub(super) const IIR_RECEIVED: u8 = 0x04;
/// The FIFO holds bytes below its trigger level and none has come for a while.
pub(super) const IIR_TIMEOUT: u8 = 0x0c;
pub(super) const IIR_THR_EMPTY: u8 = 0x02;
pub(super) const IIR_MODEM: u8 = 0x00;
/// FIFOs are enabled: both bits, which tells a 16550A from a 16550.
pub(super) const IIR_FIFOS: u8 = 0xc0;

pub(super) const FCR_ENABLE: u8 = 1 << 0;
pub(super) const FCR_CLEAR_RECEIVER: u8 = 1 << 1;
/// Trigger level of the receiver FIFO: 1, 4, 8 or 14 bytes.
pub(super) const FCR_TRIGGER: u8 = 0xc0;
pub(super) const FCR_TRIGGER_SHIFT: u8 = 6;

/// The divisor shows at offsets 0 and 1.
pub(super) const LCR_DLAB: u8 = 1 << 7;

pub(super) const MCR_DTR: u8 = 1 << 0;
pub(super) const MCR_RTS: u8 = 1 << 1;
pub(super) const MCR_OUT1: u8 = 1 << 2;
pub(super) const MCR_OUT2: u8 = 1 << 3;
/// What is sent comes back as received, and modem outputs as modem inputs.
pub(super) const MCR_LOOPBACK: u8 = 1 << 4;
/// The bits that exist.
pub(super) const MCR_MASK: u8 = 0x1f;

pub(super) const LSR_DATA_READY: u8 = 1 << 0;
/// A byte came while the FIFO was full.
pub(super) const LSR_OVERRUN: u8 = 1 << 1;
pub(super) const LSR_THR_EMPTY: u8 = 1 << 5;
/// Shift register and holding register are empty.
pub(super) const LSR_IDLE: u8 = 1 << 6;

/// CTS changed.
pub(super) const MSR_DELTA_CTS: u8 = 1 << 0;
/// DSR changed.
pub(super) const MSR_DELTA_DSR: u8 = 1 << 1;
/// RI went from on to off.
pub(super) const MSR_RING_ENDED: u8 = 1 << 2;
/// DCD changed.
pub(super) const MSR_DELTA_DCD: u8 = 1 << 3;
pub(super) const MSR_DELTAS: u8 = 0x0f;
pub(super) const MSR_CTS: u8 = 1 << 4;
pub(super) const MSR_DSR: u8 = 1 << 5;
pub(super) const MSR_RI: u8 = 1 << 6;
pub(super) const MSR_DCD: u8 = 1 << 7;

/// 9600 baud from the 1.8432 MHz crystal. Only shown: bytes take no time here.
pub(super) const DEFAULT_DIVISOR: u16 = 12;
/// 8 bits, no parity, 1 stop bit.
pub(super) const DEFAULT_LCR: u8 = 0x03;
