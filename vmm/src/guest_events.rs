//! What vCPUs and devices tell the main thread.
//!
//! Raised on vCPU and I/O threads, read by the main loop alone, which serves them before any
//! command: a guest that powered off is off, whatever a client asks next.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use devices::events::{EventSink, GuestEvent};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::fd::event_fd;
use crate::kvm::InternalError;

/// Why a vCPU thread gave its vCPU back without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VcpuFault {
    /// Triple fault: the processor shut down.
    TripleFault,
    /// HLT without an in-kernel APIC to wake it.
    Halted,
    /// KVM stopped the guest.
    Internal(InternalError),
    /// The processor refused to enter the guest.
    EntryRefused(u64),
    /// An exit nobody asked for, or a failed `KVM_RUN`; the text says which.
    Broken(String),
}

/// One thing the main thread must look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEvent {
    /// A device's.
    Guest(GuestEvent),
    /// A vCPU's.
    Vcpu {
        /// Which.
        index: u8,
        /// What happened to it.
        fault: VcpuFault,
    },
    /// The guest set its CMOS clock.
    ClockChanged {
        /// Seconds by which it is ahead of the host's.
        offset: i64,
    },
}

/// The sending side, shared by every thread of the machine.
#[derive(Debug)]
pub struct EventSender {
    queue: Sender<MachineEvent>,
    wake: EventFd,
    stop: Arc<AtomicBool>,
}

/// The main thread's side.
#[derive(Debug)]
pub struct EventReceiver {
    queue: Receiver<MachineEvent>,
    wake: EventFd,
}

/// Makes the two sides. `stop` is the vCPUs' stop flag: an event that must stop the guest sets it,
/// so that the vCPU that caused it runs no further guest instruction.
///
/// # Errors
/// What the kernel answered when asked for an event descriptor.
pub fn event_queue(stop: Arc<AtomicBool>) -> std::io::Result<(Arc<EventSender>, EventReceiver)> {
    let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
    let (sender, queue) = channel();
    let receiver = EventReceiver {
        queue,
        wake: wake.try_clone()?,
    };
    Ok((
        Arc::new(EventSender {
            queue: sender,
            wake,
            stop,
        }),
        receiver,
    ))
}

impl EventSender {
    /// Queues a vCPU's fault.
    pub fn vcpu_fault(&self, index: u8, fault: VcpuFault) {
        self.send(MachineEvent::Vcpu { index, fault });
    }

    /// Queues the new offset of the guest's clock, in seconds.
    pub fn clock_changed(&self, offset: i64) {
        self.send(MachineEvent::ClockChanged { offset });
    }

    fn send(&self, event: MachineEvent) {
        // Both fail only when the main thread has gone, and then nobody is left to tell.
        drop(self.queue.send(event));
        drop(self.wake.write(1));
    }
}

impl EventSink for EventSender {
    fn raise(&self, event: GuestEvent) {
        let stops_the_guest = match event {
            GuestEvent::Shutdown
            | GuestEvent::Reset
            | GuestEvent::Panicked
            | GuestEvent::PvShutdown => true,
            GuestEvent::CrashLoaded
            | GuestEvent::BlockIoError(_)
            | GuestEvent::DeviceNeedsReset { .. } => false,
        };
        if stops_the_guest {
            self.stop.store(true, Ordering::Release);
        }
        self.send(MachineEvent::Guest(event));
    }
}

impl EventReceiver {
    /// The descriptor that becomes readable when there is an event.
    #[must_use]
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        event_fd(&self.wake)
    }

    /// The next event, if there is one.
    #[must_use]
    pub fn next(&self) -> Option<MachineEvent> {
        self.queue.try_recv().ok()
    }

    /// Acknowledges the wake-up; call before draining with [`Self::next`], so that an event queued
    /// in between wakes the loop again.
    pub fn acknowledge(&self) {
        drop(self.wake.read());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_end_the_guest_set_the_stop_flag() {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = event_queue(Arc::clone(&stop)).unwrap();
        sender.raise(GuestEvent::CrashLoaded);
        assert!(!stop.load(Ordering::Acquire));
        sender.raise(GuestEvent::Reset);
        assert!(stop.load(Ordering::Acquire));
        receiver.acknowledge();
        assert_eq!(
            receiver.next(),
            Some(MachineEvent::Guest(GuestEvent::CrashLoaded))
        );
        assert_eq!(
            receiver.next(),
            Some(MachineEvent::Guest(GuestEvent::Reset))
        );
        assert_eq!(receiver.next(), None);
    }
}
