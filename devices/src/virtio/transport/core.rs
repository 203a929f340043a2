//! The part of a virtio transport that is the same for all of them (virtio 1.2, 2 and 3): device
//! status, feature negotiation, queue registers, interrupt status, and the life of the worker.
//!
//! Called under the bus's lock, on vCPU threads (the driver's accesses) and on the main thread
//! (pause, resume, save, machine reset; vCPUs are held then). The worker itself runs on the I/O
//! thread and shares only [`Interrupt`] and `Health` with this.
//!
//! ```text
//!           DRIVER_OK / resume
//!   idle ──────────────────────► running     worker in the I/O thread
//!    ▲                             │
//!    └──── status 0 / pause ───────┘         worker asked for, and come back
//! ```
//! Whether a worker ought to run follows from the status register alone (DRIVER_OK and not
//! DEVICE_NEEDS_RESET); pausing changes no register.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::events::{EventSink, GuestEvent};
use crate::io_thread::{Fault, FaultSink, IoHandle, IoThreadError, Recall, Returning, WorkerId};
use crate::irq::IrqLine;
use crate::memory::SharedMemory;
use crate::virtio::device::{Activation, ActiveQueue, VirtioDevice};
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::{Layout, Position, Queue};
use crate::virtio::spec::{
    F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, STATUS_ACKNOWLEDGE, STATUS_DRIVER, STATUS_DRIVER_OK,
    STATUS_FAILED, STATUS_FEATURES_OK, STATUS_NEEDS_RESET,
};

/// The features that queues and transport add to every device's own.
const COMMON_FEATURES: u64 = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX;

/// What a device is connected to.
#[derive(Clone)]
pub struct Wiring {
    /// The device's id, as events name it.
    pub id: Arc<str>,
    /// Guest memory.
    pub memory: SharedMemory,
    /// The I/O thread that is to own the worker.
    pub io: IoHandle,
    /// The device's interrupt line.
    pub irq: Arc<dyn IrqLine>,
    /// Who is told when the device stops.
    pub events: Arc<dyn EventSink>,
}

/// Whether the device has had to give up on its driver. Shared with the I/O thread, where most
/// faults are found.
pub(super) struct Health {
    id: Arc<str>,
    interrupt: Arc<Interrupt>,
    events: Arc<dyn EventSink>,
    needs_reset: AtomicBool,
}

impl Health {
    pub(super) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, needs_reset: bool) {
        self.needs_reset.store(needs_reset, Ordering::Release);
    }
}

impl FaultSink for Health {
    fn fault(&self, fault: &Fault) {
        // Once until the driver resets the device, so a guest cannot flood its owner.
        if self.needs_reset.swap(true, Ordering::AcqRel) {
            return;
        }
        let id = Arc::clone(&self.id);
        self.events.raise(GuestEvent::DeviceNeedsReset {
            id,
            reason: fault.to_string(),
        });
        self.interrupt.signal_config();
    }
}

/// The registers of one queue, and the doorbell behind its notify register.
pub(super) struct QueueRegisters {
    /// Largest size the device takes. Constant.
    pub(super) max_size: u16,
    pub(super) layout: Layout,
    pub(super) ready: bool,
    /// Where the next worker goes on. Current only while no worker runs.
    pub(super) position: Position,
    /// Constant: the VMM has registered it.
    pub(super) doorbell: Arc<EventFd>,
}

/// Where a device's worker is.
pub(super) enum WorkerPlace {
    /// There is none.
    Nowhere,
    /// In the I/O thread.
    Running(WorkerId, Recall),
    /// Asked for.
    Returning(Returning),
}

/// Registers and life of one device.
pub struct Core {
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) wiring: Wiring,
    pub(super) interrupt: Arc<Interrupt>,
    pub(super) health: Arc<Health>,
    pub(super) worker: WorkerPlace,
    /// The status register without DEVICE_NEEDS_RESET, which is [`Health`]'s.
    pub(super) status: u8,
    pub(super) driver_features: u64,
    pub(super) queues: Vec<QueueRegisters>,
    /// Counts changes of the configuration space; kept over resets (4.2.2.1).
    pub(super) config_generation: u32,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("id", &self.wiring.id)
            .field("status", &self.status())
            .field("running", &self.is_running())
            .finish_non_exhaustive()
    }
}

impl Core {
    /// An inactive device.
    ///
    /// # Errors
    /// When no event descriptor can be had for a queue's doorbell.
    pub fn new(device: Box<dyn VirtioDevice>, wiring: Wiring) -> io::Result<Self> {
        let queues = device
            .identity()
            .queue_sizes
            .iter()
            .map(|&max_size| {
                Ok(QueueRegisters {
                    max_size,
                    layout: Layout {
                        size: max_size,
                        ..Layout::default()
                    },
                    ready: false,
                    position: Position::default(),
                    doorbell: Arc::new(EventFd::new(EFD_NONBLOCK)?),
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        let interrupt = Arc::new(Interrupt::new(Arc::clone(&wiring.irq)));
        let health = Arc::new(Health {
            id: Arc::clone(&wiring.id),
            interrupt: Arc::clone(&interrupt),
            events: Arc::clone(&wiring.events),
            needs_reset: AtomicBool::new(false),
        });
        Ok(Self {
            device,
            wiring,
            interrupt,
            health,
            worker: WorkerPlace::Nowhere,
            status: 0,
            driver_features: 0,
            queues,
            config_generation: 0,
        })
    }

    /// The device, if it is a `D`: for the operations of its kind (resize, statistics).
    pub fn device_mut<D: VirtioDevice>(&mut self) -> Option<&mut D> {
        let device: &mut dyn Any = &mut *self.device;
        device.downcast_mut()
    }

    /// The device type.
    #[must_use]
    pub fn device_type(&self) -> u32 {
        self.device.identity().device_type
    }

    /// All features on offer.
    #[must_use]
    pub fn device_features(&self) -> u64 {
        self.device.identity().features | COMMON_FEATURES
    }

    /// The features agreed on: none before FEATURES_OK.
    #[must_use]
    pub fn negotiated(&self) -> u64 {
        if self.status & STATUS_FEATURES_OK != 0 {
            self.driver_features
        } else {
            0
        }
    }

    /// Replaces half of the features the driver has accepted: bits 0 to 31 (`high` false) or 32
    /// to 63. Ignored once they are agreed on.
    pub fn accept_features(&mut self, high: bool, bits: u32) {
        if self.status & STATUS_FEATURES_OK == 0 {
            self.driver_features = replace_half(self.driver_features, high, bits);
        }
    }

    /// The status register.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.status
            | if self.health.needs_reset() {
                STATUS_NEEDS_RESET
            } else {
                0
            }
    }

    /// The driver writes the status register (2.1, 3.1.1). Zero resets; otherwise bits can only be
    /// added, and each only after the one before it.
    pub fn write_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset();
        }
        if self.status & !value != 0 {
            return;
        }
        let added = value & !self.status;
        if added & STATUS_FAILED != 0 {
            self.status |= STATUS_FAILED;
        }
        if added & STATUS_ACKNOWLEDGE != 0 {
            self.status |= STATUS_ACKNOWLEDGE;
        }
        if added & STATUS_DRIVER != 0 && self.status & STATUS_ACKNOWLEDGE != 0 {
            self.status |= STATUS_DRIVER;
        }
        if added & STATUS_FEATURES_OK != 0
            && self.status & STATUS_DRIVER != 0
            && self.features_are_acceptable()
        {
            self.status |= STATUS_FEATURES_OK;
        }
        if added & STATUS_DRIVER_OK != 0 && self.status & STATUS_FEATURES_OK != 0 {
            self.status |= STATUS_DRIVER_OK;
            self.start();
        }
    }

    fn features_are_acceptable(&self) -> bool {
        self.driver_features & !self.device_features() == 0
            && self.driver_features & F_VERSION_1 != 0
    }

    /// How many queues the device has.
    #[must_use]
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// A queue's largest size and whether it is ready; `None` when there is no such queue.
    #[must_use]
    pub fn queue_info(&self, index: u32) -> Option<(u16, bool)> {
        let queue = self.queues.get(usize::try_from(index).ok()?)?;
        Some((queue.max_size, queue.ready))
    }

    /// Changes where a queue lies. Ignored before FEATURES_OK, from DRIVER_OK on, while the queue
    /// is ready, and for a queue that does not exist. What makes no sense is found at DRIVER_OK.
    pub fn configure_queue(&mut self, index: u32, change: impl FnOnce(&mut Layout)) {
        if let Some(queue) = self.configurable(index)
            && !queue.ready
        {
            change(&mut queue.layout);
            if queue.layout.size > queue.max_size {
                // Not a size; refused when the queue is started.
                queue.layout.size = 0;
            }
        }
    }

    /// Makes a queue ready, or not. Ignored before FEATURES_OK and from DRIVER_OK on: a single
    /// queue is stopped by resetting the device (VIRTIO_F_RING_RESET is not offered).
    pub fn set_queue_ready(&mut self, index: u32, ready: bool) {
        if let Some(queue) = self.configurable(index) {
            queue.ready = ready;
        }
    }

    fn configurable(&mut self, index: u32) -> Option<&mut QueueRegisters> {
        let phase = self.status & (STATUS_FEATURES_OK | STATUS_DRIVER_OK);
        let queue = self.queues.get_mut(usize::try_from(index).ok()?)?;
        (phase == STATUS_FEATURES_OK).then_some(queue)
    }

    /// The driver notifies a queue by a write that no ioeventfd caught.
    pub fn notify(&self, index: u32) {
        let queue = usize::try_from(index)
            .ok()
            .and_then(|index| self.queues.get(index));
        if let Some(queue) = queue
            && self.status & STATUS_DRIVER_OK != 0
        {
            ring(&queue.doorbell);
        }
    }

    /// The pending interrupts and their line.
    #[must_use]
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// The number that changes with the configuration space.
    #[must_use]
    pub fn config_generation(&self) -> u32 {
        self.config_generation
    }

    /// Reads the configuration space.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }

    /// Writes to the configuration space.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        let features = self.negotiated();
        self.device.write_config(features, offset, data);
    }

    /// The device changed its configuration space: tells the driver.
    pub fn config_changed(&mut self) {
        self.config_generation = self.config_generation.wrapping_add(1);
        if self.status & STATUS_DRIVER_OK != 0 {
            self.interrupt.signal_config();
        }
    }

    /// Asks the I/O thread for the worker, without waiting for it: it comes when what it has at its
    /// backend has ended. Does nothing if none runs.
    ///
    /// # Errors
    /// When the I/O thread is gone; the device is lost with it, but its registers remain.
    pub fn begin_pause(&mut self) -> Result<(), IoThreadError> {
        if let WorkerPlace::Running(id, recall) = &self.worker {
            recall.set();
            let id = *id;
            self.worker = WorkerPlace::Nowhere;
            self.worker = WorkerPlace::Returning(self.wiring.io.take_back(id)?);
        }
        Ok(())
    }

    /// Waits until `until`, or for ever, for the worker that [`Self::begin_pause`] asked for, and
    /// returns whether the device is paused: then it touches neither guest memory nor its backend
    /// nor its interrupt, and can be saved.
    ///
    /// # Errors
    /// As [`Self::begin_pause`].
    pub fn finish_pause(&mut self, until: Option<Instant>) -> Result<bool, IoThreadError> {
        let WorkerPlace::Returning(returning) = &self.worker else {
            return Ok(!self.is_running());
        };
        let worker = match returning.wait(until) {
            Ok(Some(worker)) => worker,
            Ok(None) => return Ok(false),
            Err(error) => {
                self.worker = WorkerPlace::Nowhere;
                return Err(error);
            }
        };
        self.worker = WorkerPlace::Nowhere;
        match self.device.reclaim(worker) {
            Ok(positions) => {
                for (index, position) in positions {
                    if let Some(queue) = self.queues.get_mut(usize::from(index)) {
                        queue.position = position;
                    }
                }
            }
            Err(fault) => self.health.fault(&fault),
        }
        Ok(true)
    }

    /// Takes the worker back, however long that takes.
    ///
    /// # Errors
    /// As [`Self::begin_pause`].
    pub fn pause(&mut self) -> Result<(), IoThreadError> {
        self.begin_pause()?;
        self.finish_pause(None).map(drop)
    }

    /// Starts a worker if the driver is in charge and none runs: after a pause or a restore.
    pub fn resume(&mut self) {
        self.start();
        self.interrupt.raise_if_pending();
    }

    /// Whether a worker runs, or has not come back yet: then the device cannot be saved.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !matches!(self.worker, WorkerPlace::Nowhere)
    }

    /// Resets the device, for the driver (status 0) or with the machine.
    pub fn reset(&mut self) {
        if let Err(error) = self.pause() {
            // Cannot repeat: no worker is ever started again on a thread that is gone.
            log::error!("{}: the device is lost: {error}", self.wiring.id);
        }
        let Self {
            device,
            wiring: _,
            interrupt,
            health,
            worker: _,
            status,
            driver_features,
            queues,
            config_generation: _,
        } = self;
        device.reset();
        health.set(false);
        interrupt.set_status(0);
        *status = 0;
        *driver_features = 0;
        for queue in queues {
            let QueueRegisters {
                max_size,
                layout,
                ready,
                position,
                doorbell,
            } = queue;
            *layout = Layout {
                size: *max_size,
                ..Layout::default()
            };
            *ready = false;
            *position = Position::default();
            // Empty already unless a notification is left over; then reading it fails, as it may.
            drop(doorbell.read());
        }
    }

    /// Makes a worker and hands it over, if the status says that one ought to run.
    fn start(&mut self) {
        let wanted = self.status & STATUS_DRIVER_OK != 0 && !self.health.needs_reset();
        if !wanted || self.is_running() {
            return;
        }
        match self.try_start() {
            Ok(running) => self.worker = running,
            Err(fault) => self.health.fault(&fault),
        }
    }

    fn try_start(&mut self) -> Result<WorkerPlace, Fault> {
        let features = self.negotiated();
        let mut queues = Vec::with_capacity(self.queues.len());
        for (index, registers) in (0..).zip(&self.queues) {
            if !registers.ready {
                continue;
            }
            let QueueRegisters {
                layout,
                position,
                doorbell,
                ..
            } = registers;
            let queue = Queue::new(&self.wiring.memory, *layout, *position, features)
                .map_err(|error| Fault(format!("queue {index}: {error}")))?;
            // The worker looks at the queue at once: a notification may have been consumed by
            // the worker before it, or have gone to another process.
            ring(doorbell);
            queues.push(ActiveQueue {
                index,
                queue,
                doorbell: Arc::clone(doorbell),
            });
        }
        let recall = Recall::default();
        let worker = self.device.activate(Activation {
            memory: Arc::clone(&self.wiring.memory),
            features,
            queues,
            interrupt: Arc::clone(&self.interrupt),
            recall: recall.clone(),
        })?;
        let on_fault: Arc<dyn FaultSink> = self.health.clone();
        let added = self.wiring.io.add(worker, on_fault);
        let id = added.map_err(|error| Fault::new(&error))?;
        Ok(WorkerPlace::Running(id, recall))
    }
}

/// `value` with bits 0 to 31, or 32 to 63, replaced.
pub(super) fn replace_half(value: u64, high: bool, bits: u32) -> u64 {
    let bits = u64::from(bits);
    if high {
        value & 0xffff_ffff | bits << 32
    } else {
        value & !0xffff_ffff | bits
    }
}

/// Signals a doorbell. It fails only when its counter is full, and then it is signalled.
fn ring(doorbell: &EventFd) {
    drop(doorbell.write(1));
}
