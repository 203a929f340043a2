//! What devices tell the owner of the machine.
//!
//! A device never changes VM state. It raises a [`GuestEvent`]; the VMM's main thread decides what
//! follows (docs of `set-action`). For events that must stop the guest at once the sink asks the
//! vCPUs to hold before `raise` returns, so no further guest instruction of the calling vCPU runs.

use std::sync::Arc;

/// Something a guest did, or that happened to one of its devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestEvent {
    /// The guest asked for power off (ACPI sleep register, S5).
    Shutdown,
    /// The guest asked for a reset (ACPI reset register, i8042 pulse).
    Reset,
    /// The guest reported a panic through pvpanic (bit 0).
    Panicked,
    /// The guest reported that it loaded a crash kernel (pvpanic bit 1).
    CrashLoaded,
    /// The guest asked for an orderly power off through pvpanic (bit 2).
    PvShutdown,
    /// A block request failed in the backend.
    BlockIoError(BlockIoError),
    /// A driver changed what its network card receives. Said once until the filter is asked for.
    NicRxFilterChanged {
        /// The device's id.
        id: Arc<str>,
    },
    /// A virtio device was told to stop: its rings or requests made no sense. Said once until the
    /// driver resets it.
    DeviceNeedsReset {
        /// The device's id.
        id: Arc<str>,
        /// What was wrong with the guest's request.
        reason: String,
    },
}

/// The facts of QMP's BLOCK_IO_ERROR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockIoError {
    /// The block device's id.
    pub id: Arc<str>,
    /// Whether a write (also flush, discard, write-zeroes) or a read failed.
    pub write: bool,
    /// What happened to the request.
    pub action: BlockErrorAction,
    /// The host's errno.
    pub errno: i32,
}

/// What a device did with a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockErrorAction {
    /// Told the guest it succeeded.
    Ignore,
    /// Answered the guest with an I/O error.
    Report,
    /// Kept the request, to be tried again when the guest resumes; the guest must be paused.
    Stop,
}

/// Where devices raise their events. Implemented by the VMM; called on vCPU and I/O threads; never
/// blocks.
pub trait EventSink: Send + Sync {
    /// Queues `event` for the main thread.
    fn raise(&self, event: GuestEvent);
}
