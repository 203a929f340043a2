//! The CMOS clock and its battery-backed bytes (MC146818A).

use crate::clock::Deadline;
use crate::port;

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const CENTURY: u8 = 0x32;
const UPDATE_IN_PROGRESS: u8 = 0x80;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
const HOURS_PM: u8 = 0x80;

/// Reads a register (0-127).
pub fn read(register: u8) -> u8 {
    port::write8(INDEX, register);
    port::read8(DATA)
}

/// Writes a register (0-127).
pub fn write(register: u8, value: u8) {
    port::write8(INDEX, register);
    port::write8(DATA, value);
}

/// A date and time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// Four digits.
    pub year: u16,
    /// 1-12.
    pub month: u8,
    /// 1-31.
    pub day: u8,
    /// 0-23.
    pub hour: u8,
    /// 0-59.
    pub minute: u8,
    /// 0-59.
    pub second: u8,
}

/// The clock's time, read twice alike; none if it does not hold still or makes no sense.
pub fn now() -> Option<DateTime> {
    let deadline = Deadline::after_ms(2000);
    while !deadline.passed() {
        if read(STATUS_A) & UPDATE_IN_PROGRESS != 0 {
            continue;
        }
        let time = read_once();
        if time == read_once() {
            let valid = (1..=12).contains(&time.month)
                && (1..=31).contains(&time.day)
                && time.hour < 24
                && time.minute < 60
                && time.second < 60;
            return valid.then_some(time);
        }
    }
    None
}

fn read_once() -> DateTime {
    let mode = read(STATUS_B);
    let number = |value: u8| match mode & B_BINARY {
        0 => (value >> 4) * 10 + (value & 0xf),
        _ => value,
    };
    let hours = read(4);
    let mut hour = number(hours & !HOURS_PM);
    if mode & B_24_HOURS == 0 {
        hour = hour % 12 + if hours & HOURS_PM != 0 { 12 } else { 0 };
    }
    DateTime {
        year: u16::from(number(read(CENTURY))) * 100 + u16::from(number(read(9))),
        month: number(read(8)),
        day: number(read(7)),
        hour,
        minute: number(read(2)),
        second: number(read(0)),
    }
}
