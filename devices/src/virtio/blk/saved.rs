//! The saved form of a block device, beside its transport's and queues'.

use serde::{Deserialize, Serialize};

/// A block device's own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlkState {
    /// Size in sectors of 512 bytes, as the guest sees it; the image must have it on restore.
    pub capacity: u64,
    /// The configuration space's `writeback`.
    pub writeback: bool,
    /// Requests taken from the queues that failed and wait to be tried again, in order.
    pub stalled: Vec<StalledRequest>,
}

/// A request by its place in guest memory; its content is read anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StalledRequest {
    /// The queue's number.
    pub queue: u16,
    /// The chain's head in the descriptor table.
    pub head: u16,
}
