//! Putting devices into the machine: one file per kind.
//!
//! Each takes a chip, gives it its bus range, interrupt line and backend, and returns what the
//! machine keeps of it. Called by the builder on the main thread, after the vCPUs exist and before
//! the first one runs. What a guest sees of it all is frozen in vmm/goldens/thimble-1.txt.

pub mod blk;
pub mod legacy;
pub mod net;
pub mod rng;
pub mod serial;
mod virtio;
pub mod vsock;

use std::io;
use std::sync::{Arc, Mutex};

use devices::bus::{Bus, BusDevice, BusError};
use devices::io_thread::IoHandle;
use devices::irq::IrqLine;
use devices::legacy::rtc::HostClock;
use devices::legacy::serial::{Serial, SerialBackend};
use devices::memory::SharedMemory;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::guest_events::EventSender;
use crate::kvm::{KvmError, Vm};
use crate::launch::{OpenDisk, OpenNet, OpenVsock};

use legacy::LegacyChips;
pub use virtio::{VirtioDeviceSlot, VirtioKind};

/// Why a device could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Its addresses are taken: a mistake of ours.
    #[error("a device's addresses are taken")]
    Bus(#[from] BusError),
    /// KVM refused an interrupt line or a doorbell.
    #[error("KVM refused an interrupt line or doorbell")]
    Kvm(#[from] KvmError),
    /// The host is out of event descriptors.
    #[error("no event descriptor can be had")]
    EventFd(#[source] io::Error),
    /// There are more virtio devices than slots.
    #[error("the machine has no free slot for {id}")]
    NoSlot {
        /// The device.
        id: String,
    },
    /// The host has no random bytes for an address.
    #[error("no random address can be had")]
    Address(#[source] io::Error),
    /// A disk that cannot be used.
    #[error("{id}")]
    Disk {
        /// The device.
        id: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Where event descriptors meet the guest. KVM in a machine; tests write down what they are asked.
pub trait EventRoutes {
    /// Lets `event` raise interrupt line `gsi` as an edge.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    fn irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), KvmError>;

    /// Lets a 4-byte guest write of `value` at MMIO `address` signal `event`.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    fn ioeventfd(&self, event: &EventFd, address: u64, value: u32) -> Result<(), KvmError>;
}

impl EventRoutes for Vm {
    fn irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), KvmError> {
        self.register_irqfd(event, gsi)
    }

    fn ioeventfd(&self, event: &EventFd, address: u64, value: u32) -> Result<(), KvmError> {
        self.register_doorbell(event, address, value)
    }
}

/// What attaching a device needs.
pub struct Board<'a> {
    /// For interrupt lines and doorbells.
    pub routes: &'a dyn EventRoutes,
    /// Port space.
    pub pio: Bus,
    /// Memory-mapped space.
    pub mmio: Bus,
    /// Where devices tell what the guest did.
    pub events: Arc<EventSender>,
    /// Guest memory.
    pub memory: SharedMemory,
    /// The I/O thread that owns workers.
    pub io: IoHandle,
    /// How many virtio-mmio slots are taken.
    pub virtio_slots: u8,
}

/// What the machine keeps of its devices.
pub struct Devices {
    /// COM1.
    pub serial: Arc<Mutex<Serial>>,
    /// The chips every machine has.
    pub chips: LegacyChips,
    /// The virtio devices, in slot order.
    pub virtio: Vec<VirtioDeviceSlot>,
}

/// The devices beyond those that every machine has.
pub struct Wanted<'a> {
    /// Disks, in the order of their slots.
    pub disks: Vec<OpenDisk>,
    /// The id of the random number generator, if there is to be one.
    pub rng: Option<&'a str>,
    /// Network cards, in the order of their slots.
    pub nets: Vec<OpenNet>,
    /// The host's side of the vsock device.
    pub vsock: Option<OpenVsock>,
    /// The guest's UUID or name, for what is to be its own and to stay so.
    pub guest: Option<String>,
}

/// Attaches every device of a machine, in the order that gives each its virtio slot: the disks as
/// configured, then the random number generator, then the network cards, then the vsock device. What
/// a machine has today keeps its place when it gets more of a later kind.
///
/// # Errors
/// [`AttachError`].
pub fn all(
    board: &mut Board<'_>,
    serial: Box<dyn SerialBackend>,
    clock: HostClock,
    wanted: Wanted<'_>,
) -> Result<Devices, AttachError> {
    let serial = serial::attach(board, serial)?;
    let chips = legacy::attach(board, clock)?;
    let Wanted {
        disks,
        rng,
        nets,
        vsock,
        guest,
    } = wanted;
    let mut virtio = Vec::with_capacity(disks.len() + 2 + nets.len());
    for disk in disks {
        virtio.push(blk::attach(board, disk)?);
    }
    if let Some(id) = rng {
        virtio.push(rng::attach(board, id)?);
    }
    for net in nets {
        virtio.push(net::attach(board, net, guest.as_deref())?);
    }
    if let Some(vsock) = vsock {
        virtio.push(vsock::attach(board, vsock)?);
    }
    Ok(Devices {
        serial,
        chips,
        virtio,
    })
}

impl Board<'_> {
    /// An edge-triggered interrupt line.
    fn irq_line(&self, gsi: u32) -> Result<Arc<dyn IrqLine>, AttachError> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(AttachError::EventFd)?;
        self.routes.irqfd(&event, gsi)?;
        Ok(Arc::new(event))
    }

    /// Puts `device` into port space.
    fn at_ports<D: BusDevice + 'static>(
        &mut self,
        name: &str,
        first: u64,
        count: u64,
        device: D,
    ) -> Result<Arc<Mutex<D>>, AttachError> {
        let shared = Arc::new(Mutex::new(device));
        self.pio.insert(name, first, count, shared.clone())?;
        Ok(shared)
    }
}

#[cfg(test)]
mod tests;
