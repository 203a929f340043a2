//! Host character devices: where the bytes of a serial port come from and go to.
//!
//! A [`Chardev`] belongs to the main thread's event loop; its [`Output`] belongs to the chip and is
//! called on vCPU threads. The running object holds descriptors only: whatever needs a path is done
//! by [`open`] in the launcher, before the sandbox.
//!
//! The event loop's part, once at the start and then whenever a watched descriptor is ready or the
//! deadline has passed (spurious calls are harmless; the chip is never locked across `process`):
//!
//! ```text
//! let room = chip.lock().input_room();
//! let activity = chardev.process(Instant::now(), room, &mut input);
//! chip.lock(): input(&input); if activity.output_drained { output_drained() }
//! if activity.quit { ... }
//! watch chardev.watches(), level-triggered, until chardev.deadline()
//! ```

pub mod escape;
pub mod host_fd;
pub mod open;
mod output;
pub mod ring;
mod service;
pub mod terminal;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};

use self::escape::EscapeFilter;
use self::host_fd::HostFd;
use self::output::{Outbound, Policy, Shared};
pub use self::output::{Output, REPLAY_LEN, STALL_LIMIT};

/// An opened host side: descriptors, and the names QMP shows for them.
#[derive(Debug)]
pub enum Backend {
    /// Output is discarded, input never comes.
    Null,
    /// Output goes to a file.
    File {
        /// The file.
        file: HostFd,
        /// Its path, for display.
        path: String,
    },
    /// The process's own stdin and stdout. If stdin is a terminal, Ctrl-A escapes.
    Stdio {
        /// Standard input.
        input: HostFd,
        /// Standard output.
        output: HostFd,
    },
    /// A pseudo-terminal.
    Pty {
        /// Our end.
        master: HostFd,
        /// How we learn that somebody opened the other.
        slave: PtySlave,
        /// Path of the slave, for display.
        path: String,
    },
    /// A listening unix socket, one client at a time; the next one waits.
    Socket {
        /// The listener, non-blocking.
        listener: OwnedFd,
        /// Its path, for display.
        path: String,
    },
}

/// How the users of a pty's slave are noticed.
#[derive(Debug)]
pub enum PtySlave {
    /// An inotify(7) descriptor, non-blocking, that watches the slave being opened: a master says
    /// that the last user is gone, but not that the first has come.
    Watched(OwnedFd),
    /// The slave, held open by us, so that there is always a user. For when the host's inotify
    /// instances are used up.
    HeldOpen(OwnedFd),
}

/// What QMP's `query-chardev` says of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChardevInfo {
    /// The device's name.
    pub label: String,
    /// What it is connected to, in QEMU's notation.
    pub filename: String,
    /// Whether the guest's side uses it.
    pub frontend_open: bool,
}

/// A descriptor to watch, level-triggered. With neither interest only hang-up and error count.
///
/// A client that goes is closed, which removes its descriptor from an epoll set, and the next one
/// may get the same number. So compare lists by `id`: first remove what is no longer listed (an
/// error then means that it is gone), then add what is new.
#[derive(Debug)]
pub struct Watch<'a> {
    /// Names the open file for as long as the device lives; never the same for two.
    pub id: u64,
    /// The descriptor; never the same twice in one list.
    pub fd: BorrowedFd<'a>,
    /// Wake when it can be read.
    pub read: bool,
    /// Wake when it can be written.
    pub write: bool,
}

// Ids of watches. Each client of a socket gets one of its own, from FIRST_CLIENT on.
const WAKE: u64 = 0;
const INPUT: u64 = 1;
const OUTPUT: u64 = 2;
const ARRIVALS: u64 = 3;
const MASTER: u64 = 4;
const FIRST_CLIENT: u64 = 5;

/// What came of a [`Chardev::process`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    /// The chip is to be told that there may be room for output.
    pub output_drained: bool,
    /// The user typed Ctrl-A x.
    pub quit: bool,
}

/// Somebody at the other end.
#[derive(Debug)]
struct Peer {
    /// Of its watch.
    id: u64,
    fd: Arc<HostFd>,
    /// A socket's client will send no more, but may still read.
    ended: bool,
}

#[derive(Debug)]
enum Port {
    /// Null and file: output only.
    Mute {
        filename: String,
        output: Option<Arc<HostFd>>,
    },
    Stdio {
        input: Option<HostFd>,
        output: Arc<HostFd>,
    },
    Pty {
        master: Arc<HostFd>,
        slave: PtySlave,
        path: String,
        peer: Option<Peer>,
    },
    Socket {
        listener: OwnedFd,
        path: String,
        peer: Option<Peer>,
    },
}

/// A character device as the event loop sees it.
#[derive(Debug)]
pub struct Chardev {
    label: String,
    port: Port,
    shared: Arc<Shared>,
    /// Only for a terminal.
    escape: Option<EscapeFilter>,
    /// Input read but not delivered.
    held: VecDeque<u8>,
    /// At the last call the chip had room for more than it got.
    input_wanted: bool,
    /// Id of the next client's watch.
    next_client: u64,
}

impl Chardev {
    /// A device named `label` on `backend`.
    ///
    /// # Errors
    /// What eventfd(2) answered.
    pub fn new(label: &str, backend: Backend) -> io::Result<Self> {
        let mut escape = None;
        let (port, outbound) = match backend {
            Backend::Null => {
                let port = Port::Mute {
                    filename: "null".to_owned(),
                    output: None,
                };
                (port, Outbound::new(label, None, Policy::Wait))
            }
            Backend::File { file, path } => {
                let file = Arc::new(file);
                let outbound = Outbound::new(label, Some(Arc::clone(&file)), Policy::Lose);
                (
                    Port::Mute {
                        filename: format!("file:{path}"),
                        output: Some(file),
                    },
                    outbound,
                )
            }
            Backend::Stdio { input, output } => {
                escape = input.is_terminal().then(EscapeFilter::new);
                let output = Arc::new(output);
                let outbound = Outbound::new(label, Some(Arc::clone(&output)), Policy::Wait);
                (
                    Port::Stdio {
                        input: Some(input),
                        output,
                    },
                    outbound,
                )
            }
            Backend::Pty {
                master,
                slave,
                path,
            } => {
                let port = Port::Pty {
                    master: Arc::new(master),
                    slave,
                    path,
                    peer: None,
                };
                (port, Outbound::new(label, None, Policy::Clients))
            }
            Backend::Socket { listener, path } => {
                let port = Port::Socket {
                    listener,
                    path,
                    peer: None,
                };
                (port, Outbound::new(label, None, Policy::Clients))
            }
        };
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self {
            label: label.to_owned(),
            port,
            shared: Arc::new(Shared::new(outbound, wake)),
            escape,
            held: VecDeque::new(),
            input_wanted: false,
            next_client: FIRST_CLIENT,
        })
    }

    /// The half for the chip.
    #[must_use]
    pub fn output(&self) -> Output {
        Output::new(Arc::clone(&self.shared))
    }

    /// What QMP shows.
    #[must_use]
    pub fn info(&self) -> ChardevInfo {
        let filename = match &self.port {
            Port::Mute { filename, .. } => filename.clone(),
            Port::Stdio { .. } => "stdio".to_owned(),
            Port::Pty { path, .. } => format!("pty:{path}"),
            Port::Socket {
                path,
                peer: Some(_),
                ..
            } => format!("unix:{path},server=on"),
            Port::Socket {
                path, peer: None, ..
            } => {
                format!("disconnected:unix:{path},server=on")
            }
        };
        // A serial port has no way to close its side.
        ChardevInfo {
            label: self.label.clone(),
            filename,
            frontend_open: true,
        }
    }

    /// Bytes of output lost since the start: to a client that did not read, or to a failing file.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.outbound().dropped()
    }

    /// When [`process`](Self::process) must be called even if no descriptor is ready.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.shared.outbound().deadline()
    }

    /// What to watch until the next call of [`process`](Self::process), which may change it.
    #[must_use]
    pub fn watches(&self) -> Vec<Watch<'_>> {
        let waiting = self.shared.outbound().is_waiting();
        let mut watches = Vec::new();
        let mut watch = |id, fd, read, write| {
            watches.push(Watch {
                id,
                fd,
                read,
                write,
            });
        };
        watch(WAKE, self.shared.wake_fd(), true, false);
        match &self.port {
            Port::Mute { output, .. } => {
                if let Some(output) = output.as_ref().filter(|_| waiting) {
                    watch(OUTPUT, output.as_fd(), false, true);
                }
            }
            Port::Stdio { input, output } => {
                if waiting {
                    watch(OUTPUT, output.as_fd(), false, true);
                }
                // Not watched at all while unwanted: its hang-up alone would wake us for ever.
                if let Some(input) = input.as_ref().filter(|input| input.is_pollable())
                    && (self.input_wanted || self.escape.is_some())
                {
                    watch(INPUT, input.as_fd(), true, false);
                }
            }
            Port::Pty { slave, peer, .. } => {
                if let PtySlave::Watched(opens) = slave {
                    watch(ARRIVALS, opens.as_fd(), true, false);
                }
                if let Some(Peer { id, fd, .. }) = peer {
                    watch(*id, fd.as_fd(), self.input_wanted, waiting);
                }
            }
            Port::Socket {
                peer: Some(Peer { id, fd, ended }),
                ..
            } => {
                watch(*id, fd.as_fd(), self.input_wanted && !ended, waiting);
            }
            Port::Socket {
                listener,
                peer: None,
                ..
            } => {
                watch(ARRIVALS, listener.as_fd(), true, false);
            }
        }
        watches
    }
}

#[cfg(test)]
mod tests;
