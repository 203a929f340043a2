//! What events carry.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DumpQueryResult, JobStatus, ShutdownCause, WatchdogAction};
/// Data of SHUTDOWN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShutdownData {
    /// Whether the guest wanted it.
    pub guest: bool,
    /// Why.
    pub reason: ShutdownCause,
}

/// Data of RESET.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResetData {
    /// Whether the guest wanted it.
    pub guest: bool,
    /// Why.
    pub reason: ShutdownCause,
}

/// What is done about a guest that panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GuestPanicAction {
    /// It is stopped.
    Pause,
    /// It is shut down.
    Poweroff,
    /// It runs on.
    Run,
}

/// Data of GUEST_PANICKED.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestPanickedData {
    /// What is done about it.
    pub action: GuestPanicAction,
}

/// Data of GUEST_CRASHLOADED.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestCrashloadedData {
    /// What is done about it.
    pub action: GuestPanicAction,
}

/// Data of WATCHDOG.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WatchdogData {
    /// What is done about it.
    pub action: WatchdogAction,
}

/// A direction of I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IoOperationType {
    /// From the disk.
    Read,
    /// To the disk; also flush, discard and write-zeroes.
    Write,
}

/// What is done with a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BlockErrorAction {
    /// The guest is told it succeeded.
    Ignore,
    /// The guest is told it failed.
    Report,
    /// The guest is stopped, and the request tried again when it resumes.
    Stop,
}

/// Data of BLOCK_IO_ERROR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BlockIoErrorData {
    /// The device's path.
    pub qom_path: String,
    /// The name of a legacy drive: empty.
    pub device: String,
    /// The node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The direction.
    pub operation: IoOperationType,
    /// What is done with the request.
    pub action: BlockErrorAction,
    /// Whether the host has no space left; present with action `stop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nospace: Option<bool>,
    /// The host's error, for people.
    pub reason: String,
}

/// Data of BLOCK_WRITE_THRESHOLD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BlockWriteThresholdData {
    /// The node's name.
    pub node_name: String,
    /// Bytes past the threshold.
    pub amount_exceeded: u64,
    /// The threshold.
    pub write_threshold: u64,
}

/// Data of DUMP_COMPLETED.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DumpCompletedData {
    /// How it ended.
    pub result: DumpQueryResult,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Data of JOB_STATUS_CHANGE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobStatusChangeData {
    /// The job.
    pub id: String,
    /// Where it is now.
    pub status: JobStatus,
}

/// Data of RTC_CHANGE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RtcChangeData {
    /// Seconds between the guest's clock and what the host would have given it.
    pub offset: i64,
    /// The clock's path.
    pub qom_path: String,
}

/// Data of NIC_RX_FILTER_CHANGED.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NicRxFilterChangedData {
    /// The network card's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The path of its device.
    pub path: String,
}
