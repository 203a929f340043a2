//! Address ranges and the devices behind them.
//!
//! One [`Bus`] exists for port I/O and one for memory-mapped I/O. Both are built once, before the
//! first vCPU runs, and only read afterwards: a vCPU thread that exits on an access looks the
//! device up without a lock and then locks that device alone.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A device as the bus sees it. Offsets are relative to the start of the device's range, and
/// `offset + data.len()` never leaves that range.
///
/// Called on vCPU threads, with the device locked. Neither call may block on I/O.
pub trait BusDevice: Send {
    /// The guest reads `data.len()` bytes (1, 2, 4 or 8) at `offset`. `data` arrives zeroed.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes `data` (1, 2, 4 or 8 bytes) at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device shared between the bus and whoever attached it.
pub type SharedDevice = Arc<Mutex<dyn BusDevice>>;

/// Why a range could not be inserted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The range has no bytes or wraps around the end of the address space.
    #[error("{name}: the range at {start:#x} of {len:#x} bytes is empty or wraps around")]
    BadRange {
        /// The device that asked.
        name: String,
        /// First address.
        start: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Two devices claim the same address.
    #[error("{name} at {start:#x} overlaps {other}")]
    Overlap {
        /// The device that asked.
        name: String,
        /// First address asked for.
        start: u64,
        /// The device already there.
        other: String,
    },
}

struct Entry {
    start: u64,
    /// Inclusive, so that a range may end at the last address.
    last: u64,
    name: String,
    device: SharedDevice,
}

impl Entry {
    /// The device's lock. A device that panicked took the process along, so it is never poisoned.
    fn device(&self) -> MutexGuard<'_, dyn BusDevice + 'static> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A set of disjoint address ranges, sorted by address.
#[derive(Default)]
pub struct Bus {
    entries: Vec<Entry>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}

impl Bus {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at `start..start + len`.
    ///
    /// # Errors
    /// [`BusError`] when the range is empty, wraps around, or overlaps another device's.
    pub fn insert(
        &mut self,
        name: &str,
        start: u64,
        len: u64,
        device: SharedDevice,
    ) -> Result<(), BusError> {
        let last = len
            .checked_sub(1)
            .and_then(|n| start.checked_add(n))
            .ok_or_else(|| BusError::BadRange {
                name: name.to_owned(),
                start,
                len,
            })?;
        let at = self.entries.partition_point(|e| e.start <= last);
        if let Some(before) = at.checked_sub(1).and_then(|i| self.entries.get(i))
            && before.last >= start
        {
            return Err(BusError::Overlap {
                name: name.to_owned(),
                start,
                other: before.name.clone(),
            });
        }
        self.entries.insert(
            at,
            Entry {
                start,
                last,
                name: name.to_owned(),
                device,
            },
        );
        Ok(())
    }

    /// Reads at `address`. Returns `false`, with `data` untouched, when no device claims every
    /// byte of the access.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let Some((entry, offset)) = self.find(address, data.len()) else {
            return false;
        };
        data.fill(0);
        entry.device().read(offset, data);
        true
    }

    /// Writes at `address`. Returns `false` when no device claims every byte of the access.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let Some((entry, offset)) = self.find(address, data.len()) else {
            return false;
        };
        entry.device().write(offset, data);
        true
    }

    /// Every range as (first address, last address, device name), in address order.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64, &str)> {
        self.entries
            .iter()
            .map(|e| (e.start, e.last, e.name.as_str()))
    }

    fn find(&self, address: u64, len: usize) -> Option<(&Entry, u64)> {
        let last = address.checked_add(u64::try_from(len).ok()?.checked_sub(1)?)?;
        let at = self
            .entries
            .partition_point(|e| e.start <= address)
            .checked_sub(1)?;
        let entry = self.entries.get(at)?;
        (last <= entry.last).then(|| (entry, address - entry.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Probe(Vec<(u64, Vec<u8>)>);

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    fn probe() -> Arc<Mutex<Probe>> {
        Arc::new(Mutex::new(Probe::default()))
    }

    #[test]
    fn accesses_reach_the_device_that_owns_the_whole_access() {
        let (a, b) = (probe(), probe());
        let mut bus = Bus::new();
        bus.insert("a", 0x100, 0x10, a.clone()).unwrap();
        bus.insert("b", 0x110, 0x10, b.clone()).unwrap();
        let mut data = [0xff; 4];
        assert!(bus.read(0x112, &mut data));
        assert_eq!(data, [2; 4]);
        assert!(bus.write(0x10c, &[1, 2, 3, 4]));
        assert_eq!(a.lock().unwrap().0, [(0xc, vec![1, 2, 3, 4])]);
        // Straddles a and b, misses, wraps: nobody's.
        assert!(!bus.write(0x10e, &[0; 4]));
        assert!(!bus.read(0x120, &mut data));
        assert!(!bus.read(0xff, &mut data[..1]));
        assert!(!bus.read(u64::MAX, &mut data));
        assert!(b.lock().unwrap().0.is_empty());
    }

    #[test]
    fn overlaps_and_bad_ranges_are_refused() {
        let mut bus = Bus::new();
        bus.insert("a", 0x100, 0x10, probe()).unwrap();
        for (start, len) in [(0x100, 0x10), (0xf1, 0x10), (0x10f, 1), (0, 0x1000)] {
            let error = bus.insert("x", start, len, probe()).unwrap_err();
            assert!(
                matches!(error, BusError::Overlap { .. }),
                "{start:#x} {len:#x}"
            );
        }
        for (start, len) in [(0x200, 0), (u64::MAX, 2)] {
            let error = bus.insert("x", start, len, probe()).unwrap_err();
            assert!(matches!(error, BusError::BadRange { .. }));
        }
        bus.insert("end", u64::MAX - 0xf, 0x10, probe()).unwrap();
        assert!(bus.write(u64::MAX, &[0]));
    }
}
