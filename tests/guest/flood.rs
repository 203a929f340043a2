//! Test guest: prints a lot, so that a reader can tell lost, doubled and torn output.
//!
//! Each line is 64 bytes: its number, and letters that depend on it. The last line is
//! `FLOOD DONE lines=N fnv1a=H`, H being the 64-bit FNV-1a of all lines, line ends apart.
//! Command line: `kib=N` (default 1024).
#![no_std]
#![no_main]

use core::fmt::Write;

use rt::{boot_info, console, println};

rt::entry!(main, "flood\n");

const LINE: usize = 64;
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x100_0000_01b3;

/// A line, and the hash of all lines so far.
struct Line {
    length: usize,
    hash: u64,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        console::write_str(text);
        self.length += text.len();
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
        Ok(())
    }
}

fn main() {
    let lines = boot_info::number("kib").unwrap_or(1024) * 1024 / LINE as u64;
    let mut line = Line {
        length: 0,
        hash: FNV_OFFSET,
    };
    for number in 0..lines {
        line.length = 0;
        // Writing to a `Line` cannot fail.
        let _ = write!(line, "{number:08} ");
        while line.length < LINE - 2 {
            let letter = (number as usize + line.length) % 26;
            let _ = line.write_char(char::from(b'a' + letter as u8));
        }
        console::write_str("\n");
    }
    println!("FLOOD DONE lines={lines} fnv1a={:016x}", line.hash);
}
