//! The console: COM1, a 16550A, polled. `print!` and `println!` write to it.
//!
//! One processor at a time: nothing here is locked.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU16, Ordering::Relaxed};

use crate::port;

/// I/O base of COM1.
pub const COM1: u16 = 0x3f8;

// Registers, as offsets from the base, and their bits (16550D data sheet).
const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const IER_RECEIVED_DATA: u8 = 0x01;
const FCR_ENABLE: u8 = 0x01;
const MCR_OUT2: u8 = 0x08;
const MCR_RTS_DTR: u8 = 0x03;
const MCR_LOOPBACK: u8 = 0x10;
const LSR_DATA_READY: u8 = 0x01;
const LSR_TRANSMIT_HOLDING_EMPTY: u8 = 0x20;
const LSR_TRANSMITTER_EMPTY: u8 = 0x40;

/// Depth of the transmit FIFO: what may be written for one look at the line status.
const FIFO_DEPTH: u8 = 16;

/// Bytes that may be written before the line status must be looked at again.
static ROOM: AtomicU8 = AtomicU8::new(0);

/// A byte that came in before the FIFOs were switched on; [`NONE`] if there is none.
static EARLY: AtomicU16 = AtomicU16::new(NONE);

const NONE: u16 = u16::MAX;

/// Writes one byte, waiting for room.
pub fn write_byte(byte: u8) {
    let mut room = ROOM.load(Relaxed);
    if room == 0 {
        while port::read8(COM1 + LINE_STATUS) & LSR_TRANSMIT_HOLDING_EMPTY == 0 {
            core::hint::spin_loop();
        }
        room = FIFO_DEPTH;
    }
    port::write8(COM1 + DATA, byte);
    ROOM.store(room - 1, Relaxed);
}

/// Writes text; a line feed becomes carriage return and line feed.
pub fn write_str(text: &str) {
    for byte in text.bytes() {
        if byte == b'\n' {
            write_byte(b'\r');
        }
        write_byte(byte);
    }
}

/// One received byte, if there is one.
pub fn read_byte() -> Option<u8> {
    let early = EARLY.load(Relaxed);
    if early != NONE {
        EARLY.store(NONE, Relaxed);
        return Some(early as u8);
    }
    let ready = port::read8(COM1 + LINE_STATUS) & LSR_DATA_READY != 0;
    ready.then(|| port::read8(COM1 + DATA))
}

/// Has the device raise its line (IRQ 4) when a byte has come in.
pub fn enable_receive_interrupt() {
    port::write8(COM1 + MODEM_CONTROL, MCR_OUT2 | MCR_RTS_DTR);
    port::write8(COM1 + INTERRUPT_ENABLE, IER_RECEIVED_DATA);
}

/// Called by `entry!`: the banner without its first byte, which boot.s has written.
pub fn write_rest_of_banner(banner: &str) {
    // Switching the FIFOs on clears them: not before the first byte is out.
    while port::read8(COM1 + LINE_STATUS) & LSR_TRANSMITTER_EMPTY == 0 {
        core::hint::spin_loop();
    }
    // It clears what has come in as well. In loopback nothing more does.
    port::write8(COM1 + MODEM_CONTROL, MCR_LOOPBACK);
    if port::read8(COM1 + LINE_STATUS) & LSR_DATA_READY != 0 {
        EARLY.store(u16::from(port::read8(COM1 + DATA)), Relaxed);
    }
    port::write8(COM1 + FIFO_CONTROL, FCR_ENABLE);
    port::write8(COM1 + MODEM_CONTROL, 0);
    write_str(banner.get(1..).unwrap_or_default());
}

/// What `print!` writes to.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_str(text);
        Ok(())
    }
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($arguments:tt)*) => {{
        // The console takes everything.
        let _ = core::fmt::Write::write_fmt(
            &mut $crate::console::Console,
            core::format_args!($($arguments)*),
        );
    }};
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::console::write_str("\n") };
    ($($arguments:tt)*) => {{
        $crate::print!($($arguments)*);
        $crate::console::write_str("\n");
    }};
}
