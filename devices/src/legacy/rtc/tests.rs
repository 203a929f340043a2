use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::super::conformance::{
    refuses, reset_twice, save_restore_save, survives_hostile_accesses,
};
use super::*;

/// `date -u -d '2026-07-04 15:09:26' +%s`, a Saturday.
const NOW: u64 = 1_783_177_766;
const NANOS: u64 = 1_000_000_000;

struct Bench {
    rtc: Rtc,
    /// The host's clock in nanoseconds.
    host: Arc<AtomicU64>,
    changes: Arc<Mutex<Vec<i64>>>,
}

fn bench() -> Bench {
    let host = Arc::new(AtomicU64::new(NOW * NANOS));
    let changes = Arc::new(Mutex::new(Vec::new()));
    let (clock, hook) = (host.clone(), changes.clone());
    let rtc = Rtc::new(
        Box::new(move || Duration::from_nanos(clock.load(Ordering::Relaxed))),
        Some(Box::new(move |offset| hook.lock().unwrap().push(offset))),
    );
    Bench { rtc, host, changes }
}

impl Bench {
    fn get(&mut self, register: u8) -> u8 {
        self.rtc.write(0, &[register]);
        let mut data = [0];
        self.rtc.read(1, &mut data);
        data[0]
    }

    fn set(&mut self, register: u8, value: u8) {
        self.rtc.write(0, &[register]);
        self.rtc.write(1, &[value]);
    }

    /// Century, year, month, day, weekday, hours, minutes, seconds.
    fn time(&mut self) -> [u8; 8] {
        [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|r| self.get(r))
    }

    /// The same order, without the weekday.
    fn set_time(&mut self, values: [u8; 7]) {
        let registers = [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS];
        for (register, value) in registers.into_iter().zip(values) {
            self.set(register, value);
        }
    }

    fn host_runs(&self, seconds: u64) {
        self.host.fetch_add(seconds * NANOS, Ordering::Relaxed);
    }
}

#[test]
fn the_time_shows_in_all_four_modes() {
    let mut b = bench();
    assert_eq!(b.time(), [0x20, 0x26, 0x07, 0x04, 0x07, 0x15, 0x09, 0x26]);
    b.set(REGISTER_B, B_24_HOURS | B_BINARY);
    assert_eq!(b.time(), [20, 26, 7, 4, 7, 15, 9, 26]);
    b.set(REGISTER_B, B_BINARY);
    assert_eq!(b.get(HOURS), 3 | HOURS_PM);
    b.set(REGISTER_B, 0);
    assert_eq!(b.get(HOURS), 0x03 | HOURS_PM);
    // Noon is 12 PM, midnight 12 AM.
    b.host.store(
        (NOW / 86_400 * 86_400 + 12 * 3600) * NANOS,
        Ordering::Relaxed,
    );
    assert_eq!(b.get(HOURS), 0x12 | HOURS_PM);
    b.host_runs(12 * 3600);
    assert_eq!(b.get(HOURS), 0x12);
    assert_eq!(b.get(DAY), 0x05);
}

#[test]
fn setting_the_clock_as_linux_does_sets_the_offset() {
    let mut b = bench();
    b.set(REGISTER_B, B_24_HOURS | B_SET);
    // Stopped: the host's clock no longer shows.
    b.host_runs(5);
    assert_eq!(b.get(SECONDS), 0x26);
    b.set_time([0x20, 0x30, 0x12, 0x31, 0x23, 0x59, 0x58]);
    assert!(b.changes.lock().unwrap().is_empty());
    b.set(REGISTER_B, B_24_HOURS);
    // `date -u -d '2030-12-31 23:59:58' +%s`
    let offset = 1_924_991_998 - (NOW as i64 + 5);
    assert_eq!(*b.changes.lock().unwrap(), [offset]);
    assert_eq!(b.rtc.offset(), offset);
    b.host_runs(2);
    assert_eq!(b.time(), [0x20, 0x31, 0x01, 0x01, 0x04, 0x00, 0x00, 0x00]);
}

#[test]
fn registers_can_be_set_while_the_clock_runs() {
    let mut b = bench();
    b.set(MINUTES, 0x10);
    assert_eq!(b.rtc.offset(), 60);
    assert_eq!(b.time(), [0x20, 0x26, 0x07, 0x04, 0x07, 0x15, 0x10, 0x26]);
    // The weekday follows from the date; writing it changes nothing.
    b.set(WEEKDAY, 0x01);
    assert_eq!(b.get(WEEKDAY), 0x07);
    assert_eq!(*b.changes.lock().unwrap(), [60]);
}

#[test]
fn a_clock_stopped_without_being_set_only_loses_the_time_it_stood() {
    let mut b = bench();
    b.set(REGISTER_B, B_24_HOURS | B_SET);
    b.set(REGISTER_B, B_24_HOURS);
    assert_eq!((b.rtc.offset(), b.changes.lock().unwrap().len()), (0, 0));
    b.set(REGISTER_B, B_24_HOURS | B_SET);
    b.host_runs(3);
    b.set(REGISTER_B, B_24_HOURS);
    assert_eq!((b.rtc.offset(), b.get(SECONDS)), (-3, 0x26));
}

#[test]
fn the_afternoon_can_be_set_in_12_hours() {
    let mut b = bench();
    b.set(REGISTER_B, B_SET);
    b.set_time([0x20, 0x26, 0x07, 0x04, 0x12, 0x00, 0x00]);
    b.set(REGISTER_B, 0);
    b.set(REGISTER_B, B_24_HOURS);
    assert_eq!(b.get(HOURS), 0x00);
    b.set(REGISTER_B, B_SET);
    b.set(HOURS, 0x11 | HOURS_PM);
    b.set(REGISTER_B, 0);
    b.set(REGISTER_B, B_24_HOURS);
    assert_eq!(b.get(HOURS), 0x23);
}

#[test]
fn a_time_that_does_not_exist_changes_nothing() {
    for bad in [
        [0x20, 0x26, 0x13, 0x01, 0x00, 0x00, 0x00],
        [0x20, 0x26, 0x02, 0x30, 0x00, 0x00, 0x00],
        [0x20, 0x26, 0x02, 0x01, 0x24, 0x00, 0x00],
        [0x20, 0x26, 0x02, 0x01, 0x00, 0x0a, 0x00],
        [0xff; 7],
    ] {
        let mut b = bench();
        b.set(REGISTER_B, B_24_HOURS | B_SET);
        b.set_time(bad);
        b.set(REGISTER_B, B_24_HOURS);
        assert_eq!(b.rtc.offset(), 0, "{bad:02x?}");
        assert_eq!(b.get(YEAR), 0x26);
    }
}

#[test]
fn update_in_progress_shows_just_before_the_second_and_never_sticks() {
    let mut b = bench();
    let mut seen = [0, 0];
    for step in 0..100_000 {
        b.host.store(NOW * NANOS + step * 20_000, Ordering::Relaxed);
        seen[usize::from(b.get(REGISTER_A) >> 7)] += 1;
    }
    // Two seconds in steps of 20 us: 12 or 13 steps lie within 244 us of each end.
    assert!((24..=26).contains(&seen[1]), "{seen:?}");
    b.host.store(NOW * NANOS + NANOS - 1, Ordering::Relaxed);
    assert_eq!(b.get(REGISTER_A), A_DEFAULT | A_UPDATE_IN_PROGRESS);
    b.set(REGISTER_B, B_SET);
    assert_eq!(b.get(REGISTER_A), A_DEFAULT);
    b.set(REGISTER_A, 0xf0);
    assert_eq!(b.get(REGISTER_A), 0x70);
}

#[test]
fn cmos_memory_keeps_its_bytes_and_status_registers_are_read_only() {
    let mut b = bench();
    for register in (0x0e..0x80).filter(|r| *r != CENTURY) {
        b.set(register, register ^ 0x5a);
    }
    for register in (0x0e..0x80).filter(|r| *r != CENTURY) {
        assert_eq!(b.get(register), register ^ 0x5a);
        // Bit 7 of the index is not part of it.
        assert_eq!(b.get(register | 0x80), register ^ 0x5a);
    }
    b.set(REGISTER_C, 0xff);
    b.set(REGISTER_D, 0x00);
    assert_eq!((b.get(REGISTER_C), b.get(REGISTER_D)), (0, 0x80));
    let mut both = [0; 2];
    b.rtc.write(0, &[0x20, 0x99]);
    b.rtc.read(0, &mut both);
    assert_eq!(both, [0xff, 0x99]);
}

#[test]
fn the_battery_outlives_a_reset() {
    let mut b = bench();
    b.set(0x40, 0x77);
    b.set(MINUTES, 0x19);
    b.set(REGISTER_B, B_24_HOURS | B_ENABLES | B_SET);
    b.set(YEAR, 0x99);
    b.rtc.reset();
    assert_eq!(b.get(REGISTER_B), B_24_HOURS);
    assert_eq!(
        (b.get(0x40), b.get(MINUTES), b.get(YEAR)),
        (0x77, 0x19, 0x26)
    );
}

#[test]
fn a_clock_out_of_this_world_is_survived() {
    for host in [Duration::ZERO, Duration::MAX] {
        let mut rtc = Rtc::new(Box::new(move || host), None);
        survives_hostile_accesses(&mut rtc, RTC_LEN);
    }
    let flip = AtomicI64::new(0);
    let mut rtc = Rtc::new(
        Box::new(move || {
            let step = flip.fetch_add(1, Ordering::Relaxed);
            if step % 2 == 0 {
                Duration::ZERO
            } else {
                Duration::MAX
            }
        }),
        None,
    );
    survives_hostile_accesses(&mut rtc, RTC_LEN);
}

#[test]
fn conforms() {
    let mut b = bench();
    survives_hostile_accesses(&mut b.rtc, RTC_LEN);
    save_restore_save(&b.rtc, &mut bench().rtc);
    let good = b.rtc.save();
    refuses(
        &mut b.rtc,
        &RtcState {
            index: 128,
            ..good.clone()
        },
        "index",
    );
    refuses(
        &mut b.rtc,
        &RtcState {
            offset: i64::MIN,
            ..good.clone()
        },
        "offset",
    );
    refuses(
        &mut b.rtc,
        &RtcState {
            offset: MAX_OFFSET + 1,
            ..good.clone()
        },
        "offset",
    );
    refuses(
        &mut b.rtc,
        &RtcState {
            cmos: vec![0; 127],
            ..good.clone()
        },
        "cmos",
    );
    refuses(
        &mut b.rtc,
        &RtcState {
            cmos: vec![0; 129],
            ..good
        },
        "cmos",
    );
    let mut b = bench();
    b.rtc.write(0, &[0x55]);
    let fresh = bench().rtc.save();
    reset_twice(&mut b.rtc, Rtc::reset, &fresh);
}
