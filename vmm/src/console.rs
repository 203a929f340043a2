//! The host side of COM1 in the main loop: its descriptors, its input, its escape keys.

use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use devices::chardev::terminal::RawTerminal;
use devices::chardev::{Chardev, ChardevInfo};
use devices::legacy::serial::Serial;
use devices::limited_warn;

use crate::machine::lock;
use crate::poller::{Interest, Poller, Token, wait_writable};

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
                poller.forget(old.fd);
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
                Err(error) => limited_warn!("cannot watch the console: {error}"),
            }
        }
    }

    /// Gives the console's reader a bounded time to take the last output.
    pub fn finish(&mut self, serial: &Mutex<Serial>, poller: &Poller) {
        let deadline = Instant::now() + FAREWELL;
        loop {
            let quit = self.process(serial, poller);
            let watches = self.chardev.watches();
            let mut waiting = watches.iter().filter(|watch| watch.write).peekable();
            let left = deadline.saturating_duration_since(Instant::now());
            if quit || waiting.peek().is_none() || left.is_zero() {
                return;
            }
            if wait_writable(waiting.map(|watch| watch.fd), left).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use devices::bus::BusDevice;
    use devices::chardev::open::{Spec, open};
    use vmm_sys_util::eventfd::EventFd;

    /// COM1 on a socket, as the main loop has it.
    struct Rig {
        dir: tempfile::TempDir,
        serial: Mutex<Serial>,
        console: Console,
        poller: Poller,
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let backend = open(&Spec::Socket(dir.path().join("com1"))).unwrap();
            let chardev = Chardev::new("serial0", backend).unwrap();
            let irq = Arc::new(EventFd::new(0).unwrap());
            let mut rig = Self {
                dir,
                serial: Mutex::new(Serial::new(irq, Box::new(chardev.output()))),
                console: Console::new(chardev, None),
                poller: Poller::new().unwrap(),
            };
            rig.turn();
            rig
        }

        fn connect(&self) -> UnixStream {
            UnixStream::connect(self.dir.path().join("com1")).unwrap()
        }

        fn turn(&mut self) {
            assert!(!self.console.process(&self.serial, &self.poller));
        }

        /// Turns once something is ready, which it must be.
        fn ready_turn(&mut self) {
            let ready = self.poller.wait(Some(Duration::from_secs(30))).unwrap();
            assert!(ready.iter().any(|ready| ready.token == Token::Console));
            self.turn();
        }

        /// The next byte the guest can read; 0 without one.
        fn guest_reads(&mut self) -> u8 {
            let mut byte = [0];
            lock(&self.serial).read(0, &mut byte);
            byte[0]
        }
    }

    #[test]
    fn clients_come_and_go_and_each_is_watched() {
        let mut rig = Rig::new();
        for byte in *b"abc" {
            // The client gets the number of the one before.
            let mut client = rig.connect();
            rig.ready_turn();
            client.write_all(&[byte]).unwrap();
            rig.ready_turn();
            assert_eq!(rig.guest_reads(), byte);
            drop(client);
            rig.ready_turn();
        }
        assert_eq!(rig.poller.wait(Some(Duration::ZERO)).unwrap(), []);
    }

    #[test]
    fn the_last_output_is_waited_for() {
        let mut rig = Rig::new();
        let mut client = rig.connect();
        rig.ready_turn();
        // More than a socket holds: some of it waits in the device.
        let room = 400_000;
        for _ in 0..room {
            lock(&rig.serial).write(0, b"x");
        }
        rig.turn();
        let watched = rig.console.watched.iter();
        assert!(watched.filter(|watched| watched.interest.write).count() == 1);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            client.read_to_end(&mut all).unwrap();
            all.len()
        });
        rig.console.finish(&rig.serial, &rig.poller);
        assert!(
            !rig.console
                .watched
                .iter()
                .any(|watched| watched.interest.write)
        );
        drop(rig);
        assert!(reader.join().unwrap() > 64 << 10);
    }
}
