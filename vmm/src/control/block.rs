//! Disks as clients see them: one node per disk, named as the device.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api_socket::config::Cache;
use api_socket::qmp::error::QmpError;
use api_socket::qmp::types::{
    BlockDeviceInfo, BlockDeviceIoStatus, BlockDeviceStats, BlockInfo, BlockResizeArguments,
    BlockStats, BlockdevCacheInfo, BlockdevDetectZeroesOptions, ImageInfo,
    QueryBlockstatsArguments,
};
use devices::virtio::blk::VirtioBlk;
use devices::virtio::blk::stats::{BlkStats, OpCounters};

use crate::attach::VirtioDeviceSlot;
use crate::attach::blk::BlkInfo;
use crate::machine::lock;
use crate::main_loop::MainLoop;

/// The path clients know a disk's device by.
pub(crate) fn qdev(id: &str) -> String {
    format!("/machine/peripheral/{id}/virtio-backend")
}

pub(super) fn query(main: &MainLoop) -> Vec<BlockInfo> {
    main.machine
        .disks()
        .map(|(slot, info)| BlockInfo {
            device: String::new(),
            qdev: Some(qdev(&slot.id)),
            kind: "unknown".to_owned(),
            removable: false,
            locked: false,
            inserted: Some(node(slot, info)),
            tray_open: None,
            io_status: Some(
                main.stopped_disks
                    .get(&slot.id)
                    .copied()
                    .unwrap_or(BlockDeviceIoStatus::Ok),
            ),
        })
        .collect()
}

pub(super) fn nodes(main: &MainLoop) -> Vec<BlockDeviceInfo> {
    main.machine
        .disks()
        .map(|(slot, info)| node(slot, info))
        .collect()
}

fn node(slot: &VirtioDeviceSlot, info: &BlkInfo) -> BlockDeviceInfo {
    // Not by the device: a vCPU may be in it, waiting for the host.
    let capacity = info.stats.capacity.load(Ordering::Relaxed);
    let filename = info.config.path.to_string_lossy().into_owned();
    let cache = info.config.cache;
    BlockDeviceInfo {
        file: filename.clone(),
        node_name: Some(slot.id.to_string()),
        ro: info.config.readonly,
        drv: "raw".to_owned(),
        backing_file: None,
        backing_file_depth: 0,
        active: true,
        encrypted: false,
        detect_zeroes: BlockdevDetectZeroesOptions::Off,
        bps: 0,
        bps_rd: 0,
        bps_wr: 0,
        iops: 0,
        iops_rd: 0,
        iops_wr: 0,
        image: image(filename, capacity),
        cache: BlockdevCacheInfo {
            writeback: !matches!(cache, Cache::Writethrough | Cache::Directsync),
            direct: matches!(cache, Cache::None | Cache::Directsync),
            no_flush: cache == Cache::Unsafe,
        },
        write_threshold: 0,
    }
}

fn image(filename: String, capacity: u64) -> ImageInfo {
    ImageInfo {
        filename,
        format: "raw".to_owned(),
        dirty_flag: Some(false),
        actual_size: None,
        virtual_size: wire(capacity),
        cluster_size: None,
        encrypted: None,
        compressed: None,
        backing_filename: None,
        full_backing_filename: None,
        backing_filename_format: None,
        backing_image: None,
    }
}

/// A count as the signed numbers of the wire.
fn wire(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn stats(main: &MainLoop, arguments: &QueryBlockstatsArguments) -> Vec<BlockStats> {
    let by_node = arguments.query_nodes == Some(true);
    main.machine
        .disks()
        .map(|(slot, info)| BlockStats {
            device: (!by_node).then(String::new),
            qdev: (!by_node).then(|| qdev(&slot.id)),
            node_name: Some(slot.id.to_string()),
            stats: counters(&info.stats),
            parent: None,
            backing: None,
        })
        .collect()
}

pub(super) fn counters(stats: &BlkStats) -> BlockDeviceStats {
    let read = |counter: &AtomicU64| wire(counter.load(Ordering::Relaxed));
    let BlkStats {
        read: rd,
        write: wr,
        flush,
        unmap,
        wr_highest_offset,
        capacity: _,
    } = stats;
    let bytes = |op: &OpCounters| read(&op.bytes);
    let operations = |op: &OpCounters| read(&op.operations);
    let time = |op: &OpCounters| read(&op.total_time_ns);
    BlockDeviceStats {
        rd_bytes: bytes(rd),
        wr_bytes: bytes(wr),
        unmap_bytes: bytes(unmap),
        rd_operations: operations(rd),
        wr_operations: operations(wr),
        flush_operations: operations(flush),
        unmap_operations: operations(unmap),
        rd_total_time_ns: time(rd),
        wr_total_time_ns: time(wr),
        flush_total_time_ns: time(flush),
        unmap_total_time_ns: time(unmap),
        wr_highest_offset: read(wr_highest_offset),
        failed_rd_operations: read(&rd.failed),
        failed_wr_operations: read(&wr.failed),
        failed_flush_operations: read(&flush.failed),
        failed_unmap_operations: read(&unmap.failed),
        invalid_rd_operations: read(&rd.invalid),
        invalid_wr_operations: read(&wr.invalid),
        invalid_flush_operations: read(&flush.invalid),
        invalid_unmap_operations: read(&unmap.invalid),
        account_invalid: true,
        account_failed: true,
        ..Default::default()
    }
}

/// Changes a disk's size, while nothing of the machine runs.
pub(super) fn resize(
    main: &mut MainLoop,
    arguments: &BlockResizeArguments,
) -> Result<(), QmpError> {
    let BlockResizeArguments {
        device,
        node_name,
        size,
    } = arguments;
    let size = u64::try_from(*size)
        .ok()
        .filter(|&size| size > 0)
        .ok_or_else(|| QmpError::generic("Parameter 'size' expects a >0 size"))?;
    let name = match (device.as_deref(), node_name.as_deref()) {
        (Some(name), None) | (None, Some(name)) => name,
        _ => {
            return Err(QmpError::generic(
                "Need exactly one of 'device' and 'node-name'",
            ));
        }
    };
    let (slot, info) = main
        .machine
        .disk(name)
        .ok_or_else(|| QmpError::no_block_node(device.as_deref(), node_name.as_deref()))?;
    if info.config.readonly {
        return Err(QmpError::generic(format_args!(
            "Block node '{name}' is read-only"
        )));
    }
    let transport = Arc::clone(&slot.transport);
    let resized = main.while_held(|_| {
        let mut transport = lock(&transport);
        let core = transport.core_mut();
        let resized = core.device_mut::<VirtioBlk>()?.resize(size);
        if resized.is_ok() {
            core.config_changed();
        }
        Some(resized)
    });
    match resized {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) if error.raw_os_error() == Some(libc::EFBIG) => {
            Err(QmpError::generic(format_args!(
                "Failed to resize: {size} bytes are more than the image's file system takes, or \
                 thimble's limit on file sizes (ulimit -f)"
            )))
        }
        Some(Err(error)) => Err(QmpError::generic(format_args!("Failed to resize: {error}"))),
        None => Err(QmpError::device_not_found(name)),
    }
}
