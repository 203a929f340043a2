//! Putting devices into the machine: one file per kind.
//!
//! Each takes a chip, gives it its bus range, interrupt line and backend, and returns what the
//! machine keeps of it. Called by the builder on the main thread, after the vCPUs exist and before
//! the first one runs.

pub mod blk;
pub mod legacy;
pub mod rng;
pub mod serial;
mod virtio;

use std::io;
use std::sync::{Arc, Mutex};

use devices::bus::{Bus, BusDevice, BusError};
use devices::io_thread::IoHandle;
use devices::irq::IrqLine;
use devices::memory::SharedMemory;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::guest_events::EventSender;
use crate::kvm::{KvmError, Vm};

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

/// What attaching a device needs.
pub struct Board<'a> {
    /// For interrupt lines and doorbells.
    pub vm: &'a Vm,
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

impl Board<'_> {
    /// An edge-triggered interrupt line.
    fn irq_line(&self, gsi: u32) -> Result<Arc<dyn IrqLine>, AttachError> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(AttachError::EventFd)?;
        self.vm.register_irqfd(&event, gsi)?;
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
