//! Disk backends: where the blocks of a guest's disk are.
//!
//! * [`raw`]: a plain file or block device; [`open`] opens one, [`lock`] keeps others out.
//! * [`buffers`]: a request's data in guest memory, as a backend takes it.
//!
//! A backend is owned by a device worker and called on the I/O thread; while the worker is taken
//! back, by the main thread. It knows nothing of virtio. Ranges are checked by the caller against
//! [`Geometry`]: a backend is never asked to go beyond the capacity it told last.

pub mod buffers;
#[cfg(test)]
mod engine_tests;
pub mod lock;
pub mod open;
pub mod raw;
pub mod uring;

use std::io;
use std::os::fd::RawFd;

use buffers::GuestBuffers;

use crate::io_thread::Recall;

/// Bytes of a sector, the unit of virtio-blk requests and of capacities.
pub const SECTOR_SIZE: u64 = 512;

/// How the host's page cache and the disk's own cache are used; QEMU's five modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// Host page cache; a guest's flush reaches the medium.
    #[default]
    Writeback,
    /// No host page cache (`O_DIRECT`); a guest's flush reaches the medium.
    None,
    /// Host page cache for reads; every write reaches the medium before it completes.
    Writethrough,
    /// No host page cache, and every write reaches the medium before it completes.
    Directsync,
    /// Host page cache; flushes are ignored. A host crash loses data.
    Unsafe,
}

impl CacheMode {
    /// Whether the host's page cache is bypassed.
    #[must_use]
    pub fn is_direct(self) -> bool {
        matches!(self, Self::None | Self::Directsync)
    }

    /// Whether a guest sees a volatile write cache that it has to flush.
    #[must_use]
    pub fn is_writeback(self) -> bool {
        !matches!(self, Self::Writethrough | Self::Directsync)
    }
}

/// What a disk looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Size in bytes, a multiple of [`SECTOR_SIZE`].
    pub capacity: u64,
    /// Smallest unit of I/O in bytes: a power of two, at least [`SECTOR_SIZE`].
    pub block_size: u32,
    /// Physical block in bytes, a power of two and at least `block_size`: writes smaller than
    /// this are slower.
    pub physical_block_size: u32,
    /// Whether writes fail.
    pub read_only: bool,
}

/// What to do. Offsets and lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Fills the buffers.
    Read {
        /// First byte.
        offset: u64,
    },
    /// Stores the buffers.
    Write {
        /// First byte.
        offset: u64,
        /// Whether the data, and all that was written before, must be on the medium when the
        /// operation completes.
        durable: bool,
    },
    /// Puts everything that completed before on the medium.
    Flush,
    /// The content does not matter any longer. May do nothing.
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The content reads as zeroes afterwards.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Whether the space may be given back.
        unmap: bool,
        /// As with [`Op::Write`].
        durable: bool,
    },
}

/// How an operation ended.
#[derive(Debug)]
pub enum Outcome {
    /// It was carried out.
    Success,
    /// It failed. The error's `raw_os_error` is what a guest's owner is told.
    Failed(io::Error),
    /// Given up because of the recall, wholly or in part undone: to be submitted again.
    Recalled,
}

/// [`io::ErrorKind::Interrupted`] is a recall: the system's own interruptions are retried where they
/// happen.
impl From<io::Result<()>> for Outcome {
    fn from(result: io::Result<()>) -> Self {
        match result {
            Ok(()) => Self::Success,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Self::Recalled,
            Err(error) => Self::Failed(error),
        }
    }
}

/// What became of a submitted operation.
#[derive(Debug)]
pub enum Submission {
    /// It is over.
    Done(Outcome),
    /// It goes on; [`Disk::reap`] tells its end. The backend has taken the buffers' list
    /// ([`GuestBuffers::take`]), which keeps guest memory mapped until then.
    Pending,
}

/// The end of a pending operation.
#[derive(Debug)]
pub struct Completion {
    /// The tag it was submitted with.
    pub tag: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// A disk backend.
pub trait Disk: Send {
    /// Size and block sizes. Changes only in [`Disk::resize`].
    fn geometry(&self) -> Geometry;

    /// Takes `op` on `buffers` (empty unless it reads or writes); it may begin as late as the next
    /// [`Disk::kick`]. `tag` is unique among the pending operations. A long operation is given up
    /// between two pieces of it when `recall` is set.
    fn submit(
        &mut self,
        tag: u64,
        op: Op,
        buffers: &mut GuestBuffers,
        recall: &Recall,
    ) -> Submission;

    /// Begins what was submitted and has not begun yet.
    fn kick(&mut self);

    /// The descriptor that is readable when [`Disk::reap`] has something to tell; `None` for a
    /// backend that never answers [`Submission::Pending`].
    fn completion_event(&self) -> Option<RawFd>;

    /// Appends the operations that ended to `done`, without waiting for any.
    fn reap(&mut self, recall: &Recall, done: &mut Vec<Completion>);

    /// Changes the size to `bytes`; a block device only looks its size up again. Nothing is
    /// pending when this is called.
    ///
    /// # Errors
    /// What the host answered; the size is then as it was.
    fn resize(&mut self, bytes: u64) -> io::Result<Geometry>;
}
