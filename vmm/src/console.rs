//! The host side of COM1 in the main loop: its descriptors, its input, its escape keys.

use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use devices::chardev::terminal::RawTerminal;
use devices::chardev::{Chardev, ChardevInfo};
use devices::legacy::serial::Serial;

use crate::machine::lock;
use crate::poller::{Interest, Poller, Token};

/// How long the end of the process waits for the console's reader to take the last output.
const FAREWELL: Duration = Duration::from_secs(1);

/// A descriptor in the poller.
struct Watched {
    /// The device's name for it, never used twice.
    id: u64,
    fd: RawFd,
    interest: Interest,
}

/// The console's host side.
pub struct Console {
    chardev: Chardev,
    watched: Vec<Watched>,
    input: Vec<u8>,
    /// Keeps a terminal raw; restores it when dropped.
    _terminal: Option<RawTerminal>,
}

impl Console {
    /// A console on `chardev`; `terminal` is what keeps its terminal raw, if it is on one.
    #[must_use]
    pub fn new(chardev: Chardev, terminal: Option<RawTerminal>) -> Self {
        Self {
            chardev,
            watched: Vec::new(),
            input: Vec::new(),
            _terminal: terminal,
        }
    }

    /// What QMP's `query-chardev` says.
    #[must_use]
    pub fn info(&self) -> ChardevInfo {
        self.chardev.info()
    }

    /// How long the main loop may sleep before [`Self::process`] must be called again.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        Some(
            self.chardev
                .deadline()?
                .saturating_duration_since(Instant::now()),
        )
    }

    /// Moves input and output. Returns whether the user asked to quit.
    pub fn process(&mut self, serial: &Mutex<Serial>, poller: &Poller) -> bool {
        let room = lock(serial).input_room();
        self.input.clear();
        let activity = self.chardev.process(Instant::now(), room, &mut self.input);
        {
            let mut chip = lock(serial);
            if !self.input.is_empty() {
                // No more than it said it takes.
                chip.input(&self.input);
            }
            if activity.output_drained {
                chip.output_drained();
            }
        }
        self.watch(poller);
        activity.quit
    }

    /// Brings the poller up to date with what the device wants watched. What is not wanted any more
    /// goes first, because its number may have passed to what is wanted now.
    fn watch(&mut self, poller: &Poller) {
        let before = mem::take(&mut self.watched);
        let watches = self.chardev.watches();
        for old in &before {
            if !watches.iter().any(|watch| watch.id == old.id) {
                forget(poller, old.fd);
            }
        }
        for watch in watches {
            let interest = Interest {
                read: watch.read,
                write: watch.write,
            };
            let result = match before.iter().find(|old| old.id == watch.id) {
                Some(old) if old.interest == interest => Ok(()),
                Some(_) => poller.modify(watch.fd, Token::Console, interest),
                None => poller.add(watch.fd, Token::Console, interest),
            };
            match result {
                Ok(()) => {
                    let (id, fd) = (watch.id, watch.fd.as_raw_fd());
                    self.watched.push(Watched { id, fd, interest });
                }
                Err(error) => log::warn!("cannot watch the console: {error}"),
            }
        }
    }

    /// Gives the console's reader a bounded time to take the last output.
    pub fn finish(&mut self, serial: &Mutex<Serial>, poller: &Poller) {
        let deadline = Instant::now() + FAREWELL;
        loop {
            let quit = self.process(serial, poller);
            let left = deadline.saturating_duration_since(Instant::now());
            let waiting = self.watched.iter().any(|watched| watched.interest.write);
            if quit || !waiting || left.is_zero() || poller.wait(Some(left)).is_err() {
                return;
            }
        }
    }
}

/// Stops watching a number whose file the device may have closed already, which did that too.
#[expect(
    unsafe_code,
    reason = "the device has closed the descriptor, or is about to"
)]
fn forget(poller: &Poller, fd: RawFd) {
    // SAFETY: the number is used for this one call only, which fails harmlessly if it is closed.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    drop(poller.remove(fd));
}
