//! Unix sockets under sessions: listening, accepting, and moving bytes and descriptors.
//!
//! Called on the main thread; nothing blocks but [`Listener::bind`], for a second at most, when a
//! dead socket is to be replaced and others of us are busy in its directory. The launcher makes the [`Listener`] before the
//! sandbox closes; after that only `accept`, `recvmsg` and `sendmsg` are used.

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::session::{MAX_FDS, Session};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// Bytes taken from the socket at a time: commands are a few hundred bytes.
const READ_SIZE: usize = 16 << 10;

/// How long to wait for others that make sockets in the same directory; each takes microseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Why a control socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The path is longer than a socket address can hold (107 bytes), or has a NUL in it.
    #[error("{path:?} cannot be a socket's path; use one of at most 107 bytes")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// Something is at the path that is no socket. It is left alone.
    #[error("{path:?} exists and is not a socket; remove it or choose another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Another process answers at the path, or begins to.
    #[error("{path:?} is in use by another process; choose another path")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The system refused a step.
    #[error("cannot {step} {path:?}")]
    System {
        /// What was tried.
        step: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The descriptor that was inherited is no listening Unix stream socket.
    #[error("the inherited descriptor is not a listening Unix stream socket")]
    NotListening,
    /// The inherited descriptor cannot be made non-blocking.
    #[error("cannot prepare the inherited control socket")]
    Inherit(#[source] io::Error),
}

/// A socket that clients connect to.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// Listens at `path`. The socket is the owner's alone (mode 0600) from the moment it can be
    /// seen: on Linux the mode given to the socket before `bind` is that of the file. A socket that
    /// nobody listens on any more is replaced; anything else at `path` is left alone.
    ///
    /// # Errors
    /// What is at `path`, or what the system said.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let address = SocketAddrUnix::new(path).map_err(|_| ListenError::Path {
            path: path.to_owned(),
        })?;
        let failed = |step| {
            move |errno: Errno| ListenError::System {
                step,
                path: path.to_owned(),
                source: errno.into(),
            }
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(failed("make a socket for"))?;
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)
            .map_err(failed("set the mode of the socket for"))?;
        // Between bind and listen the socket looks dead to others of us.
        let mut guard = lock_directory(path);
        match net::bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                guard = wait_for_lock(path, guard)?;
                remove_stale(path, &address)?;
                net::bind(&socket, &address).map_err(failed("bind a socket to"))?;
            }
            outcome => outcome.map_err(failed("bind a socket to"))?,
        }
        net::listen(&socket, BACKLOG).map_err(failed("listen on"))?;
        drop(guard);
        Ok(Self { socket })
    }

    /// Takes over a socket that the starting process listens on already.
    ///
    /// # Errors
    /// When it is not that, or cannot be made non-blocking.
    pub fn inherit(socket: OwnedFd) -> Result<Self, ListenError> {
        let unix = net::sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX);
        let stream = net::sockopt::socket_type(&socket) == Ok(SocketType::STREAM);
        let listening = net::sockopt::socket_acceptconn(&socket) == Ok(true);
        if !(unix && stream && listening) {
            return Err(ListenError::NotListening);
        }
        rustix::io::ioctl_fionbio(&socket, true)
            .and_then(|()| rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC))
            .map_err(|errno| ListenError::Inherit(errno.into()))?;
        Ok(Self { socket })
    }

    /// Accepts one connection. `None`: none is waiting.
    ///
    /// # Errors
    /// The system's, such as too many open files; the listener stays usable.
    pub fn accept(&self) -> io::Result<Option<Connection>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            return match net::accept_with(&self.socket, flags) {
                Ok(socket) => Ok(Some(Connection {
                    socket,
                    session: Session::default(),
                })),
                Err(Errno::AGAIN) => Ok(None),
                // The client went away before it was its turn.
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(errno) => Err(errno.into()),
            };
        }
    }
}

impl From<Listener> for OwnedFd {
    /// The socket, to be listened on by somebody else.
    fn from(listener: Listener) -> Self {
        listener.socket
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Keeps others of us from making or removing sockets in `path`'s directory. `None`: someone else
/// does, or the directory cannot be read.
fn lock_directory(path: &Path) -> Option<OwnedFd> {
    let directory = match path.parent() {
        Some(parent) if parent != OsStr::from_bytes(b"") => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty()).ok()?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(directory)
}

/// As [`lock_directory`], for as long as it takes others of us to make their sockets there; not for
/// ever, because anyone who can read a directory can lock it.
fn wait_for_lock(path: &Path, mut held: Option<OwnedFd>) -> Result<Option<OwnedFd>, ListenError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    while held.is_none() {
        if Instant::now() >= deadline {
            return Err(ListenError::InUse {
                path: path.to_owned(),
            });
        }
        std::thread::sleep(Duration::from_millis(1));
        held = lock_directory(path);
    }
    Ok(held)
}

/// Removes the socket at `path` if nobody listens on it.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
    let system = |step| {
        move |source| ListenError::System {
            step,
            path: path.to_owned(),
            source,
        }
    };
    let identity = || std::fs::symlink_metadata(path).map(|meta| (meta.file_type(), meta.ino()));
    let (kind, inode) = identity().map_err(system("look at"))?;
    if !kind.is_socket() {
        return Err(ListenError::NotASocket {
            path: path.to_owned(),
        });
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|errno| system("make a socket for")(errno.into()))?;
    // Anything but a refusal (connected, queue full, no permission) may be somebody alive.
    if net::connect(&probe, address) != Err(Errno::CONNREFUSED) {
        return Err(ListenError::InUse {
            path: path.to_owned(),
        });
    }
    let (kind, now) = identity().map_err(system("look at"))?;
    if !kind.is_socket() || now != inode {
        return Err(ListenError::InUse {
            path: path.to_owned(),
        });
    }
    std::fs::remove_file(path).map_err(system("remove the dead socket"))
}

/// One client: its socket and its session.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    session: Session,
}

impl Connection {
    /// A connection over `socket`, a connected Unix stream socket.
    ///
    /// # Errors
    /// When it cannot be made non-blocking.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            session: Session::default(),
        })
    }

    /// The session, for requests, replies and events.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Whether to wait for input. Even when false, a peer that has gone shows as `POLLHUP`: the
    /// connection is then to be dropped.
    pub fn wants_read(&self) -> bool {
        self.session.wants_read()
    }

    /// Whether to wait for room for output.
    pub fn wants_write(&self) -> bool {
        self.session.wants_write()
    }

    /// Whether the connection is over: drop it.
    pub fn done(&self) -> bool {
        self.session.closed() || self.session.finished()
    }

    /// Reads once, if the session wants it. To be followed by [`Session::next_request`] until
    /// there is none, and [`Connection::transmit`].
    ///
    /// # Errors
    /// When the connection is broken: drop it.
    pub fn receive(&mut self) -> io::Result<()> {
        if !self.session.wants_read() {
            return Ok(());
        }
        let mut buffer = [0; READ_SIZE];
        match receive(&self.socket, &mut buffer) {
            Ok((0, _)) => self.session.end_input(),
            Ok((length, fds)) => {
                self.session
                    .feed(buffer.get(..length).unwrap_or_default(), fds);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Writes until the socket takes no more.
    ///
    /// # Errors
    /// When the connection is broken: drop it.
    pub fn transmit(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match send(&self.socket, self.session.output(), &[]) {
                Ok(sent) => self.session.consume(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads once, with the descriptors that come along. 0 bytes: the peer has sent its last.
///
/// # Errors
/// The system's; `WouldBlock` when there is nothing.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    // The kernel closes descriptors that find no room here.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut parts = [IoSliceMut::new(buffer)];
        match net::recvmsg(&socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            outcome => break outcome?,
        }
    };
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    Ok((message.bytes, fds))
}

/// Writes once, with `fds` (at most [`MAX_FDS`]) on the first byte. Returns how much was taken.
///
/// # Errors
/// The system's; `WouldBlock` when there is no room; `InvalidInput` for too many descriptors.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let too_many = fds.len() > MAX_FDS;
    if too_many || (!fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds))) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        let parts = [IoSlice::new(bytes)];
        // A peer that has gone is an error here and no signal.
        match net::sendmsg(&socket, &parts, &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            outcome => return Ok(outcome?),
        }
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
