//! What vCPUs and devices tell the main thread.
//!
//! Raised on vCPU and I/O threads, read by the main loop alone, which serves them before any
//! command: a guest that powered off is off, whatever a client asks next.
//!
//! A guest raises events at will and faster than anybody reads them. Those that wait are therefore
//! told once each, however often they were raised, which bounds the queue: one entry for each kind
//! of event, vCPU, device, and way a disk fails.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::events::{BlockErrorAction, EventSink, GuestEvent};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::fd::event_fd;
use crate::kvm::InternalError;

/// Why a vCPU thread gave its vCPU back without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VcpuFault {
    /// Triple fault: the processor shut down.
    TripleFault,
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

/// Whether the vCPU that did this is to run no further guest instruction before the main thread has
/// looked at it.
fn ends_the_guest(event: &GuestEvent) -> bool {
    match event {
        GuestEvent::Shutdown
        | GuestEvent::Reset
        | GuestEvent::Panicked
        | GuestEvent::PvShutdown => true,
        GuestEvent::CrashLoaded
        | GuestEvent::BlockIoError(_)
        | GuestEvent::NicRxFilterChanged { .. }
        | GuestEvent::DeviceNeedsReset { .. } => false,
    }
}

impl MachineEvent {
    /// Whether the machine may have to be held because of it.
    #[must_use]
    pub fn stops_the_guest(&self) -> bool {
        match self {
            Self::Guest(GuestEvent::BlockIoError(error)) => error.action == BlockErrorAction::Stop,
            Self::Guest(event) => ends_the_guest(event),
            Self::Vcpu { .. } => true,
            Self::ClockChanged { .. } => false,
        }
    }

    /// Whether `self`, which still waits, tells the main thread what `newer` would.
    fn covers(&self, newer: &Self) -> bool {
        use GuestEvent::DeviceNeedsReset;
        match (self, newer) {
            // The first fault is the one that stopped the device, or the vCPU.
            (
                Self::Guest(DeviceNeedsReset { id: waiting, .. }),
                Self::Guest(DeviceNeedsReset { id, .. }),
            ) => waiting == id,
            (Self::Vcpu { index: waiting, .. }, Self::Vcpu { index, .. }) => waiting == index,
            _ => self == newer,
        }
    }
}

/// Events in the order they were raised, each once.
#[derive(Debug, Default)]
struct Queue(Mutex<VecDeque<MachineEvent>>);

impl Queue {
    fn lock(&self) -> MutexGuard<'_, VecDeque<MachineEvent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: MachineEvent) {
        let mut waiting = self.lock();
        // Of a clock that is set again only the new time counts.
        if let MachineEvent::ClockChanged { .. } = event {
            waiting.retain(|old| !matches!(old, MachineEvent::ClockChanged { .. }));
        }
        if !waiting.iter().any(|old| old.covers(&event)) {
            waiting.push_back(event);
        }
    }
}

/// The sending side, shared by every thread of the machine.
#[derive(Debug)]
pub struct EventSender {
    queue: Arc<Queue>,
    wake: EventFd,
    stop: Arc<AtomicBool>,
}

/// The main thread's side.
#[derive(Debug)]
pub struct EventReceiver {
    queue: Arc<Queue>,
    wake: EventFd,
}

/// Makes the two sides. `stop` is the vCPUs' stop flag: an event that must stop the guest sets it,
/// so that the vCPU that caused it runs no further guest instruction.
///
/// # Errors
/// What the kernel answered when asked for an event descriptor.
pub fn event_queue(stop: Arc<AtomicBool>) -> std::io::Result<(Arc<EventSender>, EventReceiver)> {
    let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
    let queue = Arc::new(Queue::default());
    let receiver = EventReceiver {
        queue: Arc::clone(&queue),
        wake: wake.try_clone()?,
    };
    Ok((Arc::new(EventSender { queue, wake, stop }), receiver))
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

    /// Makes the main loop look around: a vCPU or a worker it waits for has come.
    pub fn wake(&self) {
        // Fails only when the counter is full, and then the main thread will wake.
        drop(self.wake.write(1));
    }

    fn send(&self, event: MachineEvent) {
        self.queue.push(event);
        self.wake();
    }
}

impl EventSink for EventSender {
    fn raise(&self, event: GuestEvent) {
        if ends_the_guest(&event) {
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
        self.queue.lock().pop_front()
    }

    /// Puts the event back that [`Self::next`] gave last: it is to be served later.
    pub fn put_back(&self, event: MachineEvent) {
        self.queue.lock().push_front(event);
    }

    /// How many events wait. Who serves as many and then looks elsewhere cannot be kept by a guest
    /// that goes on raising them.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.lock().len()
    }

    /// Acknowledges the wake-up; call before draining with [`Self::next`], so that an event queued
    /// in between wakes the loop again.
    pub fn acknowledge(&self) {
        drop(self.wake.read());
    }
}

#[cfg(test)]
mod tests {
    use devices::events::BlockIoError;

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

    #[test]
    fn a_flood_of_events_waits_as_one_of_each() {
        let (sender, receiver) = event_queue(Arc::default()).unwrap();
        let disk = |errno| {
            GuestEvent::BlockIoError(BlockIoError {
                id: "disk0".into(),
                write: true,
                action: BlockErrorAction::Report,
                errno,
            })
        };
        let broken = |reason: String| GuestEvent::DeviceNeedsReset {
            id: "rng0".into(),
            reason,
        };
        for turn in 0..10_000 {
            sender.raise(GuestEvent::CrashLoaded);
            sender.raise(GuestEvent::Panicked);
            sender.raise(GuestEvent::Reset);
            sender.raise(disk(libc::EIO));
            sender.raise(broken(format!("fault {turn}")));
            sender.clock_changed(turn);
            sender.vcpu_fault(1, VcpuFault::TripleFault);
        }
        sender.raise(disk(libc::ENOSPC));
        assert_eq!(receiver.waiting(), 8);
        let all: Vec<_> = std::iter::from_fn(|| receiver.next()).collect();
        let expected = [
            MachineEvent::Guest(GuestEvent::CrashLoaded),
            MachineEvent::Guest(GuestEvent::Panicked),
            MachineEvent::Guest(GuestEvent::Reset),
            MachineEvent::Guest(disk(libc::EIO)),
            MachineEvent::Guest(broken("fault 0".to_owned())),
            MachineEvent::Vcpu {
                index: 1,
                fault: VcpuFault::TripleFault,
            },
            MachineEvent::ClockChanged { offset: 9_999 },
            MachineEvent::Guest(disk(libc::ENOSPC)),
        ];
        assert_eq!(all, expected);
    }
}
