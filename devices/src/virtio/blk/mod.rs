//! The block device (virtio 1.2, 5.2).
//!
//! * [`request`]: what a chain asks for; validation only.
//! * [`config`]: the configuration space.
//! * `worker`: serves the queues, on the I/O thread.
//! * [`stats`]: counters that anybody may read.
//! * [`saved`]: the saved form.
//!
//! The device itself (this file) is called on vCPU threads, and on the main thread while paused.

pub mod config;
pub mod request;
pub mod saved;
pub mod stats;
mod worker;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use self::config::{
    F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_MQ, F_RO, F_SEG_MAX, F_TOPOLOGY,
    F_WRITE_ZEROES, WRITEBACK_OFFSET,
};
use self::saved::{BlkState, StalledRequest};
use self::stats::BlkStats;
use self::worker::BlkWorker;
use super::device::{Activation, Identity, QueuePosition, VirtioDevice};
use super::saved::DeviceState;
use super::spec::TYPE_BLOCK;
use crate::disk::{Disk, Geometry, SECTOR_SIZE};
use crate::events::EventSink;
use crate::io_thread::{Fault, Worker};
use crate::saved::BadState;

/// Size of each queue; QEMU's default.
pub const QUEUE_SIZE: u16 = 256;
/// Bytes of a serial number (5.2.6).
pub const SERIAL_LEN: usize = 20;

/// What to do when the backend fails; QEMU's `rerror` and `werror`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ErrorPolicy {
    /// Answer the guest with an I/O error.
    Report,
    /// Tell the guest it succeeded.
    Ignore,
    /// Keep the request and stop; try again on resume.
    Stop,
    /// Stop when the host is out of space, report otherwise.
    #[default]
    Enospc,
}

/// How a block device is set up.
#[derive(Clone)]
pub struct BlkOptions {
    /// The device's id, as events name it.
    pub id: Arc<str>,
    /// What the guest reads as the serial number; cut at [`SERIAL_LEN`] bytes.
    pub serial: String,
    /// Whether the guest is told at first that there is a volatile write cache
    /// ([`crate::disk::CacheMode::is_writeback`]). It may change that.
    pub writeback: bool,
    /// Whether the guest may discard blocks.
    pub discard: bool,
    /// What to do when a read fails. [`ErrorPolicy::Enospc`] is [`ErrorPolicy::Report`] here.
    pub rerror: ErrorPolicy,
    /// What to do when anything else fails.
    pub werror: ErrorPolicy,
    /// Number of queues, at least 1.
    pub queues: u16,
    /// Who is told of errors.
    pub events: Arc<dyn EventSink>,
}

/// What device and worker both look at.
struct Shared {
    options: BlkOptions,
    stats: Arc<BlkStats>,
    /// The configuration space's `writeback`. Written on vCPU threads, read by the worker.
    writeback: AtomicBool,
}

/// The block device.
pub struct VirtioBlk {
    identity: Identity,
    shared: Arc<Shared>,
    geometry: Geometry,
    /// The worker has it while one runs.
    disk: Option<Box<dyn Disk>>,
    /// Requests that failed and are to be tried again first.
    stalled: Vec<StalledRequest>,
}

impl fmt::Debug for VirtioBlk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioBlk")
            .field("id", &self.shared.options.id)
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

impl VirtioBlk {
    /// A block device in front of `disk`.
    #[must_use]
    pub fn new(disk: Box<dyn Disk>, options: BlkOptions) -> Self {
        let geometry = disk.geometry();
        let mut features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE;
        if geometry.read_only {
            features |= F_RO;
        } else {
            features |= F_WRITE_ZEROES | if options.discard { F_DISCARD } else { 0 };
        }
        let queues = options.queues.max(1);
        if queues > 1 {
            features |= F_MQ;
        }
        let queue_sizes = vec![QUEUE_SIZE; usize::from(queues)];
        let writeback = AtomicBool::new(options.writeback);
        let stats = BlkStats {
            capacity: AtomicU64::new(geometry.capacity),
            ..BlkStats::default()
        };
        Self {
            identity: Identity {
                device_type: TYPE_BLOCK,
                features,
                queue_sizes,
            },
            shared: Arc::new(Shared {
                options,
                stats: Arc::new(stats),
                writeback,
            }),
            geometry,
            disk: Some(disk),
            stalled: Vec::new(),
        }
    }

    /// The counters; they stay readable while the worker runs.
    #[must_use]
    pub fn stats(&self) -> Arc<BlkStats> {
        Arc::clone(&self.shared.stats)
    }

    /// Whether requests wait for the cause of an error to go away.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// Changes the disk's size to `bytes`. The transport must be paused; afterwards the caller
    /// tells the guest with `Core::config_changed`.
    ///
    /// # Errors
    /// `ResourceBusy` while the worker runs; otherwise what the host answered.
    pub fn resize(&mut self, bytes: u64) -> io::Result<()> {
        let disk = self.disk.as_mut().ok_or(io::ErrorKind::ResourceBusy)?;
        self.geometry = disk.resize(bytes)?;
        let capacity = &self.shared.stats.capacity;
        capacity.store(self.geometry.capacity, Ordering::Relaxed);
        Ok(())
    }

    fn bad_state(field: &'static str, problem: String) -> BadState {
        BadState {
            kind: "virtio-blk",
            field,
            problem,
        }
    }
}

impl VirtioDevice for VirtioBlk {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let queues = self.shared.options.queues.max(1);
        let writeback = self.shared.writeback.load(Ordering::Relaxed);
        let space = config::encode(&self.geometry, queues, writeback);
        let from = usize::try_from(offset)
            .ok()
            .and_then(|offset| space.get(offset..));
        for (byte, value) in data.iter_mut().zip(from.unwrap_or_default()) {
            *byte = *value;
        }
    }

    fn write_config(&mut self, features: u64, offset: u64, data: &[u8]) {
        // Any other field is read-only.
        if let (WRITEBACK_OFFSET, &[value]) = (offset, data)
            && features & F_CONFIG_WCE != 0
        {
            self.shared
                .writeback
                .store(value & 1 != 0, Ordering::Relaxed);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<Box<dyn Worker>, Fault> {
        let disk = self
            .disk
            .take()
            .ok_or_else(|| Fault("the disk is gone".to_owned()))?;
        let stalled = std::mem::take(&mut self.stalled);
        Ok(Box::new(BlkWorker::new(
            activation,
            disk,
            Arc::clone(&self.shared),
            stalled,
        )))
    }

    fn reclaim(&mut self, worker: Box<dyn Worker>) -> Result<Vec<QueuePosition>, Fault> {
        let worker: Box<dyn Any> = worker;
        let worker = worker.downcast::<BlkWorker>();
        let worker = worker.map_err(|_| Fault("not a block device's worker".to_owned()))?;
        let (disk, stalled, positions) = worker.into_parts();
        self.disk = Some(disk);
        self.stalled = stalled;
        Ok(positions)
    }

    fn reset(&mut self) {
        let Self {
            identity: _,
            shared,
            geometry: _,
            disk: _,
            stalled,
        } = self;
        stalled.clear();
        shared
            .writeback
            .store(shared.options.writeback, Ordering::Relaxed);
    }

    fn save(&self) -> DeviceState {
        let Self {
            identity: _,
            shared,
            geometry,
            disk: _,
            stalled,
        } = self;
        DeviceState::Blk(BlkState {
            capacity: geometry.capacity / SECTOR_SIZE,
            writeback: shared.writeback.load(Ordering::Relaxed),
            stalled: stalled.clone(),
        })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), BadState> {
        let DeviceState::Blk(BlkState {
            capacity,
            writeback,
            stalled,
        }) = state
        else {
            return Err(Self::bad_state(
                "device",
                "is not a block device's".to_owned(),
            ));
        };
        let ours = self.geometry.capacity / SECTOR_SIZE;
        if *capacity != ours {
            let problem = format!("{capacity} sectors, but the image has {ours}");
            return Err(Self::bad_state("capacity", problem));
        }
        let queues = self.identity.queue_sizes.len();
        let limit = queues * usize::from(QUEUE_SIZE);
        let possible = |s: &StalledRequest| usize::from(s.queue) < queues && s.head < QUEUE_SIZE;
        if stalled.len() > limit || !stalled.iter().all(possible) {
            let problem = format!("{} requests, or one of no queue", stalled.len());
            return Err(Self::bad_state("stalled", problem));
        }
        self.shared.writeback.store(*writeback, Ordering::Relaxed);
        self.stalled.clone_from(stalled);
        Ok(())
    }
}
