//! A virtio device in a virtio-mmio slot: registers, interrupt line, doorbells.

use std::sync::{Arc, Mutex};

use devices::io_thread::IoThreadError;
use devices::virtio::device::VirtioDevice;
use devices::virtio::transport::core::Wiring;
use devices::virtio::transport::mmio::MmioTransport;
use devices::virtio::vsock::stats::VsockStats;
use firmware::layout;

use super::{AttachError, Board};

// As in `super::legacy`.
const _: () = assert!(layout::VIRTIO_MMIO_LEN == devices::virtio::transport::mmio::MMIO_LEN);

/// What the machine keeps of a virtio device.
pub struct VirtioDeviceSlot {
    /// The device's id, unique in the machine.
    pub id: Arc<str>,
    /// Which virtio-mmio slot it is in.
    pub slot: u8,
    /// Its registers, with the device behind them.
    pub transport: Arc<Mutex<MmioTransport>>,
    /// What it is, with what only its kind has.
    pub kind: VirtioKind,
}

impl VirtioDeviceSlot {
    /// The answer to a request for the device's worker; `None`, and the log says so, if the I/O
    /// thread has gone.
    pub(crate) fn lost<T>(&self, answer: Result<T, IoThreadError>) -> Option<T> {
        answer
            .inspect_err(|error| log::error!("{}: the device is lost: {error}", self.id))
            .ok()
    }
}

/// The kinds of virtio device.
pub enum VirtioKind {
    /// A disk.
    Blk(super::blk::BlkInfo),
    /// A random number generator.
    Rng,
    /// A network card.
    Net(super::net::NetInfo),
    /// Sockets between guest and host; the device's counters.
    Vsock(Arc<VsockStats>),
}

/// Puts `device` into the next free slot.
pub(super) fn attach(
    board: &mut Board<'_>,
    id: &str,
    device: Box<dyn VirtioDevice>,
    kind: VirtioKind,
) -> Result<VirtioDeviceSlot, AttachError> {
    let slot = layout::virtio_mmio_slot(board.virtio_slots)
        .ok_or_else(|| AttachError::NoSlot { id: id.to_owned() })?;
    let id: Arc<str> = id.into();
    let wiring = Wiring {
        id: Arc::clone(&id),
        memory: Arc::clone(&board.memory),
        io: board.io.clone(),
        irq: board.irq_line(slot.gsi)?,
        events: board.events.clone(),
    };
    let transport = MmioTransport::new(device, wiring).map_err(AttachError::EventFd)?;
    let base = u64::from(slot.address);
    for doorbell in transport.doorbells() {
        let address = base + doorbell.offset;
        board
            .routes
            .ioeventfd(&doorbell.event, address, doorbell.queue)?;
    }
    let transport = Arc::new(Mutex::new(transport));
    let name = format!("virtio-mmio-{}", slot.slot);
    board
        .mmio
        .insert(&name, base, layout::VIRTIO_MMIO_LEN, transport.clone())?;
    board.virtio_slots += 1;
    Ok(VirtioDeviceSlot {
        id,
        slot: slot.slot,
        transport,
        kind,
    })
}
