//! All connections of one device and their host side: what is accepted, polled and timed.
//!
//! Used by the worker on the I/O thread; between two workers, while the machine is paused, the
//! device keeps it, and the host's sockets wait. What guest and host exchange is in [`from_guest`]
//! and [`to_guest`]; here is what the host alone does.
//!
//! The poll set is edge-triggered: a connection remembers that its socket may have more, and
//! nothing is asked of the kernel when the guest has no room. The I/O thread watches the poll set
//! itself as one source.
//!
//! [`from_guest`]: super::from_guest
//! [`to_guest`]: super::to_guest

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{self, SocketFlags};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

use super::connection::{Connection, Stage};
use super::flow::{Flow, Phase};
use super::greeting::{self, Greeting, LINE_MAX};
use super::packet::{HOST_CID, Header, OP_RST, SHUTDOWN_RECEIVE, TYPE_SEQPACKET, TYPE_STREAM};
use super::stats::{VsockStats, add};
use super::table::{ConnectionId, Ports, Table};
use super::to_guest::Staged;
use crate::limited_warn;
use crate::random;
use crate::vsock::socket::HostSocket;
use crate::vsock::{SocketKind, VsockBackend};

/// What the poll set says for the socket that listens.
const LISTENER: u64 = u64::MAX;
/// What it says for the timer.
const TIMER: u64 = u64::MAX - 1;
/// Most events taken at a time; the rest stays and wakes the I/O thread again.
const EVENTS: usize = 64;
/// Most connections accepted at a time.
const ACCEPTS: usize = 64;
/// Most host peers that have not said yet where they want to go; the oldest goes for a new one.
const GREETERS_MAX: usize = 128;
/// Most resets waiting to be told to the guest for connections that are not there.
const RESETS_MAX: usize = 1024;

/// The connections of one device.
pub(super) struct Hub {
    pub(super) backend: VsockBackend,
    pub(super) guest_cid: u64,
    /// How long somebody may take: the host for its first line, the guest for an answer.
    patience: Duration,
    pub(super) stats: Arc<VsockStats>,
    /// Whether device and driver agreed on sequences of messages.
    pub(super) seqpacket: bool,
    epoll: Epoll,
    timer: TimerFd,
    timer_set: bool,
    pub(super) table: Table,
    /// Those in [`Stage::Greeting`], the oldest first.
    greeters: VecDeque<ConnectionId>,
    /// Those that have something for the guest, in the order of their turns.
    pub(super) turns: VecDeque<ConnectionId>,
    /// Those that may tell of room when the guest rests.
    pub(super) resting: Vec<ConnectionId>,
    /// Resets for what is no connection, or no longer.
    pub(super) resets: VecDeque<Header>,
    /// A message on its way to the guest.
    pub(super) staged: Option<Staged>,
    /// Peers may be waiting to be accepted.
    listener_ready: bool,
    /// The host is out of descriptors: not before one was given back, or some time has gone by.
    accepting_is_held: bool,
}

impl Hub {
    /// No connections yet.
    ///
    /// # Errors
    /// When the host is out of descriptors.
    pub(super) fn new(
        backend: VsockBackend,
        guest_cid: u64,
        patience: Duration,
        stats: Arc<VsockStats>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let timer = TimerFd::new()?;
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        for (fd, token) in [
            (backend.listener.as_raw_fd(), LISTENER),
            (timer.as_raw_fd(), TIMER),
        ] {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, token))?;
        }
        let mut seed = [0; 4];
        random::fill(&mut seed)?;
        Ok(Self {
            backend,
            guest_cid,
            patience,
            stats,
            seqpacket: false,
            epoll,
            timer,
            timer_set: false,
            table: Table::new(u32::from_le_bytes(seed)),
            greeters: VecDeque::new(),
            turns: VecDeque::new(),
            resting: Vec::new(),
            resets: VecDeque::new(),
            staged: None,
            listener_ready: true,
            accepting_is_held: false,
        })
    }

    /// The poll set, readable when there is something for [`Self::poll`].
    pub(super) fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Ends every connection without a word to the guest. Peers not accepted yet go on waiting.
    pub(super) fn close_all(&mut self) {
        self.table.clear();
        self.greeters = VecDeque::new();
        self.turns = VecDeque::new();
        self.resting = Vec::new();
        self.resets = VecDeque::new();
        self.staged = None;
        self.accepting_is_held = false;
        self.count();
    }

    /// Takes what the poll set says, a bounded part of it.
    pub(super) fn poll(&mut self) {
        let mut events = [EpollEvent::default(); EVENTS];
        // It fails for an interrupted wait, and there is none.
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in events.iter().take(count) {
            match event.data() {
                LISTENER => self.listener_ready = true,
                TIMER => self.expire(Instant::now()),
                id => self.event(ConnectionId(id), event.event_set()),
            }
        }
    }

    /// Something happened at a connection's socket.
    fn event(&mut self, id: ConnectionId, events: EventSet) {
        let Some(connection) = self.table.get_mut(id) else {
            return;
        };
        let over = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        connection.readable = true;
        connection.ending |= over || events.contains(EventSet::READ_HANG_UP);
        let full = connection.full;
        match &connection.stage {
            Stage::Greeting => return self.greet(id),
            Stage::Lingering { .. } if over => return drop(self.remove(id)),
            Stage::Open { flow, .. } if over => {
                if flow.phase() == Phase::Requested {
                    return self.reset(id);
                }
                self.host_takes_no_more(id);
            }
            Stage::Open { .. } | Stage::Lingering { .. } => {}
        }
        if full && events.intersects(EventSet::OUT) {
            self.flush(id);
        }
        self.wake(id);
    }

    /// Whether [`Self::accept`] may find somebody.
    pub(super) fn may_accept(&self) -> bool {
        self.listener_ready && !self.accepting_is_held && !self.table.is_full()
    }

    /// Accepts those who wait, a bounded number.
    pub(super) fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            if !self.may_accept() {
                return;
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match net::accept_with(&self.backend.listener, flags) {
                Ok(socket) => {
                    if self.greeters.len() >= GREETERS_MAX
                        && let Some(oldest) = self.greeters.pop_front()
                    {
                        self.remove(oldest);
                    }
                    let socket = HostSocket::new(socket, SocketKind::Stream);
                    if let Some(id) = self.insert(Connection::new(socket, Stage::Greeting)) {
                        self.greeters.push_back(id);
                        self.set_deadline(id);
                        self.greet(id);
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => self.listener_ready = false,
                Err(errno) => {
                    limited_warn!("vsock: a connection cannot be accepted: {errno}");
                    self.accepting_is_held = true;
                    self.set_timer();
                }
            }
        }
    }

    /// Looks for the first line of a host peer.
    fn greet(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else {
            return;
        };
        let Some(socket) = &connection.socket else {
            return;
        };
        let mut bytes = [0; LINE_MAX];
        let count = match socket.peek(&mut bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.readable = false;
                return;
            }
            Err(_) => 0,
        };
        let seen = bytes.get(..count).unwrap_or_default();
        match greeting::read(seen) {
            Greeting::Incomplete if count > 0 && !connection.ending => {}
            Greeting::Port { port, length } => {
                let line = bytes.get_mut(..length).unwrap_or_default();
                // Just seen there, so it is there.
                drop(socket.receive_bytes(line));
                self.request(id, port);
            }
            Greeting::Incomplete | Greeting::Wrong => {
                add(&self.stats.refused, 1);
                drop(self.remove(id));
            }
        }
    }

    /// Asks the guest for a connection to its `port`.
    fn request(&mut self, id: ConnectionId, port: u32) {
        self.greeters.retain(|&greeter| greeter != id);
        let kind = SocketKind::Stream;
        let buffer = self.table.take_buffer(kind);
        let ports = Ports {
            host: self.table.free_port(port),
            guest: port,
        };
        self.table.bind(id, ports);
        if let Some(connection) = self.table.get_mut(id) {
            let flow = Flow::requested(buffer, false);
            connection.stage = Stage::Open {
                ports,
                flow,
                buffer,
            };
        }
        self.set_deadline(id);
        self.wake(id);
    }

    /// Puts a connection into the table and its socket into the poll set.
    pub(super) fn insert(&mut self, connection: Connection) -> Option<ConnectionId> {
        let id = self.table.insert(connection);
        self.count();
        if let Err(error) = self.watch(id, ControlOperation::Add) {
            limited_warn!("vsock: a connection cannot be waited for: {error}");
            drop(self.remove(id));
            return None;
        }
        Some(id)
    }

    /// Says what a connection's socket is watched for.
    fn watch(&mut self, id: ConnectionId, operation: ControlOperation) -> io::Result<()> {
        let Some(connection) = self.table.get_mut(id) else {
            return Ok(());
        };
        let Some(socket) = &connection.socket else {
            return Ok(());
        };
        let mut events = EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        // Only when it is needed: a reader makes room all the time.
        events.set(EventSet::OUT, connection.full);
        let event = EpollEvent::new(events, id.0);
        self.epoll.ctl(operation, socket.as_raw_fd(), event)
    }

    /// Sends what waits for the host.
    pub(super) fn flush(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else {
            return;
        };
        let was_full = connection.full;
        match connection.flush() {
            Ok(()) => {
                connection.pass_end_on();
                let lingering = matches!(connection.stage, Stage::Lingering { .. });
                if connection.backlog.is_empty() && lingering {
                    return drop(self.remove(id));
                }
                if connection.full != was_full {
                    self.rewatch(id);
                }
                self.wake(id);
            }
            Err(error) => self.send_failed(id, &error),
        }
    }

    /// Watches a connection anew, since it has become full or is no longer.
    pub(super) fn rewatch(&mut self, id: ConnectionId) {
        if let Err(error) = self.watch(id, ControlOperation::Modify) {
            limited_warn!("vsock: a connection cannot be waited for: {error}");
            self.reset(id);
        }
    }

    /// The host's socket takes no data.
    pub(super) fn send_failed(&mut self, id: ConnectionId, error: &io::Error) {
        let Some(connection) = self.table.get_mut(id) else {
            return;
        };
        let closed = error.kind() == io::ErrorKind::BrokenPipe;
        match connection.stage {
            Stage::Open { .. } if closed => {
                // It may have closed altogether, or its receiving alone: reading tells.
                connection.readable = true;
                self.host_takes_no_more(id);
                self.wake(id);
            }
            _ => self.reset(id),
        }
    }

    /// The host has ended its receiving.
    fn host_takes_no_more(&mut self, id: ConnectionId) {
        if let Some(connection) = self.table.get_mut(id) {
            connection.discard();
        }
        self.host_ends(id, SHUTDOWN_RECEIVE);
    }

    /// The host has ended `directions`, as it sees them.
    pub(super) fn host_ends(&mut self, id: ConnectionId, directions: u32) {
        let Some(connection) = self.table.get_mut(id) else {
            return;
        };
        let Some(flow) = connection.flow() else {
            return;
        };
        flow.host_ends(directions);
        if flow.phase() == Phase::Closing {
            // Nothing goes either way; only the guest's word is waited for.
            connection.socket = None;
            connection.readable = false;
            connection.discard();
            self.set_deadline(id);
        }
    }

    /// Ends a connection at once, and tells the guest if it knows of it.
    pub(super) fn reset(&mut self, id: ConnectionId) {
        let Some(connection) = self.remove(id) else {
            return;
        };
        if let Some(ports) = connection.ports() {
            self.tell_reset(ports, connection.kind());
        }
    }

    /// Tells the guest that there is no connection, or no longer.
    pub(super) fn tell_reset(&mut self, ports: Ports, kind: SocketKind) {
        self.push_reset(Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: ports.host,
            dst_port: ports.guest,
            kind: wire_kind(kind),
            op: OP_RST,
            ..Header::default()
        });
    }

    pub(super) fn push_reset(&mut self, reset: Header) {
        if self.resets.len() >= RESETS_MAX {
            add(&self.stats.dropped, 1);
        } else {
            self.resets.push_back(reset);
        }
    }

    /// Takes a connection out of everything.
    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.table.remove(id)?;
        if matches!(connection.stage, Stage::Greeting) {
            self.greeters.retain(|&greeter| greeter != id);
        }
        self.accepting_is_held = false;
        self.count();
        Some(connection)
    }

    /// Gives a connection its turn, if it has something for the guest.
    pub(super) fn wake(&mut self, id: ConnectionId) {
        if let Some(connection) = self.table.get_mut(id)
            && !connection.queued
            && connection.has_news()
        {
            connection.queued = true;
            self.turns.push_back(id);
        }
    }

    fn count(&self) {
        let count = u64::try_from(self.table.len()).unwrap_or(u64::MAX);
        self.stats.connections.store(count, Ordering::Relaxed);
    }

    /// Begins to wait for somebody's next step.
    fn set_deadline(&mut self, id: ConnectionId) {
        if let Some(connection) = self.table.get_mut(id) {
            connection.deadline = Instant::now().checked_add(self.patience);
            self.set_timer();
        }
    }

    fn set_timer(&mut self) {
        if !self.timer_set {
            // A look four times in that time is often enough. Not zero, which would stop it.
            let soon = (self.patience / 4).max(Duration::from_millis(1));
            self.timer_set = self.timer.reset(soon, None).is_ok();
        }
    }

    /// Ends those who took too long.
    fn expire(&mut self, now: Instant) {
        self.timer_set = false;
        self.accepting_is_held = false;
        let mut waiting = false;
        let mut late = Vec::new();
        for (id, connection) in self.table.iter() {
            match connection.deadline {
                Some(deadline) if deadline <= now => late.push((id, connection.is_made())),
                Some(_) => waiting = true,
                None => {}
            }
        }
        for (id, is_made) in late {
            add(&self.stats.refused, u64::from(!is_made));
            self.reset(id);
        }
        if waiting {
            self.set_timer();
        }
    }
}

/// A kind as packets have it.
pub(super) fn wire_kind(kind: SocketKind) -> u16 {
    match kind {
        SocketKind::Stream => TYPE_STREAM,
        SocketKind::Seqpacket => TYPE_SEQPACKET,
    }
}
