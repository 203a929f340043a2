//! A disk: an opened image behind a virtio-blk device.

use std::fs::File;
use std::sync::Arc;

use api_socket::config::{Cache, CheckedDisk, Discard, ReadErrorAction, WriteErrorAction};
use devices::disk::raw::RawDisk;
use devices::disk::uring::UringDisk;
use devices::disk::{CacheMode, Disk};
use devices::virtio::blk::stats::BlkStats;
use devices::virtio::blk::{BlkOptions, ErrorPolicy, VirtioBlk};

use super::virtio::{VirtioDeviceSlot, VirtioKind, attach as attach_virtio};
use super::{AttachError, Board};
use crate::launch::OpenDisk;

/// What the machine keeps of a disk beside its device.
pub struct BlkInfo {
    /// As configured.
    pub config: CheckedDisk,
    /// Counters, readable at any time.
    pub stats: Arc<BlkStats>,
    /// Keeps others off the image. Closed after everything that reads or writes it.
    pub lock: File,
}

/// The disk backend's name for a cache setting.
#[must_use]
pub fn cache_mode(cache: Cache) -> CacheMode {
    match cache {
        Cache::Writeback => CacheMode::Writeback,
        Cache::None => CacheMode::None,
        Cache::Writethrough => CacheMode::Writethrough,
        Cache::Directsync => CacheMode::Directsync,
        Cache::Unsafe => CacheMode::Unsafe,
    }
}

/// Attaches a disk.
///
/// # Errors
/// [`AttachError`]; [`AttachError::Disk`] when the image cannot be used.
pub fn attach(board: &mut Board<'_>, disk: OpenDisk) -> Result<VirtioDeviceSlot, AttachError> {
    let OpenDisk { config, file, lock } = disk;
    let cache = cache_mode(config.cache);
    let raw = RawDisk::new(file, cache, config.readonly).map_err(|e| AttachError::Disk {
        id: config.id.clone(),
        source: Box::new(e),
    })?;
    let options = BlkOptions {
        id: config.id.as_str().into(),
        serial: config.serial.clone().unwrap_or_default(),
        writeback: cache.is_writeback(),
        discard: config.discard == Discard::Unmap,
        rerror: match config.rerror {
            ReadErrorAction::Report => ErrorPolicy::Report,
            ReadErrorAction::Ignore => ErrorPolicy::Ignore,
            ReadErrorAction::Stop => ErrorPolicy::Stop,
        },
        werror: match config.werror {
            WriteErrorAction::Report => ErrorPolicy::Report,
            WriteErrorAction::Ignore => ErrorPolicy::Ignore,
            WriteErrorAction::Enospc => ErrorPolicy::Enospc,
            WriteErrorAction::Stop => ErrorPolicy::Stop,
        },
        // One I/O thread serves them all: more queues would not be faster yet.
        queues: 1,
        events: board.events.clone(),
    };
    let disk: Box<dyn Disk> = match UringDisk::new(raw) {
        Ok(disk) => Box::new(disk),
        Err((raw, error)) => {
            log::debug!(
                "{}: no io_uring ({error}); one request at a time",
                config.id
            );
            Box::new(raw)
        }
    };
    let device = VirtioBlk::new(disk, options);
    let info = BlkInfo {
        stats: device.stats(),
        config,
        lock,
    };
    let id = info.config.id.clone();
    attach_virtio(board, &id, Box::new(device), VirtioKind::Blk(info))
}
