//! Test guest: keeps the processor busy without exits, and prints how far it has come when a byte
//! is typed: `SPIN count=N`; `q` powers off.
#![no_std]
#![no_main]

use rt::{console, interrupts, println};

rt::entry!(main, "spin\n");

const SERIAL_LINE: u32 = 4;

fn main() {
    interrupts::enable();
    interrupts::route(SERIAL_LINE);
    console::enable_receive_interrupt();
    println!("SPIN ready");
    let mut count = 0u64;
    // No interrupt has to come for what was typed before it was asked for.
    let mut seen = u64::MAX;
    loop {
        count += 1;
        let now = interrupts::line_count(SERIAL_LINE);
        if now == seen {
            continue;
        }
        seen = now;
        while let Some(byte) = console::read_byte() {
            println!("SPIN count={count}");
            if byte == b'q' {
                return;
            }
        }
    }
}
