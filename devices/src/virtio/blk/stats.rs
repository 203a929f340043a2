//! What a block device is and has done: its size, and the counters of QMP's `BlockDeviceStats`.
//!
//! Written by the worker on the I/O thread, read by anybody at any time; the fields are not
//! consistent with each other to the last request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counters of one kind of operation.
#[derive(Debug, Default)]
pub struct OpCounters {
    /// Bytes of operations that succeeded.
    pub bytes: AtomicU64,
    /// Operations that succeeded.
    pub operations: AtomicU64,
    /// Time spent on operations, failed ones included, in nanoseconds.
    pub total_time_ns: AtomicU64,
    /// Operations the backend failed.
    pub failed: AtomicU64,
    /// Requests refused before they reached the backend.
    pub invalid: AtomicU64,
}

impl OpCounters {
    pub(super) fn succeeded(&self, bytes: u64, time: Duration) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.operations.fetch_add(1, Relaxed);
        self.took(time);
    }

    pub(super) fn has_failed(&self, time: Duration) {
        self.failed.fetch_add(1, Relaxed);
        self.took(time);
    }

    pub(super) fn was_invalid(&self) {
        self.invalid.fetch_add(1, Relaxed);
    }

    fn took(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.total_time_ns.fetch_add(nanoseconds, Relaxed);
    }
}

/// A block device's counters.
#[derive(Debug, Default)]
pub struct BlkStats {
    /// Reads.
    pub read: OpCounters,
    /// Writes and write-zeroes.
    pub write: OpCounters,
    /// Flushes; their bytes stay 0.
    pub flush: OpCounters,
    /// Discards.
    pub unmap: OpCounters,
    /// The first byte after the highest one ever written.
    pub wr_highest_offset: AtomicU64,
    /// Not a count: the size of the disk in bytes, as it is now.
    pub capacity: AtomicU64,
}

/// Which counters an operation belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    /// A read.
    Read,
    /// A write or write-zeroes.
    Write,
    /// A flush.
    Flush,
    /// A discard.
    Unmap,
}

impl BlkStats {
    pub(super) fn of(&self, kind: OpKind) -> &OpCounters {
        match kind {
            OpKind::Read => &self.read,
            OpKind::Write => &self.write,
            OpKind::Flush => &self.flush,
            OpKind::Unmap => &self.unmap,
        }
    }
}
