//! Guest memory.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Return of `query-memory-size-summary`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryInfo {
    /// Bytes the guest started with.
    pub base_memory: u64,
    /// Bytes added since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugged_memory: Option<u64>,
}

/// A memory region that grows and shrinks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VirtioMEMDeviceInfo {
    /// The device's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// First guest physical address.
    pub memaddr: i64,
    /// Bytes asked of the guest.
    pub requested_size: i64,
    /// Bytes the guest uses.
    pub size: i64,
    /// Bytes it can grow to.
    pub max_size: i64,
    /// Bytes per block.
    pub block_size: i64,
    /// NUMA node.
    pub node: i64,
    /// The path of the memory behind it.
    pub memdev: String,
}

/// A persistent memory region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VirtioPMEMDeviceInfo {
    /// The device's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// First guest physical address.
    pub memaddr: i64,
    /// Bytes.
    pub size: i64,
    /// The path of the memory behind it.
    pub memdev: String,
}

/// One memory device, of `query-memory-devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
pub enum MemoryDeviceInfo {
    /// Persistent memory.
    VirtioPmem(VirtioPMEMDeviceInfo),
    /// Memory that grows and shrinks.
    VirtioMem(VirtioMEMDeviceInfo),
}
/// Arguments of `balloon`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BalloonArguments {
    /// Bytes the guest shall have.
    pub value: i64,
}

/// Return of `query-balloon`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BalloonInfo {
    /// Bytes the guest has.
    pub actual: i64,
}

/// One I/O thread, of `query-iothreads`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct IOThreadInfo {
    /// Its id.
    pub id: String,
    /// Its host thread, for pinning.
    pub thread_id: i64,
    /// Longest busy wait in nanoseconds; 0 is none.
    pub poll_max_ns: i64,
    /// How the busy wait grows; 0 is the default.
    pub poll_grow: i64,
    /// How the busy wait shrinks; 0 is the default.
    pub poll_shrink: i64,
    /// Most requests in one batch; 0 is the default.
    pub aio_max_batch: i64,
}
