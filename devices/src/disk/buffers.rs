//! A request's data buffers in guest memory, as I/O vectors for the kernel.
//!
//! Filled by a device worker from a validated descriptor chain, consumed by a disk backend, both
//! on the I/O thread. The list holds host addresses, not references: the guest may write the same
//! bytes at any time. It keeps the memory they lie in mapped, so a backend may hold it as long as
//! the kernel does.
#![expect(
    unsafe_code,
    reason = "raw addresses of guest memory cross threads with their owner"
)]

use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::memory::SharedMemory;

/// A range that is not guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{len:#x} bytes at {address:#x} are not in guest memory")]
pub struct OutsideMemory {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// An ordered list of ranges of guest memory.
#[derive(Debug)]
pub struct GuestBuffers {
    memory: SharedMemory,
    /// Each lies within one mapped region of `memory`.
    iovecs: Vec<libc::iovec>,
    bytes: u64,
}

// SAFETY: the addresses in `iovecs` stay valid wherever the list is moved, because `memory` moves
// with it; they are used by the kernel only, for which threads of one process are alike.
unsafe impl Send for GuestBuffers {}

impl GuestBuffers {
    /// An empty list for ranges of `memory`.
    #[must_use]
    pub fn new(memory: SharedMemory) -> Self {
        Self {
            memory,
            iovecs: Vec::with_capacity(256),
            bytes: 0,
        }
    }

    /// Empties the list, keeping its room.
    pub fn clear(&mut self) {
        self.iovecs.clear();
        self.bytes = 0;
    }

    /// Appends `len` bytes at guest-physical `address`; they become several vectors where regions
    /// of memory meet.
    ///
    /// # Errors
    /// [`OutsideMemory`], with the list unchanged.
    pub fn push(&mut self, address: u64, len: u32) -> Result<(), OutsideMemory> {
        let outside = OutsideMemory { address, len };
        let before = self.iovecs.len();
        let count = usize::try_from(len).map_err(|_| outside)?;
        let slices = GuestMemoryBackend::get_slices(&*self.memory, GuestAddress(address), count);
        for slice in slices {
            let Ok(slice) = slice else {
                self.iovecs.truncate(before);
                return Err(outside);
            };
            let iov_base = slice.ptr_guard_mut().as_ptr().cast();
            self.iovecs.push(libc::iovec {
                iov_base,
                iov_len: slice.len(),
            });
        }
        self.bytes += u64::from(len);
        Ok(())
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Drops the first `count` vectors: they are done.
    pub(super) fn skip(&mut self, count: usize) {
        self.iovecs.drain(..count.min(self.iovecs.len()));
    }

    /// The vectors.
    pub(super) fn iovecs(&self) -> &[libc::iovec] {
        &self.iovecs
    }

    /// The vectors, for the kernel. They may be changed to keep track of what is done: nothing
    /// reads them afterwards.
    pub(crate) fn iovecs_mut(&mut self) -> &mut [libc::iovec] {
        &mut self.iovecs
    }

    /// Moves the list out, leaving an empty one, for a backend that goes on with it.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let empty = Self {
            memory: self.memory.clone(),
            iovecs: Vec::new(),
            bytes: 0,
        };
        std::mem::replace(self, empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestMemory;
    use std::sync::Arc;

    #[test]
    fn ranges_are_split_where_regions_meet_and_refused_outside() {
        let regions = [(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)];
        let memory = Arc::new(GuestMemory::from_ranges(&regions).unwrap());
        let mut buffers = GuestBuffers::new(memory);
        buffers.push(0xff0, 0x20).unwrap();
        assert_eq!(
            buffers
                .iovecs_mut()
                .iter()
                .map(|v| v.iov_len)
                .collect::<Vec<_>>(),
            [16, 16]
        );
        for (address, len) in [(0x1ff0, 0x11), (0x2000, 1), (u64::MAX, 1), (0, u32::MAX)] {
            assert!(buffers.push(address, len).is_err(), "{address:#x} {len:#x}");
        }
        assert_eq!((buffers.bytes(), buffers.iovecs_mut().len()), (0x20, 2));
        let taken = buffers.take();
        assert_eq!((taken.bytes(), buffers.bytes()), (0x20, 0));
    }
}
