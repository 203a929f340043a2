//! The MC146818 real-time clock and its CMOS memory, ports 0x70 (index) and 0x71 (data).
//!
//! Called on vCPU threads. Motorola, MC146818 data sheet, "Registers" and "Update cycle". The
//! guest's clock is the host's plus an offset: setting the clock sets the offset, so the clock runs
//! on over a snapshot. Alarms and the periodic interrupt are stored, but nothing interrupts:
//! `thimble-1` wires no line to the chip.

mod calendar;
mod saved;

use std::time::Duration;

use calendar::Civil;
pub use saved::RtcState;

use crate::bus::BusDevice;
use crate::saved::{BadState, Saved};

/// Ports the chip takes.
pub const RTC_LEN: u64 = 2;

/// The host's clock: time since the Unix epoch, UTC. Called on vCPU threads.
pub type HostClock = Box<dyn Fn() -> Duration + Send>;

/// Told when the guest sets its clock: the guest's clock less the host's, in seconds, as QMP's
/// RTC_CHANGE has it. Called on a vCPU thread with the chip locked; must not block.
pub type ChangeHook = Box<dyn FnMut(i64) + Send>;

const INDEX: u64 = 0;
/// Bit 7 of the index port masks NMIs on a PC; here it masks nothing.
const INDEX_MASK: u8 = 0x7f;
/// What the index port, write-only on a PC, reads as.
const WRITE_ONLY: u8 = 0xff;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
/// The PC's addition, named by the FADT.
const CENTURY: u8 = 0x32;
/// The registers that show the time.
const TIME: [u8; 8] = [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY];
const CMOS_LEN: usize = 128;

/// Update in progress: the time is about to change.
const A_UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Divider for the 32.768 kHz crystal (010), periodic rate 1.024 kHz (0110).
const A_DEFAULT: u8 = 0x26;
/// The clock is stopped while the guest sets it.
const B_SET: u8 = 1 << 7;
/// Enables of the three interrupts and the square wave, cleared by a reset.
const B_ENABLES: u8 = 0b0111_1000;
/// Registers are binary, not BCD.
const B_BINARY: u8 = 1 << 2;
/// Hours are 0 to 23, not 1 to 12 with [`HOURS_PM`].
const B_24_HOURS: u8 = 1 << 1;
/// The hours register in 12-hour mode: afternoon.
const HOURS_PM: u8 = 1 << 7;
/// The battery is good.
const D_VALID: u8 = 1 << 7;

/// How long before the time changes the chip says so (data sheet, "Update cycle": t_BUC).
const UPDATE_NOTICE: Duration = Duration::from_micros(244);
/// The greatest offset a saved state may have, in seconds: about 10,000 years, more than four
/// digits of a year can set.
const MAX_OFFSET: i64 = 10_000 * 366 * 86_400;

/// The chip.
pub struct Rtc {
    clock: HostClock,
    on_change: Option<ChangeHook>,
    index: u8,
    offset: i64,
    cmos: [u8; CMOS_LEN],
}

impl Rtc {
    /// A chip that shows the time of `clock`, in BCD and 24 hours, with clear CMOS memory.
    #[must_use]
    pub fn new(clock: HostClock, on_change: Option<ChangeHook>) -> Self {
        let mut rtc = Self {
            clock,
            on_change,
            index: 0,
            offset: 0,
            cmos: [0; CMOS_LEN],
        };
        rtc.store(REGISTER_A, A_DEFAULT);
        rtc.store(REGISTER_B, B_24_HOURS);
        rtc
    }

    /// The guest's clock less the host's, in seconds.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// What the chip's reset pin does. Main thread, vCPUs held. The battery keeps the time and CMOS
    /// memory; a clock stopped for setting runs on with the time it had.
    pub fn reset(&mut self) {
        let Self {
            clock: _,
            on_change: _,
            index,
            offset: _,
            cmos: _,
        } = self;
        *index = 0;
        self.store(REGISTER_B, self.load(REGISTER_B) & !(B_ENABLES | B_SET));
    }

    fn load(&self, register: u8) -> u8 {
        self.cmos.get(usize::from(register)).copied().unwrap_or(0)
    }

    fn store(&mut self, register: u8, value: u8) {
        if let Some(byte) = self.cmos.get_mut(usize::from(register)) {
            *byte = value;
        }
    }

    fn flag(&self, flag: u8) -> bool {
        self.load(REGISTER_B) & flag != 0
    }

    fn host_seconds(&self) -> i64 {
        i64::try_from((self.clock)().as_secs()).unwrap_or(i64::MAX)
    }

    fn guest_seconds(&self) -> i64 {
        // A hostile clock or offset must not reach the calendar's limits.
        self.host_seconds()
            .saturating_add(self.offset)
            .clamp(-MAX_OFFSET, MAX_OFFSET)
    }

    /// A number as the registers show it in the present mode.
    fn encode(&self, value: u8) -> u8 {
        if self.flag(B_BINARY) {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    /// A register's number in the present mode; `None` for what is not BCD.
    fn decode(&self, value: u8) -> Option<u8> {
        if self.flag(B_BINARY) {
            return Some(value);
        }
        let (tens, ones) = (value >> 4, value & 0x0f);
        (tens <= 9 && ones <= 9).then_some(tens * 10 + ones)
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.flag(B_24_HOURS) {
            return self.encode(hour);
        }
        let twelve = (hour + 11) % 12 + 1;
        self.encode(twelve) | if hour >= 12 { HOURS_PM } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> Option<u8> {
        if self.flag(B_24_HOURS) {
            return self.decode(value);
        }
        let twelve = self.decode(value & !HOURS_PM)?;
        let afternoon = if value & HOURS_PM == 0 { 0 } else { 12 };
        (1..=12)
            .contains(&twelve)
            .then_some(twelve % 12 + afternoon)
    }

    /// The time register at `register` for the time `seconds`.
    fn time_register(&self, register: u8, seconds: i64) -> u8 {
        let civil = Civil::from_unix(seconds);
        let two_digits = |value: i64| u8::try_from(value.rem_euclid(100)).unwrap_or(0);
        match register {
            SECONDS => self.encode(civil.second),
            MINUTES => self.encode(civil.minute),
            HOURS => self.encode_hour(civil.hour),
            WEEKDAY => self.encode(Civil::weekday(seconds)),
            DAY => self.encode(civil.day),
            MONTH => self.encode(civil.month),
            YEAR => self.encode(two_digits(civil.year)),
            _ => self.encode(two_digits(civil.year.div_euclid(100))),
        }
    }

    /// Copies the running time to CMOS memory, where the guest may change it.
    fn stop(&mut self) {
        let seconds = self.guest_seconds();
        for register in TIME {
            self.store(register, self.time_register(register, seconds));
        }
    }

    /// Runs on from the time in CMOS memory. A time that is none is dropped: the clock then runs on
    /// as if it had not been stopped.
    fn start(&mut self) {
        let Some(seconds) = self.stopped_time() else {
            log::debug!("rtc: the guest set a time that does not exist");
            return;
        };
        let offset = seconds
            .saturating_sub(self.host_seconds())
            .clamp(-MAX_OFFSET, MAX_OFFSET);
        if self.offset != offset {
            self.offset = offset;
            if let Some(hook) = &mut self.on_change {
                hook(self.offset);
            }
        }
    }

    fn stopped_time(&self) -> Option<i64> {
        let number = |register| self.decode(self.load(register));
        let (century, year) = (number(CENTURY)?, number(YEAR)?);
        if century > 99 || year > 99 {
            return None;
        }
        Civil {
            year: i64::from(century) * 100 + i64::from(year),
            month: number(MONTH)?,
            day: number(DAY)?,
            hour: self.decode_hour(self.load(HOURS))?,
            minute: number(MINUTES)?,
            second: number(SECONDS)?,
        }
        .to_unix()
    }

    fn read_data(&self) -> u8 {
        match self.index {
            REGISTER_A => {
                let notice = Duration::from_secs(1) - UPDATE_NOTICE;
                let imminent = !self.flag(B_SET)
                    && Duration::from_nanos((self.clock)().subsec_nanos().into()) >= notice;
                self.load(REGISTER_A) | if imminent { A_UPDATE_IN_PROGRESS } else { 0 }
            }
            // No interrupt is ever pending.
            REGISTER_C => 0,
            REGISTER_D => D_VALID,
            register if TIME.contains(&register) && !self.flag(B_SET) => {
                self.time_register(register, self.guest_seconds())
            }
            register => self.load(register),
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.index {
            REGISTER_A => self.store(REGISTER_A, value & !A_UPDATE_IN_PROGRESS),
            REGISTER_B => self.write_register_b(value),
            REGISTER_C | REGISTER_D => {}
            register if TIME.contains(&register) && !self.flag(B_SET) => {
                self.stop();
                self.store(register, value);
                self.start();
            }
            register => self.store(register, value),
        }
    }

    fn write_register_b(&mut self, value: u8) {
        let (was_set, set) = (self.flag(B_SET), value & B_SET != 0);
        match (was_set, set) {
            (false, true) => {
                // The registers the guest is about to change are in the new mode at once.
                self.store(REGISTER_B, value);
                self.stop();
            }
            (true, false) => {
                // The guest wrote them in the mode it set before it starts the clock, or in the
                // one it sets with it: the mode counts that is in force from now on.
                self.store(REGISTER_B, value);
                self.start();
            }
            _ => self.store(REGISTER_B, value),
        }
    }
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (port, byte) in (offset..).zip(data) {
            *byte = if port == INDEX {
                WRITE_ONLY
            } else {
                self.read_data()
            };
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (port, byte) in (offset..).zip(data) {
            if port == INDEX {
                self.index = byte & INDEX_MASK;
            } else {
                self.write_data(*byte);
            }
        }
    }
}

impl Saved for Rtc {
    type State = RtcState;
    const KIND: &'static str = "rtc";
    const VERSION: u32 = 1;

    fn save(&self) -> RtcState {
        let Self {
            clock: _,
            on_change: _,
            index,
            offset,
            cmos,
        } = self;
        RtcState {
            index: *index,
            offset: *offset,
            cmos: cmos.to_vec(),
        }
    }

    fn restore(&mut self, state: &RtcState) -> Result<(), BadState> {
        let RtcState {
            index,
            offset,
            cmos,
        } = state;
        let bad = |field, problem| {
            Err(BadState {
                kind: Self::KIND,
                field,
                problem,
            })
        };
        if *index > INDEX_MASK {
            return bad("index", format!("{index} is not below 128"));
        }
        if !(-MAX_OFFSET..=MAX_OFFSET).contains(offset) {
            return bad("offset", format!("{offset} seconds is out of range"));
        }
        let Ok(cmos) = <[u8; CMOS_LEN]>::try_from(cmos.as_slice()) else {
            return bad(
                "cmos",
                format!("{} bytes instead of {CMOS_LEN}", cmos.len()),
            );
        };
        (self.index, self.offset, self.cmos) = (*index, *offset, cmos);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
