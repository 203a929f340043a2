//! The socket device (virtio 1.2, 5.10): connections between programs in the guest and programs on
//! the host, which are Unix sockets there.
//!
//! * [`packet`]: headers and numbers.
//! * `flow`: one connection's protocol, pure; `connection` adds its socket, `backlog` what that has
//!   not taken; `table` finds and bounds them.
//! * `hub`: all connections and the host's side; `from_guest` and `to_guest` what goes between.
//! * `greeting`: the host's first line.
//! * `rx`, `worker`: the queues, on the I/O thread.
//! * [`stats`]: counters that anybody may read.
//!
//! The device itself (this file) is called on vCPU threads, and on the main thread while paused. It
//! keeps the connections while the machine is paused. A restored device has none: it tells the
//! guest so by the event that the standard has for that (5.10.6.7).

mod backlog;
mod connection;
mod flow;
mod from_guest;
mod greeting;
mod hub;
pub mod packet;
mod rx;
pub mod stats;
mod table;
mod to_guest;
mod worker;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use self::hub::Hub;
use self::stats::VsockStats;
use self::worker::VsockWorker;
use super::device::{Activation, Identity, QueuePosition, VirtioDevice};
use super::saved::DeviceState;
use super::spec::TYPE_VSOCK;
use crate::io_thread::{Fault, Worker};
use crate::saved::BadState;
use crate::vsock::VsockBackend;

/// Feature bit (5.10.3): streams.
pub const F_STREAM: u64 = 1 << 0;
/// Feature bit (5.10.3): sequences of messages.
pub const F_SEQPACKET: u64 = 1 << 1;

/// The queue of packets to the guest (5.10.2).
pub const RX_QUEUE: u16 = 0;
/// The queue of packets from the guest.
pub const TX_QUEUE: u16 = 1;
/// The queue of events.
pub const EVENT_QUEUE: u16 = 2;

/// Size of the packets' queues. Linux keeps the receive queue full of pages.
const PACKET_QUEUE_SIZE: u16 = 256;
/// Size of the event queue. Linux keeps eight buffers there.
const EVENT_QUEUE_SIZE: u16 = 16;

/// The least address of a guest (5.10.4).
pub const CID_MIN: u32 = 3;
/// The greatest.
pub const CID_MAX: u32 = u32::MAX - 1;

/// How long a host peer may take for its first line, and a guest for its answer. Long enough for
/// somebody who types the line.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The socket device.
pub struct VirtioVsock {
    identity: Identity,
    guest_cid: u32,
    stats: Arc<VsockStats>,
    /// The worker has it while one runs.
    hub: Option<Box<Hub>>,
    /// The guest's connections are from another life, and it has yet to be told.
    reset_due: bool,
}

impl fmt::Debug for VirtioVsock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioVsock")
            .field("guest_cid", &self.guest_cid)
            .finish_non_exhaustive()
    }
}

impl VirtioVsock {
    /// A device that gives the guest the address `guest_cid`, [`CID_MIN`] to [`CID_MAX`], and waits
    /// for others as long as `patience` says, normally [`PATIENCE`].
    ///
    /// # Errors
    /// When the host is out of descriptors.
    pub fn new(backend: VsockBackend, guest_cid: u32, patience: Duration) -> io::Result<Self> {
        let identity = Identity {
            device_type: TYPE_VSOCK,
            features: F_STREAM | F_SEQPACKET,
            queue_sizes: vec![PACKET_QUEUE_SIZE, PACKET_QUEUE_SIZE, EVENT_QUEUE_SIZE],
        };
        let stats = Arc::new(VsockStats::default());
        let hub = Hub::new(backend, guest_cid.into(), patience, Arc::clone(&stats))?;
        Ok(Self {
            identity,
            guest_cid,
            stats,
            hub: Some(Box::new(hub)),
            reset_due: false,
        })
    }

    /// The counters; they stay readable while the worker runs.
    #[must_use]
    pub fn stats(&self) -> Arc<VsockStats> {
        Arc::clone(&self.stats)
    }
}

impl VirtioDevice for VirtioVsock {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    /// 5.10.4: the guest's address, eight bytes.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let space = u64::from(self.guest_cid).to_le_bytes();
        let from = usize::try_from(offset)
            .ok()
            .and_then(|offset| space.get(offset..));
        for (byte, value) in data.iter_mut().zip(from.unwrap_or_default()) {
            *byte = *value;
        }
    }

    /// Nothing is writable.
    fn write_config(&mut self, _features: u64, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<Box<dyn Worker>, Fault> {
        let hub = self.hub.take();
        let mut hub = hub.ok_or_else(|| Fault("the host's sockets are gone".to_owned()))?;
        hub.seqpacket = activation.features & F_SEQPACKET != 0;
        let worker = VsockWorker::new(activation, hub, self.reset_due);
        Ok(Box::new(worker))
    }

    fn reclaim(&mut self, worker: Box<dyn Worker>) -> Result<Vec<QueuePosition>, Fault> {
        let worker: Box<dyn Any> = worker;
        let worker = worker.downcast::<VsockWorker>();
        let worker = worker.map_err(|_| Fault("not a socket device's worker".to_owned()))?;
        let (hub, reset_due, positions) = worker.into_parts();
        self.hub = Some(hub);
        self.reset_due = reset_due;
        Ok(positions)
    }

    /// A driver that begins anew knows of no connection.
    fn reset(&mut self) {
        let Self {
            identity: _,
            guest_cid: _,
            stats: _,
            hub,
            reset_due,
        } = self;
        if let Some(hub) = hub {
            hub.close_all();
        }
        *reset_due = false;
    }

    /// Nothing: connections end where their host's sockets are.
    fn save(&self) -> DeviceState {
        let Self {
            identity: _,
            guest_cid: _,
            stats: _,
            hub: _,
            reset_due: _,
        } = self;
        DeviceState::Vsock
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), BadState> {
        if *state != DeviceState::Vsock {
            return Err(BadState {
                kind: "virtio-vsock",
                field: "device",
                problem: "is not a socket device's".to_owned(),
            });
        }
        self.reset();
        self.reset_due = true;
        Ok(())
    }
}
