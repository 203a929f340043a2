//! What every chip must do, asserted by one suite; and the seams as tests see them.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::bus::BusDevice;
use crate::events::{EventSink, GuestEvent};
use crate::irq::IrqLine;
use crate::saved::Saved;

/// Counts the edges a chip raises.
#[derive(Default)]
pub(super) struct Edges(AtomicUsize);

impl Edges {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Edges since the last call.
    pub(super) fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl IrqLine for Edges {
    fn raise(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Keeps the events a chip raises.
#[derive(Default)]
pub(super) struct Events(Mutex<Vec<GuestEvent>>);

impl Events {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Events since the last call.
    pub(super) fn take(&self) -> Vec<GuestEvent> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl EventSink for Events {
    fn raise(&self, event: GuestEvent) {
        self.0.lock().unwrap().push(event);
    }
}

pub(super) fn read_byte(chip: &mut impl BusDevice, offset: u64) -> u8 {
    let mut data = [0];
    chip.read(offset, &mut data);
    data[0]
}

/// Reads and writes of every size at every offset of a range of `len` bytes, with every byte
/// value, must neither panic nor hang. (What the chip does with them is each chip's own test.)
pub(super) fn survives_hostile_accesses(chip: &mut impl BusDevice, len: u64) {
    // Mixed so that one register's values meet many states of the others.
    let mut seed = 0x9e37_79b9_u32;
    for round in 0..4096_u32 {
        for size in [1_usize, 2, 4, 8] {
            let size_u64 = size as u64;
            if size_u64 > len {
                continue;
            }
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let places = len - size_u64 + 1;
            let offset = if round < 256 {
                u64::from(round) % places
            } else {
                u64::from(seed >> 8) % places
            };
            let value = if round < 256 {
                round as u8
            } else {
                (seed >> 24) as u8
            };
            chip.write(
                offset,
                &[value, value ^ 0xff, value, !value, 0, 0xff, value, 1][..size],
            );
            let mut data = [0; 8];
            chip.read(offset, &mut data[..size]);
        }
    }
}

/// Save, restore into a fresh chip, save: equal.
pub(super) fn save_restore_save<C: Saved>(chip: &C, fresh: &mut C) {
    let state = chip.save();
    fresh.restore(&state).unwrap();
    assert_eq!(fresh.save(), state, "{} v{}", C::KIND, C::VERSION);
}

/// Resetting twice is resetting once, and a reset chip has the state of `expected`.
pub(super) fn reset_twice<C: Saved>(chip: &mut C, reset: impl Fn(&mut C), expected: &C::State) {
    reset(chip);
    assert_eq!(&chip.save(), expected);
    reset(chip);
    assert_eq!(&chip.save(), expected);
}

/// A state that cannot be must be refused by name and leave the chip as it was.
pub(super) fn refuses<C: Saved>(chip: &mut C, state: &C::State, field: &str) {
    let before = chip.save();
    let error = chip.restore(state).unwrap_err();
    assert_eq!((error.kind, error.field), (C::KIND, field));
    assert_eq!(chip.save(), before);
}
