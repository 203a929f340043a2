//! The connections of one device: found by their ports (packets) and by an id (events of their
//! sockets), and bounded in number and in the memory promised to the guest.

use std::collections::HashMap;

use super::connection::Connection;
use crate::vsock::SocketKind;

/// Most connections, those being made and those being closed included.
pub(super) const CONNECTIONS_MAX: usize = 4096;

/// Most bytes that one connection keeps of what the guest sent and the host did not take: its
/// `buf_alloc`.
const BUFFER_MAX: u32 = 256 << 10;
/// The least.
const BUFFER_MIN: u32 = 8 << 10;
/// What all connections together are given beyond the least: with that 64 MiB in all.
const BUFFERS_EXTRA: u32 = 32 << 20;
/// One connection gets at most this part of what is left, so that thousands get something.
const SHARE: u32 = 16;
/// What a byte of credit may cost where messages are kept apart; see `backlog`.
const MESSAGE_COST: u32 = 5;

/// The host's ports begin here, out of the way of those that services have.
const FIRST_PORT: u32 = 1 << 30;
/// How many there are.
const PORTS: u32 = 1 << 30;

/// The ports of a connection. The addresses are always the same two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// Names a connection for as long as there is one, and never another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConnectionId(pub(super) u64);

/// The connections.
#[derive(Debug)]
pub(super) struct Table {
    connections: HashMap<ConnectionId, Box<Connection>>,
    by_ports: HashMap<Ports, ConnectionId>,
    next_id: u64,
    next_port: u32,
    /// What is left of [`BUFFERS_EXTRA`].
    extra: u32,
}

impl Table {
    /// No connections. Ports of the host's are given out from `first_port` on, which is to be a
    /// random number: a guest that was saved may remember what it had.
    pub(super) fn new(first_port: u32) -> Self {
        Self {
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            next_id: 0,
            next_port: first_port % PORTS,
            extra: BUFFERS_EXTRA,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.connections.len() >= CONNECTIONS_MAX
    }

    pub(super) fn insert(&mut self, connection: Connection) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        self.connections.insert(id, Box::new(connection));
        id
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(&id).map(|boxed| &mut **boxed)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.connections.iter().map(|(id, boxed)| (*id, &**boxed))
    }

    pub(super) fn find(&self, ports: Ports) -> Option<ConnectionId> {
        self.by_ports.get(&ports).copied()
    }

    /// Makes a connection reachable by `ports`, which are free.
    pub(super) fn bind(&mut self, id: ConnectionId, ports: Ports) {
        self.by_ports.insert(ports, id);
    }

    /// From now on packets for these ports find nothing.
    pub(super) fn unbind(&mut self, ports: Ports) {
        self.by_ports.remove(&ports);
    }

    /// A port of the host's that is free for a connection to the guest's port `guest`.
    pub(super) fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = FIRST_PORT + self.next_port;
            self.next_port = (self.next_port + 1) % PORTS;
            if !self.by_ports.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    /// How many bytes a new connection may keep. To be given back by [`Self::give_back`].
    pub(super) fn take_buffer(&mut self, kind: SocketKind) -> u32 {
        let cost = cost(kind);
        let share = self.extra / SHARE / cost;
        // Whole pages: odd numbers help nobody.
        let more = share.min(BUFFER_MAX - BUFFER_MIN) / 4096 * 4096;
        self.extra -= more * cost;
        BUFFER_MIN + more
    }

    pub(super) fn give_back(&mut self, buffer: u32, kind: SocketKind) {
        self.extra += buffer.saturating_sub(BUFFER_MIN) * cost(kind);
    }

    /// Takes every connection out.
    pub(super) fn clear(&mut self) {
        self.connections = HashMap::new();
        self.by_ports = HashMap::new();
        self.extra = BUFFERS_EXTRA;
    }

    /// Takes a connection out. Its buffer is given back and its ports are free.
    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = *self.connections.remove(&id)?;
        if let Some(ports) = connection.ports()
            && self.by_ports.get(&ports) == Some(&id)
        {
            self.by_ports.remove(&ports);
        }
        if let Some(buffer) = connection.buffer() {
            self.give_back(buffer, connection.kind());
        }
        Some(connection)
    }
}

fn cost(kind: SocketKind) -> u32 {
    match kind {
        SocketKind::Stream => 1,
        SocketKind::Seqpacket => MESSAGE_COST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_shrink_as_connections_grow_and_come_back() {
        for kind in [SocketKind::Stream, SocketKind::Seqpacket] {
            let mut table = Table::new(0);
            let first = table.take_buffer(kind);
            assert_eq!(first, BUFFER_MAX);
            let mut all = vec![first];
            while all.len() < CONNECTIONS_MAX {
                let next = table.take_buffer(kind);
                assert!(next <= all[all.len() - 1] && next >= BUFFER_MIN);
                all.push(next);
            }
            let sum: u64 = all.iter().map(|&n| u64::from(n)).sum();
            assert!(sum <= 64 << 20, "{sum}");
            let sixty_fourth = all[64];
            assert!(kind != SocketKind::Stream || sixty_fourth == BUFFER_MAX);
            for buffer in all {
                table.give_back(buffer, kind);
            }
            assert_eq!(table.extra, BUFFERS_EXTRA);
        }
    }

    #[test]
    fn ports_go_round_and_avoid_those_in_use() {
        let mut table = Table::new(u32::MAX);
        let last = FIRST_PORT + PORTS - 1;
        let taken = Ports {
            host: FIRST_PORT,
            guest: 7,
        };
        table.bind(ConnectionId(0), taken);
        assert_eq!(table.free_port(7), last);
        assert_eq!(table.free_port(7), FIRST_PORT + 1);
        table.next_port = 0;
        assert_eq!(table.free_port(8), FIRST_PORT);
        assert_eq!(table.find(taken), Some(ConnectionId(0)));
        table.unbind(taken);
        assert_eq!(table.find(taken), None);
    }
}
