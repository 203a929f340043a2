//! Waiting for something to happen on a descriptor, with a limit.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A moment after which waiting is given up. Generous: it is met only by what hangs.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// `limit` from now.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    /// What is left of it, zero once it has passed.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Waits until one of `descriptors` can be read or has been closed from the other side. Says for
/// each whether that is so; for none if the deadline passed first.
///
/// # Errors
/// As `poll(2)`, save an interruption.
pub fn readable<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    deadline: Deadline,
) -> io::Result<[bool; N]> {
    let mut polled = descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        let left = deadline.left();
        let limit = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut polled, Some(&limit)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) if left.is_zero() => return Ok([false; N]),
            Ok(0) => {}
            Ok(_) => return Ok(polled.map(|fd| !fd.revents().is_empty())),
        }
    }
}

/// A descriptor that becomes readable when `child` ends.
///
/// # Errors
/// As `pidfd_open(2)`.
pub fn exit_of(child: &Child) -> io::Result<OwnedFd> {
    let number = i32::try_from(child.id()).map_err(io::Error::other)?;
    let pid = Pid::from_raw(number).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Reads what is there, once, onto the end of `buffer`. `false` at the end of the stream.
///
/// # Errors
/// As `read(2)`, save an interruption.
pub fn read_some(source: impl AsFd, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0_u8; 16 * 1024];
    loop {
        match rustix::io::read(&source, &mut chunk) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(length) => {
                buffer.extend(chunk.iter().take(length));
                return Ok(length > 0);
            }
        }
    }
}

/// A log for a failure's text: the whole of it, or why there is none.
#[must_use]
pub fn log_text(path: &Path) -> String {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|mut file| io::Read::read_to_end(&mut file, &mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("({}: {error})", path.display()),
    }
}
