//! One connection: its host socket, what waits for that, and how far it is.

use std::io;
use std::time::Instant;

use super::backlog::Backlog;
use super::flow::{Flow, Phase};
use super::packet::{Header, SHUTDOWN_SEND};
use super::table::Ports;
use crate::vsock::SocketKind;
use crate::vsock::socket::HostSocket;

/// Bytes asked of a socket at first; doubled while they come, so that a small message does not cost
/// the guest's ring a walk through many buffers.
pub(super) const APPETITE_MIN: u32 = 4 << 10;
/// Most bytes asked of a socket at once. A host peer has little more under way.
pub(super) const APPETITE_MAX: u32 = 256 << 10;

/// How far a connection is.
#[derive(Debug)]
pub(super) enum Stage {
    /// A host peer that has not said yet where it wants to go.
    Greeting,
    /// Known to the guest, or about to be.
    Open {
        ports: Ports,
        flow: Flow,
        /// Bytes of the guest's that may wait here.
        buffer: u32,
    },
    /// Over for the guest; what it sent last is still on its way to the host.
    Lingering {
        /// As above.
        buffer: u32,
    },
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    kind: SocketKind,
    pub(super) stage: Stage,
    /// `None` once the host has gone and the guest has yet to confirm.
    pub(super) socket: Option<HostSocket>,
    pub(super) backlog: Backlog,
    /// There may be something to read.
    pub(super) readable: bool,
    /// The end of the host's data is in the socket, behind what else there is.
    pub(super) ending: bool,
    /// The socket is full: the poll set waits for room.
    pub(super) full: bool,
    /// The guest has no credit for what is to be read: not before it says something.
    pub(super) short: bool,
    /// In the list of those that have something for the guest.
    pub(super) queued: bool,
    /// In the list of those that tell of room when the guest rests.
    pub(super) resting: bool,
    /// When patience ends with whom it waits for: the host's first line, or the guest's answer.
    pub(super) deadline: Option<Instant>,
    /// Bytes to ask the socket for.
    pub(super) appetite: u32,
}

impl Connection {
    pub(super) fn new(socket: HostSocket, stage: Stage) -> Self {
        Self {
            kind: socket.kind(),
            stage,
            socket: Some(socket),
            backlog: Backlog::default(),
            // Looked at without waiting for an event.
            readable: true,
            ending: false,
            full: false,
            short: false,
            queued: false,
            resting: false,
            deadline: None,
            appetite: APPETITE_MIN,
        }
    }

    pub(super) fn kind(&self) -> SocketKind {
        self.kind
    }

    /// Whether both sides agreed on it.
    pub(super) fn is_made(&self) -> bool {
        match &self.stage {
            Stage::Greeting => false,
            Stage::Open { flow, .. } => flow.phase() != Phase::Requested,
            Stage::Lingering { .. } => true,
        }
    }

    /// Its ports, while the guest knows it.
    pub(super) fn ports(&self) -> Option<Ports> {
        match &self.stage {
            Stage::Open { ports, .. } => Some(*ports),
            Stage::Greeting | Stage::Lingering { .. } => None,
        }
    }

    /// What it has of the memory for the guest's data.
    pub(super) fn buffer(&self) -> Option<u32> {
        match self.stage {
            Stage::Greeting => None,
            Stage::Open { buffer, .. } | Stage::Lingering { buffer } => Some(buffer),
        }
    }

    /// Its protocol, while the guest knows it.
    pub(super) fn flow(&mut self) -> Option<&mut Flow> {
        match &mut self.stage {
            Stage::Open { flow, .. } => Some(flow),
            Stage::Greeting | Stage::Lingering { .. } => None,
        }
    }

    /// Whether there is, or may be, something for the guest.
    pub(super) fn has_news(&self) -> bool {
        match &self.stage {
            Stage::Open { flow, .. } => {
                flow.has_notice() || (self.readable && !self.short && flow.may_send())
            }
            Stage::Greeting | Stage::Lingering { .. } => false,
        }
    }

    /// Sends what waits, as far as the socket takes it.
    ///
    /// # Errors
    /// The socket's, `WouldBlock` apart.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        let mut gone = 0;
        let result = loop {
            let sent = match self.kind {
                SocketKind::Stream if self.backlog.is_empty() => break Ok(()),
                SocketKind::Stream => socket.send_bytes(self.backlog.stream()).map(|sent| {
                    self.backlog.consume(sent);
                    u32::try_from(sent).unwrap_or(u32::MAX)
                }),
                SocketKind::Seqpacket => match self.backlog.message() {
                    None => break Ok(()),
                    Some(message) => socket
                        .send_bytes(message)
                        .map(|_| self.backlog.pop_message()),
                },
            };
            match sent {
                Ok(sent) => gone += sent,
                Err(error) => break Err(error),
            }
        };
        if let Some(flow) = self.flow() {
            flow.forwarded(gone);
        }
        self.full = matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        if self.full { Ok(()) } else { result }
    }

    /// Ends the host's receiving, if the guest has ended its sending and all of it has arrived.
    pub(super) fn pass_end_on(&mut self) {
        let ended = match &self.stage {
            Stage::Open { flow, .. } => flow.guest_ended() & SHUTDOWN_SEND != 0,
            Stage::Greeting | Stage::Lingering { .. } => false,
        };
        if ended
            && self.backlog.is_empty()
            && let Some(socket) = &self.socket
        {
            socket.end_sending();
        }
    }

    /// Throws away what waits for the host.
    pub(super) fn discard(&mut self) {
        self.backlog = Backlog::default();
        self.full = false;
        if let Some(flow) = self.flow() {
            let buffered = flow.buffered();
            flow.forwarded(buffered);
        }
    }

    /// A header for the guest with the connection's credit in it; `header` has the rest.
    pub(super) fn stamped(&mut self, mut header: Header) -> Header {
        if let Stage::Open { ports, flow, .. } = &mut self.stage {
            header.src_port = ports.host;
            header.dst_port = ports.guest;
            flow.stamp(&mut header);
        }
        header
    }
}
