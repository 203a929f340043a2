//! The half of a character device that vCPU threads reach: the guest's output on its way out.
//!
//! [`Output::put`] runs on a vCPU thread with the chip locked. When nothing waits it writes the
//! byte at once (a system call per byte, as batching would have to guess when the guest goes idle);
//! what the host does not take stays in a bounded ring, and the main loop is woken to watch for
//! room. Lock order: the chip, then this; the main loop never locks the chip while it holds this.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::host_fd::HostFd;
use super::ring::ReplayRing;
use crate::legacy::serial::{FIFO_LEN, SerialBackend};
use crate::limited_warn;

/// Bytes of output replayed to a client that comes late.
pub const REPLAY_LEN: usize = 64 << 10;

/// Bytes of output kept. A replay leaves room for the FIFO's worth that a guest may be writing just
/// then, having seen the transmitter empty.
pub(super) const RING_LEN: usize = REPLAY_LEN + FIFO_LEN;

/// How long a connected client of a socket or pty may leave the guest waiting before output is
/// dropped instead. Longer than a pause for breath, shorter than a guest's watchdogs (Linux: 20 s).
pub const STALL_LIMIT: Duration = Duration::from_secs(5);

/// What happens to output the sink does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// The guest waits as long as it takes (stdio). A failing write loses its bytes only, as a disk
    /// that is full now may not be later, unless it tells that there is no reader any more.
    Wait,
    /// As `Wait`, but there may always be a reader later (file).
    Lose,
    /// Clients come and go (pty, socket). The guest waits for [`STALL_LIMIT`] at most, and what was
    /// sent is kept for the next client.
    Clients,
}

/// Where output goes and what waits for it.
#[derive(Debug)]
pub(super) struct Outbound {
    /// The device's name, for messages.
    label: String,
    ring: ReplayRing,
    /// `None`: nobody listens, and output only goes to the ring.
    sink: Option<Arc<HostFd>>,
    /// The sink refused bytes; the main loop is to watch for room.
    waiting: bool,
    /// Since when the guest is held off without any progress.
    full_since: Option<Instant>,
    /// The client has not read for [`STALL_LIMIT`]: the oldest bytes make room for the newest.
    stalled: bool,
    policy: Policy,
    dropped: u64,
}

impl Outbound {
    /// Output to `sink`, or to nobody yet.
    pub(super) fn new(label: &str, sink: Option<Arc<HostFd>>, policy: Policy) -> Self {
        Self {
            label: label.to_owned(),
            ring: ReplayRing::new(RING_LEN, policy == Policy::Clients),
            sink,
            waiting: false,
            full_since: None,
            stalled: false,
            policy,
            dropped: 0,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// When [`Self::expire`] wants to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let limited = self.policy == Policy::Clients && !self.stalled;
        if limited {
            self.full_since?.checked_add(STALL_LIMIT)
        } else {
            None
        }
    }

    /// A client came: it gets what is kept, then what follows.
    pub(super) fn attach(&mut self, sink: Arc<HostFd>) {
        self.detach();
        self.sink = Some(sink);
        self.ring.rewind(REPLAY_LEN);
        self.flush();
    }

    /// The client is gone, or the last one is to be forgotten.
    pub(super) fn detach(&mut self) {
        self.sink = None;
        self.ring.discard();
        self.settle();
    }

    /// Writes what the sink takes. Returns whether there is more room than before.
    pub(super) fn flush(&mut self) -> bool {
        let before = self.ring.room();
        while let Some(sink) = &self.sink {
            let unsent = self.ring.unsent();
            if unsent.is_empty() {
                break;
            }
            match sink.write(unsent) {
                Ok(0) | Err(Errno::AGAIN) => {
                    self.waiting = true;
                    break;
                }
                Ok(count) => self.ring.sent(count),
                Err(errno) => self.failed(errno),
            }
        }
        let progress = self.ring.room() > before;
        if progress {
            self.full_since = None;
            // With less room the guest would be told of room and lose what it writes into it.
            self.stalled &= self.ring.room() < FIFO_LEN;
        }
        self.settle();
        progress
    }

    /// Gives up on a client that has not read by its deadline. Returns whether there is more room.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let expired = self.deadline().is_some_and(|deadline| now >= deadline);
        if expired {
            limited_warn!(
                "{}: the client does not read; output is dropped until it does",
                self.label
            );
            self.stalled = true;
        }
        expired
    }

    fn failed(&mut self, errno: Errno) {
        let gone = match self.policy {
            Policy::Wait => {
                matches!(errno, Errno::PIPE | Errno::CONNRESET | Errno::BADF)
                    || self.sink.as_ref().is_some_and(|sink| sink.is_terminal())
            }
            Policy::Lose => false,
            Policy::Clients => true,
        };
        if !gone {
            limited_warn!("{}: output lost: {errno}", self.label);
            self.dropped = self.dropped.saturating_add(self.ring.unsent().len() as u64);
        } else {
            log::debug!("{}: nobody reads the output any more: {errno}", self.label);
            self.sink = None;
        }
        self.ring.discard();
    }

    /// Brings the flags in line with the ring.
    fn settle(&mut self) {
        if self.ring.unsent().is_empty() {
            (self.waiting, self.stalled, self.full_since) = (false, false, None);
        } else if self.full_since.is_none() && self.ring.room() < FIFO_LEN {
            self.full_since = Some(Instant::now());
        }
    }

    /// Returns whether the main loop must look: to watch for room, to keep a deadline, or because
    /// the client is gone.
    fn put(&mut self, byte: u8) -> bool {
        if !self.ring.push(byte) {
            self.dropped = self.dropped.saturating_add(1);
        }
        if self.sink.is_none() {
            self.ring.discard();
            return false;
        }
        let (waited, was_full) = (self.waiting, self.full_since.is_some());
        if waited {
            self.settle();
        } else {
            self.flush();
        }
        self.waiting && !waited || self.full_since.is_some() && !was_full || self.sink.is_none()
    }

    fn room(&self) -> usize {
        if self.sink.is_none() || self.stalled {
            RING_LEN
        } else {
            self.ring.room()
        }
    }
}

/// What the two halves of a character device share.
#[derive(Debug)]
pub(super) struct Shared {
    outbound: Mutex<Outbound>,
    /// An eventfd(2), non-blocking, that wakes the main loop.
    wake: OwnedFd,
}

impl Shared {
    pub(super) fn new(outbound: Outbound, wake: OwnedFd) -> Self {
        Self {
            outbound: Mutex::new(outbound),
            wake,
        }
    }

    pub(super) fn outbound(&self) -> MutexGuard<'_, Outbound> {
        self.outbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Wakes the main loop.
    pub(super) fn wake(&self) {
        match rustix::io::write(&self.wake, &1_u64.to_ne_bytes()) {
            // Full: it has been woken often enough.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(errno) => limited_warn!("chardev: cannot wake the main loop: {errno}"),
        }
    }

    /// Forgets the wake-ups so far.
    pub(super) fn woken(&self) {
        // Fails when there was none.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }
}

/// A character device as its chip sees it.
#[derive(Debug, Clone)]
pub struct Output {
    shared: Arc<Shared>,
}

impl Output {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl SerialBackend for Output {
    fn room(&self) -> usize {
        self.shared.outbound().room()
    }

    fn put(&mut self, byte: u8) {
        let look = self.shared.outbound().put(byte);
        if look {
            self.shared.wake();
        }
    }

    fn input_wanted(&mut self) {
        self.shared.wake();
    }
}
