//! Ranges of guest memory that hold frames, as the device and as the kernel name them.
//!
//! Filled by a network card's worker from descriptor chains, read and written by its backend, both
//! on the I/O thread. The kernel's form holds host addresses, not references: the guest may write
//! the same bytes at any time. The list keeps the memory they lie in mapped.
#![expect(
    unsafe_code,
    reason = "raw addresses of guest memory cross threads with their owner"
)]

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::disk::buffers::OutsideMemory;
use crate::memory::SharedMemory;

/// Most ranges in a list: `IOV_MAX` less some for buffers of our own before and behind.
pub const RANGES_MAX: usize = 1024 - 8;

/// An ordered list of ranges of guest memory. Ranges are added behind and removed in front.
#[derive(Debug)]
pub struct GuestRanges {
    memory: SharedMemory,
    /// Each lies within one mapped region of `memory`; those before `first` are done with.
    iovecs: Vec<libc::iovec>,
    /// The same by guest-physical address.
    addresses: Vec<u64>,
    first: usize,
    /// Of those from `first` on.
    bytes: u64,
}

// SAFETY: the addresses in `iovecs` stay valid wherever the list is moved, because `memory` moves
// with it; they are used by the kernel only, for which threads of one process are alike.
unsafe impl Send for GuestRanges {}

impl GuestRanges {
    /// An empty list for ranges of `memory`.
    #[must_use]
    pub fn new(memory: SharedMemory) -> Self {
        Self {
            memory,
            iovecs: Vec::with_capacity(64),
            addresses: Vec::with_capacity(64),
            first: 0,
            bytes: 0,
        }
    }

    /// Empties the list, keeping its room.
    pub fn clear(&mut self) {
        self.iovecs.clear();
        self.addresses.clear();
        (self.first, self.bytes) = (0, 0);
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many ranges there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.iovecs.len() - self.first
    }

    /// Appends `len` bytes at guest-physical `address`, which become several ranges where regions
    /// of memory meet. Answers how many ranges were added.
    ///
    /// # Errors
    /// [`OutsideMemory`], with the list unchanged.
    pub fn push(&mut self, address: u64, len: u32) -> Result<usize, OutsideMemory> {
        let outside = OutsideMemory { address, len };
        let before = self.iovecs.len();
        let count = usize::try_from(len).map_err(|_| outside)?;
        let slices = GuestMemoryBackend::get_slices(&*self.memory, GuestAddress(address), count);
        let mut at = address;
        for slice in slices {
            let Ok(slice) = slice else {
                self.iovecs.truncate(before);
                self.addresses.truncate(before);
                return Err(outside);
            };
            let iov_base = slice.ptr_guard_mut().as_ptr().cast();
            let iov_len = slice.len();
            self.iovecs.push(libc::iovec { iov_base, iov_len });
            self.addresses.push(at);
            at += iov_len as u64;
        }
        self.bytes += u64::from(len);
        Ok(self.iovecs.len() - before)
    }

    /// Removes the first `count` ranges.
    pub fn remove(&mut self, count: usize) {
        let end = self.first.saturating_add(count).min(self.iovecs.len());
        let removed = self.iovecs.get(self.first..end).unwrap_or_default();
        self.bytes -= removed
            .iter()
            .map(|range| range.iov_len as u64)
            .sum::<u64>();
        self.first = end;
        if self.first == self.iovecs.len() {
            self.clear();
        } else if self.first >= RANGES_MAX {
            // Seldom, so that each range is moved once at most.
            self.iovecs.drain(..self.first);
            self.addresses.drain(..self.first);
            self.first = 0;
        }
    }

    /// Removes the first `bytes`, or all if there are fewer.
    pub fn advance(&mut self, bytes: u64) {
        let mut left = bytes;
        while let (Some(range), Some(address)) = (
            self.iovecs.get_mut(self.first),
            self.addresses.get_mut(self.first),
        ) {
            let len = range.iov_len as u64;
            if len > left {
                // Less than a range's length, so it fits.
                let step = left as usize;
                range.iov_base = range.iov_base.wrapping_byte_add(step);
                range.iov_len -= step;
                *address += left;
                self.bytes -= left;
                return;
            }
            left -= len;
            self.remove(1);
        }
    }

    /// Copies the bytes at `offset` out. False if there are not that many.
    #[must_use]
    pub fn read(&self, offset: u64, data: &mut [u8]) -> bool {
        let mut rest = data;
        self.pieces(offset, rest.len(), |address, len| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(len);
            rest = later;
            self.memory.read_slice(now, GuestAddress(address)).is_ok()
        })
    }

    /// Copies `data` in at `offset`. False if it does not fit; some may have been written then.
    #[must_use]
    pub fn write(&self, offset: u64, data: &[u8]) -> bool {
        let mut rest = data;
        self.pieces(offset, rest.len(), |address, len| {
            let (now, later) = rest.split_at(len);
            rest = later;
            self.memory.write_slice(now, GuestAddress(address)).is_ok()
        })
    }

    /// Calls `each` with the address and length of every piece of the `len` bytes at `offset`;
    /// the lengths add up to `len` at most.
    fn pieces(&self, offset: u64, len: usize, mut each: impl FnMut(u64, usize) -> bool) -> bool {
        let (mut skip, mut left) = (offset, len);
        let addresses = self.addresses.iter().skip(self.first);
        for (range, address) in self.iovecs().iter().zip(addresses) {
            if left == 0 {
                break;
            }
            let here = range.iov_len as u64;
            if skip >= here {
                skip -= here;
                continue;
            }
            let count = left.min(range.iov_len - skip as usize);
            if !each(address + skip, count) {
                return false;
            }
            (skip, left) = (0, left - count);
        }
        left == 0
    }

    /// Calls `each` with the ranges, and `tail` behind them, for the kernel.
    pub(super) fn followed_by<T>(
        &mut self,
        tail: &mut [u8],
        each: impl FnOnce(&[libc::iovec]) -> T,
    ) -> T {
        let before = self.iovecs.len();
        if !tail.is_empty() {
            let iov_base = tail.as_mut_ptr().cast();
            let iov_len = tail.len();
            self.iovecs.push(libc::iovec { iov_base, iov_len });
        }
        let result = each(self.iovecs());
        self.iovecs.truncate(before);
        result
    }

    /// The ranges, for the kernel.
    pub(super) fn iovecs(&self) -> &[libc::iovec] {
        self.iovecs.get(self.first..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestMemory;
    use std::sync::Arc;

    fn ranges() -> GuestRanges {
        let regions = [(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)];
        GuestRanges::new(Arc::new(GuestMemory::from_ranges(&regions).unwrap()))
    }

    #[test]
    fn ranges_are_split_where_regions_meet_and_refused_outside() {
        let mut ranges = ranges();
        assert_eq!(ranges.push(0xff0, 0x20), Ok(2));
        for (address, len) in [(0x1ff0, 0x11), (0x2000, 1), (u64::MAX, 1), (0, u32::MAX)] {
            assert!(ranges.push(address, len).is_err(), "{address:#x} {len:#x}");
        }
        assert_eq!((ranges.bytes(), ranges.count()), (0x20, 2));
    }

    #[test]
    fn bytes_are_found_across_ranges_and_after_removals() {
        let mut ranges = ranges();
        ranges.push(0xffe, 4).unwrap();
        ranges.push(0x100, 3).unwrap();
        assert!(ranges.write(0, b"abcdefg"));
        let mut back = [0; 4];
        assert!(ranges.read(1, &mut back));
        assert_eq!(&back, b"bcde");
        assert!(!ranges.read(4, &mut back) && !ranges.write(7, b"x") && ranges.write(7, b""));
        let mut there = [0; 2];
        ranges
            .memory
            .read_slice(&mut there, GuestAddress(0x100))
            .unwrap();
        assert_eq!(&there, b"ef");
        ranges.advance(3);
        assert_eq!((ranges.bytes(), ranges.count()), (4, 2));
        assert!(ranges.read(0, &mut back));
        assert_eq!(&back, b"defg");
        ranges.remove(1);
        assert!(ranges.read(0, &mut back[..3]));
        assert_eq!((&back[..3], ranges.bytes()), (&b"efg"[..], 3));
        ranges.advance(100);
        assert_eq!((ranges.bytes(), ranges.count()), (0, 0));
    }

    #[test]
    fn a_list_that_is_used_for_ever_does_not_grow() {
        let mut ranges = ranges();
        ranges.push(0, 1).unwrap();
        for at in 0..10_000_u64 {
            ranges.push(at % 0x1000, 1).unwrap();
            ranges.remove(1);
        }
        assert_eq!((ranges.bytes(), ranges.count()), (1, 1));
        assert!(ranges.iovecs.capacity() <= 2 * RANGES_MAX);
    }
}
