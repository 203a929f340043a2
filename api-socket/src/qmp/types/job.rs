//! Jobs: work that outlives the command that began it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::BlockDeviceIoStatus;
/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobType {
    /// Merges an overlay into its backing image.
    Commit,
    /// Copies a backing image into its overlay.
    Stream,
    /// Copies a disk and follows its writes.
    Mirror,
    /// Copies a disk as it is now.
    Backup,
    /// Creates an image.
    Create,
    /// Changes an image's options.
    Amend,
    /// Loads a snapshot.
    SnapshotLoad,
    /// Saves a snapshot.
    SnapshotSave,
    /// Deletes a snapshot.
    SnapshotDelete,
    /// Writes guest memory to a file; QEMU has no job for it.
    #[serde(rename = "x-thimble-dump")]
    Dump,
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobStatus {
    /// Never seen.
    Undefined,
    /// Made and not started.
    Created,
    /// Works.
    Running,
    /// Stopped by `job-pause`.
    Paused,
    /// Copied everything and follows; `job-complete` ends it.
    Ready,
    /// Paused when ready.
    Standby,
    /// Waits for others of its transaction.
    Waiting,
    /// Waits for `job-finalize`.
    Pending,
    /// Undoes what it did.
    Aborting,
    /// Over; `job-dismiss` forgets it.
    Concluded,
    /// Forgotten; seen in events only.
    Null,
}

/// One job, of `query-jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct JobInfo {
    /// Its id.
    pub id: String,
    /// What it does.
    #[serde(rename = "type")]
    pub kind: JobType,
    /// Where it is.
    pub status: JobStatus,
    /// Done so far, in the job's own unit.
    pub current_progress: i64,
    /// Where that ends, as far as known.
    pub total_progress: i64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Arguments of `job-cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobCancelArguments {
    /// The job.
    pub id: String,
}

/// Arguments of `job-complete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobCompleteArguments {
    /// The job.
    pub id: String,
}

/// Arguments of `job-dismiss`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobDismissArguments {
    /// The job.
    pub id: String,
}

/// Arguments of `job-finalize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobFinalizeArguments {
    /// The job.
    pub id: String,
}

/// Arguments of `job-pause`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobPauseArguments {
    /// The job.
    pub id: String,
}

/// Arguments of `job-resume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobResumeArguments {
    /// The job.
    pub id: String,
}

/// One job of the block layer, of `query-block-jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BlockJobInfo {
    /// What it does.
    #[serde(rename = "type")]
    pub kind: JobType,
    /// Its id.
    pub device: String,
    /// Bytes in all.
    pub len: i64,
    /// Bytes done.
    pub offset: i64,
    /// Whether it is at work this moment.
    pub busy: bool,
    /// Whether it is paused.
    pub paused: bool,
    /// Its limit in bytes per second; 0 is none.
    pub speed: i64,
    /// Whether an error has stopped it.
    pub io_status: BlockDeviceIoStatus,
    /// Whether it can be completed.
    pub ready: bool,
    /// Where it is.
    pub status: JobStatus,
    /// Whether it finalizes by itself.
    pub auto_finalize: bool,
    /// Whether it is forgotten by itself.
    pub auto_dismiss: bool,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
