//! What a virtio device is: an identity, a configuration space, and a worker that it makes when
//! the driver is ready and takes apart when it is not.
//!
//! All calls come from the transport, under the bus's lock, on vCPU threads or (paused, or before
//! the first vCPU runs) on the main thread. The worker runs on the I/O thread in between.
//!
//! ```text
//!            activate                 take_back + reclaim
//! inactive ───────────► worker runs ─────────────────────► inactive
//! ```
//!
//! A device holds its backend while it is inactive and its worker holds it while that runs, so
//! there is nothing to lock.

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Interrupt;
use super::queue::{Position, Queue};
use super::saved::DeviceState;
use crate::io_thread::{Fault, Recall, Worker};
use crate::memory::{GuestMemory, SharedMemory};
use crate::saved::BadState;

/// What a driver learns of a device before it has negotiated anything. Part of the machine's
/// contract with the guest: it does not change while the device lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Device type (virtio 1.2, 5).
    pub device_type: u32,
    /// The device's own feature bits (0 to 23 and 50 to 127 by the standard); the transport adds
    /// those of queues and transport.
    pub features: u64,
    /// The largest size of each queue, a power of two; their number is the number of queues.
    pub queue_sizes: Vec<u16>,
}

/// A queue that the driver has made ready.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Its number.
    pub index: u16,
    /// The queue, checked.
    pub queue: Queue,
    /// Readable when the driver has notified. Nonblocking. The worker's first look must not wait
    /// for it: the transport has signalled it already.
    pub doorbell: Arc<EventFd>,
}

impl ActiveQueue {
    /// Answers one wake-up of the queue's worker: gives each available chain's head to `answer`,
    /// until there is none, or `answer` breaks off, or `budget` chains have been taken. In the last
    /// case the doorbell is signalled, so that the worker goes on after the others had their turn.
    ///
    /// # Errors
    /// A [`Fault`] of the queue's or of `answer`'s.
    pub fn serve(
        &mut self,
        memory: &GuestMemory,
        budget: usize,
        mut answer: impl FnMut(&mut Queue, u16) -> Result<ControlFlow<()>, Fault>,
    ) -> Result<(), Fault> {
        // Emptied before the queue is looked at, so a notification from now on wakes us again.
        // It fails if there was none, and then there is no harm in looking.
        drop(self.doorbell.read());
        let Self {
            index: _,
            queue,
            doorbell,
        } = self;
        queue.disable_notification(memory)?;
        let mut left = budget;
        loop {
            while let Some(head) = queue.pop(memory)? {
                if answer(queue, head)?.is_break() {
                    return Ok(());
                }
                left = left.saturating_sub(1);
                if left == 0 {
                    // Fails only when its counter is full: it is signalled then.
                    drop(doorbell.write(1));
                    return Ok(());
                }
            }
            if !queue.enable_notification(memory)? {
                return Ok(());
            }
        }
    }

    /// Like [`Self::serve`], but without a notification to answer, and without asking for the next:
    /// for who looks again soon. Returns whether there was anything.
    ///
    /// # Errors
    /// As [`Self::serve`].
    pub fn look(
        &mut self,
        memory: &GuestMemory,
        budget: usize,
        mut answer: impl FnMut(&mut Queue, u16) -> Result<ControlFlow<()>, Fault>,
    ) -> Result<bool, Fault> {
        let queue = &mut self.queue;
        for taken in 0..budget {
            let Some(head) = queue.pop(memory)? else {
                return Ok(taken > 0);
            };
            if answer(queue, head)?.is_break() {
                break;
            }
        }
        Ok(true)
    }

    /// Asks the driver for notifications again, after [`Self::look`]; what has come meanwhile is as
    /// if notified.
    ///
    /// # Errors
    /// A [`Fault`] of the queue's.
    pub fn stop_looking(&mut self, memory: &GuestMemory) -> Result<(), Fault> {
        if self.queue.enable_notification(memory)? {
            // Fails only when the counter is full: it is signalled then.
            drop(self.doorbell.write(1));
        }
        Ok(())
    }

    /// Interrupts the driver if it wants to know of what was put into the used ring.
    ///
    /// # Errors
    /// A [`Fault`] of the queue's.
    pub fn signal(&mut self, memory: &GuestMemory, interrupt: &Interrupt) -> Result<(), Fault> {
        if self.queue.should_signal(memory)? {
            interrupt.signal_used();
        }
        Ok(())
    }
}

/// What a device needs to run.
#[derive(Debug)]
pub struct Activation {
    /// Guest memory.
    pub memory: SharedMemory,
    /// The features that device and driver have agreed on.
    pub features: u64,
    /// The queues the driver made ready, in ascending order, possibly not all.
    pub queues: Vec<ActiveQueue>,
    /// How to reach the driver.
    pub interrupt: Arc<Interrupt>,
    /// Set when the worker is wanted back.
    pub recall: Recall,
}

/// How far a worker got in one of its queues.
pub type QueuePosition = (u16, Position);

/// A virtio device. `Any` lets whoever attached it reach its own operations again.
pub trait VirtioDevice: Any + Send {
    /// Type, features and queues.
    fn identity(&self) -> &Identity;

    /// Reads `data.len()` bytes of the configuration space at `offset`. `data` arrives zeroed;
    /// what is beyond the device's fields stays so.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes to the configuration space; what is not writable is ignored. `features` are the
    /// negotiated ones, none before FEATURES_OK.
    fn write_config(&mut self, features: u64, offset: u64, data: &[u8]);

    /// Makes the worker. It is handed to the I/O thread right away.
    ///
    /// # Errors
    /// A [`Fault`] when the device has lost its backend or the driver's choices make no sense; the
    /// device then needs a reset.
    fn activate(&mut self, activation: Activation) -> Result<Box<dyn Worker>, Fault>;

    /// Takes apart a worker that [`VirtioDevice::activate`] made, finished. What it had not
    /// answered is kept for the next worker.
    ///
    /// # Errors
    /// A [`Fault`] when the worker is not this device's.
    fn reclaim(&mut self, worker: Box<dyn Worker>) -> Result<Vec<QueuePosition>, Fault>;

    /// Forgets what the driver did. The device is inactive.
    fn reset(&mut self);

    /// The device's own state beside that of its transport and queues. The device is inactive.
    fn save(&self) -> DeviceState;

    /// Puts a state back. The device is inactive.
    ///
    /// # Errors
    /// [`BadState`] names the field that cannot be; the device is then as it was.
    fn restore(&mut self, state: &DeviceState) -> Result<(), BadState>;
}
