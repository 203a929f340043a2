//! Waiting for a backend's descriptor for some of what it can say, or for nothing at all.
//!
//! The I/O thread waits for the same descriptors all the time, and for reading only. What is to be
//! waited for changes here: an epoll instance in front of the descriptor is readable when that is
//! ready for what is wanted. Used on the I/O thread.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// One descriptor, and what of it is waited for.
#[derive(Debug)]
pub(super) struct Readiness {
    epoll: Epoll,
    wanted: EventSet,
}

impl Readiness {
    /// Waits for nothing yet.
    ///
    /// # Errors
    /// When the host is out of descriptors.
    pub(super) fn new() -> io::Result<Self> {
        let (epoll, wanted) = (Epoll::new()?, EventSet::empty());
        Ok(Self { epoll, wanted })
    }

    /// Readable when the descriptor is ready for what is wanted, or has an error.
    pub(super) fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Waits for `fd`, the same always, to be readable or writable or both. If for neither, not for
    /// its errors either.
    ///
    /// # Errors
    /// What the host answered; nothing is waited for then.
    pub(super) fn want(&mut self, fd: RawFd, reading: bool, writing: bool) -> io::Result<()> {
        let mut wanted = EventSet::empty();
        wanted.set(EventSet::IN, reading);
        wanted.set(EventSet::OUT, writing);
        if wanted == self.wanted {
            return Ok(());
        }
        let operation = if wanted.is_empty() {
            ControlOperation::Delete
        } else if self.wanted.is_empty() {
            ControlOperation::Add
        } else {
            ControlOperation::Modify
        };
        self.wanted = wanted;
        let result = self.epoll.ctl(operation, fd, EpollEvent::new(wanted, 0));
        if result.is_err() {
            self.wanted = EventSet::empty();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_not_wanted_is_not_heard() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let fd = ours.as_raw_fd();
        let mut readiness = Readiness::new().unwrap();
        let is_ready = |readiness: &Readiness| {
            let mut events = [EpollEvent::default()];
            readiness.epoll.wait(0, &mut events).unwrap() == 1
        };
        assert!(!is_ready(&readiness));
        readiness.want(fd, true, false).unwrap();
        assert!(!is_ready(&readiness));
        peer.write_all(b"x").unwrap();
        assert!(is_ready(&readiness));
        readiness.want(fd, false, false).unwrap();
        assert!(!is_ready(&readiness));
        readiness.want(fd, false, true).unwrap();
        assert!(is_ready(&readiness));
        readiness.want(fd, false, false).unwrap();
        // A peer that has gone is ready for everything, for ever.
        drop(peer);
        assert!(!is_ready(&readiness));
        readiness.want(fd, true, true).unwrap();
        assert!(is_ready(&readiness));
    }
}
