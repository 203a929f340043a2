//! The host's side of a vsock device: Unix sockets.
//!
//! * [`socket`]: one connected socket, read and written without waiting.
//! * [`directory`]: reaches the sockets that a guest connects to.
//!
//! Used by the device's worker on the I/O thread. What the worker is given, a socket that listens
//! and a [`Connector`], the launcher has opened; the device itself opens nothing.

pub mod directory;
pub mod socket;

use std::io;
use std::os::fd::OwnedFd;

/// What kind of socket a connection is, on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SocketKind {
    /// A stream of bytes.
    Stream,
    /// A sequence of messages.
    Seqpacket,
}

/// Connects a guest to the host's services. Another process may stand behind it where a sandbox
/// allows this one no `connect`.
pub trait Connector: Send {
    /// A connected, non-blocking socket to what serves `port`. Must not wait.
    ///
    /// # Errors
    /// What the host answered: nobody listens, too many wait already, a socket of another kind.
    fn connect(&mut self, port: u32, kind: SocketKind) -> io::Result<OwnedFd>;
}

/// What a vsock device works with on the host.
pub struct VsockBackend {
    /// A Unix stream socket that listens, non-blocking. Who connects to it says
    /// `CONNECT <port>` and a line end, and is answered `OK <port>` once the guest has accepted.
    pub listener: OwnedFd,
    /// For connections that the guest begins.
    pub connector: Box<dyn Connector>,
}
