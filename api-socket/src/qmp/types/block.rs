//! Disks: devices, nodes, images, and their counters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether an error has stopped a device or job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BlockDeviceIoStatus {
    /// No.
    Ok,
    /// Yes, an I/O error.
    Failed,
    /// Yes, the host has no space left.
    Nospace,
}

/// What is done with writes of zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BlockdevDetectZeroesOptions {
    /// They are written.
    Off,
    /// They become write-zeroes requests.
    On,
    /// They become discards where possible.
    Unmap,
}

/// How an image's data is cached by the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevCacheInfo {
    /// Whether the guest sees a write cache that it must flush.
    pub writeback: bool,
    /// Whether the host's page cache is bypassed.
    pub direct: bool,
    /// Whether flushes are ignored.
    pub no_flush: bool,
}

/// An image file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// Its name.
    pub filename: String,
    /// Its format.
    pub format: String,
    /// Whether it was not closed cleanly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_flag: Option<bool>,
    /// Bytes it takes on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<i64>,
    /// Bytes the guest sees.
    pub virtual_size: i64,
    /// Bytes per cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<i64>,
    /// Whether it is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// Whether it is compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed: Option<bool>,
    /// The backing image's name as written in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// The backing image's name, resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// The backing image's format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// The backing image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_image: Option<Box<ImageInfo>>,
}

/// One node of the block layer: of `query-named-block-nodes`, and a device's `inserted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockDeviceInfo {
    /// The file's name.
    pub file: String,
    /// The node's name.
    #[serde(rename = "node-name", skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Whether it is read-only.
    pub ro: bool,
    /// The driver, which is the format.
    pub drv: String,
    /// The backing file's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// Backing files below it.
    pub backing_file_depth: i64,
    /// Whether it is in use here; not after a migration has handed it over.
    pub active: bool,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// What is done with writes of zeroes.
    pub detect_zeroes: BlockdevDetectZeroesOptions,
    /// Limit in bytes per second, reads and writes together; 0 is none, here and below.
    pub bps: i64,
    /// Limit in bytes read per second.
    pub bps_rd: i64,
    /// Limit in bytes written per second.
    pub bps_wr: i64,
    /// Limit in requests per second.
    pub iops: i64,
    /// Limit in reads per second.
    pub iops_rd: i64,
    /// Limit in writes per second.
    pub iops_wr: i64,
    /// The image.
    pub image: ImageInfo,
    /// How it is cached.
    pub cache: BlockdevCacheInfo,
    /// Byte past which a write raises BLOCK_WRITE_THRESHOLD; 0 is none.
    pub write_threshold: i64,
}

/// One block device of the guest, of `query-block`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockInfo {
    /// The name of a legacy drive: empty.
    pub device: String,
    /// The device's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qdev: Option<String>,
    /// Always `unknown`, as in QEMU.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether its medium can be taken out.
    pub removable: bool,
    /// Whether the guest has locked the medium.
    pub locked: bool,
    /// The medium.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inserted: Option<BlockDeviceInfo>,
    /// Whether the tray is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tray_open: Option<bool>,
    /// Whether an error has stopped it.
    #[serde(rename = "io-status", skip_serializing_if = "Option::is_none")]
    pub io_status: Option<BlockDeviceIoStatus>,
}

/// Counters of one interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BlockDeviceTimedStats {
    /// Length in seconds.
    pub interval_length: i64,
    /// Quickest read, in nanoseconds.
    pub min_rd_latency_ns: i64,
    /// Slowest read.
    pub max_rd_latency_ns: i64,
    /// Average read.
    pub avg_rd_latency_ns: i64,
    /// Quickest write.
    pub min_wr_latency_ns: i64,
    /// Slowest write.
    pub max_wr_latency_ns: i64,
    /// Average write.
    pub avg_wr_latency_ns: i64,
    /// Quickest zone append.
    pub min_zone_append_latency_ns: i64,
    /// Slowest zone append.
    pub max_zone_append_latency_ns: i64,
    /// Average zone append.
    pub avg_zone_append_latency_ns: i64,
    /// Quickest flush.
    pub min_flush_latency_ns: i64,
    /// Slowest flush.
    pub max_flush_latency_ns: i64,
    /// Average flush.
    pub avg_flush_latency_ns: i64,
    /// Average number of reads in flight.
    pub avg_rd_queue_depth: f64,
    /// Average number of writes in flight.
    pub avg_wr_queue_depth: f64,
    /// Average number of zone appends in flight.
    pub avg_zone_append_queue_depth: f64,
}

/// Counters of a block device since the guest started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BlockDeviceStats {
    /// Bytes read.
    pub rd_bytes: i64,
    /// Bytes written.
    pub wr_bytes: i64,
    /// Bytes appended to zones.
    pub zone_append_bytes: i64,
    /// Bytes discarded.
    pub unmap_bytes: i64,
    /// Reads.
    pub rd_operations: i64,
    /// Writes.
    pub wr_operations: i64,
    /// Zone appends.
    pub zone_append_operations: i64,
    /// Flushes.
    pub flush_operations: i64,
    /// Discards.
    pub unmap_operations: i64,
    /// Time spent reading, in nanoseconds.
    pub rd_total_time_ns: i64,
    /// Time spent writing.
    pub wr_total_time_ns: i64,
    /// Time spent appending to zones.
    pub zone_append_total_time_ns: i64,
    /// Time spent flushing.
    pub flush_total_time_ns: i64,
    /// Time spent discarding.
    pub unmap_total_time_ns: i64,
    /// One past the last byte ever written.
    pub wr_highest_offset: i64,
    /// Reads that were joined with others.
    pub rd_merged: i64,
    /// Writes that were joined with others.
    pub wr_merged: i64,
    /// Zone appends that were joined with others.
    pub zone_append_merged: i64,
    /// Discards that were joined with others.
    pub unmap_merged: i64,
    /// Time since the last request, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_time_ns: Option<i64>,
    /// Reads that failed.
    pub failed_rd_operations: i64,
    /// Writes that failed.
    pub failed_wr_operations: i64,
    /// Zone appends that failed.
    pub failed_zone_append_operations: i64,
    /// Flushes that failed.
    pub failed_flush_operations: i64,
    /// Discards that failed.
    pub failed_unmap_operations: i64,
    /// Reads that made no sense.
    pub invalid_rd_operations: i64,
    /// Writes that made no sense.
    pub invalid_wr_operations: i64,
    /// Zone appends that made no sense.
    pub invalid_zone_append_operations: i64,
    /// Flushes that made no sense.
    pub invalid_flush_operations: i64,
    /// Discards that made no sense.
    pub invalid_unmap_operations: i64,
    /// Whether requests that made no sense count as activity.
    pub account_invalid: bool,
    /// Whether requests that failed count in times.
    pub account_failed: bool,
    /// Counters by interval; none are kept.
    pub timed_stats: Vec<BlockDeviceTimedStats>,
}

/// One block device's or node's counters, of `query-blockstats`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BlockStats {
    /// The name of a legacy drive: empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The device's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qdev: Option<String>,
    /// The node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The counters.
    pub stats: BlockDeviceStats,
    /// Counters of the file under the format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Box<BlockStats>>,
    /// Counters of the backing image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<Box<BlockStats>>,
}

/// Arguments of `query-blockstats`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct QueryBlockstatsArguments {
    /// Every node, and not only devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_nodes: Option<bool>,
}

/// Arguments of `query-named-block-nodes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueryNamedBlockNodesArguments {
    /// Leave out the chains of backing images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flat: Option<bool>,
}

/// Arguments of `block_resize`: the disk is named by either of the first two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BlockResizeArguments {
    /// The device's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// New size in bytes.
    pub size: i64,
}
