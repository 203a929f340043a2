//! Packets of the guest's: judged, and their data given to the host.
//!
//! Whatever a packet says, it concerns one connection of the guest that sent it. What breaks the
//! protocol resets that connection; what belongs to none is answered with a reset.

use std::io;

use super::connection::{Connection, Stage};
use super::flow::{Flow, Verdict};
use super::hub::Hub;
use super::packet::{
    HOST_CID, Header, OP_REQUEST, OP_RST, SEQ_END_OF_MESSAGE, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE,
    TYPE_SEQPACKET, TYPE_STREAM,
};
use super::stats::add;
use super::table::{ConnectionId, Ports};
use crate::disk::buffers::GuestBuffers;
use crate::io_thread::Fault;
use crate::limited_warn;
use crate::virtio::chain::Reader;
use crate::vsock::SocketKind;
use crate::vsock::socket::HostSocket;

impl Hub {
    /// Deals with a packet: `header`, and `data` of as many bytes as that says. `buffers` is room
    /// for a list.
    ///
    /// # Errors
    /// Never after a walk that succeeded.
    pub(super) fn packet(
        &mut self,
        header: &Header,
        data: Reader<'_>,
        buffers: &mut GuestBuffers,
    ) -> Result<(), Fault> {
        add(&self.stats.packets_from_guest, 1);
        if header.src_cid != self.guest_cid {
            add(&self.stats.dropped, 1);
            return Ok(());
        }
        let kind = match header.kind {
            TYPE_STREAM => Some(SocketKind::Stream),
            TYPE_SEQPACKET if self.seqpacket => Some(SocketKind::Seqpacket),
            _ => None,
        };
        let Some(kind) = kind.filter(|_| header.dst_cid == HOST_CID) else {
            self.refuse(header);
            return Ok(());
        };
        let ports = Ports {
            host: header.dst_port,
            guest: header.src_port,
        };
        let Some(id) = self.table.find(ports) else {
            if header.op == OP_REQUEST {
                self.open(ports, kind, header);
            } else {
                self.refuse(header);
            }
            return Ok(());
        };
        let Some(connection) = self.table.get_mut(id) else {
            return Ok(());
        };
        let same_kind = connection.kind() == kind;
        // It may give credit.
        connection.short = false;
        let verdict = match connection.flow() {
            Some(flow) if same_kind => flow.packet(header),
            _ => Verdict::Violation("a packet of another socket type"),
        };
        match verdict {
            Verdict::Noted | Verdict::Discard => self.wake(id),
            Verdict::Data => {
                let whole = header.flags & SEQ_END_OF_MESSAGE != 0;
                self.carry(id, data, whole, buffers)?;
            }
            Verdict::Accepted => self.accepted(id, ports.host),
            Verdict::Ended => self.guest_ends(id),
            Verdict::Gone => drop(self.remove(id)),
            Verdict::Violation(what) => {
                limited_warn!(
                    "vsock: the guest's port {}: {what}; the connection is reset",
                    ports.guest
                );
                add(&self.stats.violations, 1);
                self.reset(id);
            }
        }
        Ok(())
    }

    /// Answers a packet that belongs to no connection.
    fn refuse(&mut self, header: &Header) {
        if header.op == OP_REQUEST {
            add(&self.stats.refused, 1);
        }
        if header.op != OP_RST {
            self.push_reset(Header {
                src_cid: header.dst_cid,
                dst_cid: header.src_cid,
                src_port: header.dst_port,
                dst_port: header.src_port,
                kind: header.kind,
                op: OP_RST,
                ..Header::default()
            });
        }
    }

    /// The guest asks for a connection to the host.
    fn open(&mut self, ports: Ports, kind: SocketKind, request: &Header) {
        if self.table.is_full() {
            limited_warn!(
                "vsock: the guest's connection to port {} is refused: there are too many",
                ports.host
            );
            return self.refuse(request);
        }
        let socket = match self.backend.connector.connect(ports.host, kind) {
            Ok(socket) => HostSocket::new(socket, kind),
            Err(error) => {
                log::debug!("vsock: port {} of the host: {error}", ports.host);
                return self.refuse(request);
            }
        };
        let buffer = self.table.take_buffer(kind);
        if kind == SocketKind::Seqpacket {
            // A message goes in one piece, and the guest may send one as large as its room.
            socket.set_send_buffer(usize::try_from(buffer).unwrap_or(0));
        }
        let flow = Flow::accepted(buffer, kind == SocketKind::Seqpacket, request);
        let stage = Stage::Open {
            ports,
            flow,
            buffer,
        };
        let Some(id) = self.insert(Connection::new(socket, stage)) else {
            return self.refuse(request);
        };
        self.table.bind(id, ports);
        add(&self.stats.accepted_by_host, 1);
        self.wake(id);
    }

    /// The guest has accepted a host peer's connection.
    fn accepted(&mut self, id: ConnectionId, port: u32) {
        let Some(connection) = self.table.get_mut(id) else {
            return;
        };
        connection.deadline = None;
        connection.readable = true;
        let Some(socket) = &connection.socket else {
            return;
        };
        let line = format!("OK {port}\n");
        // Nothing was sent to it yet, so there is room for a line.
        match socket.send_bytes(line.as_bytes()) {
            Ok(sent) if sent == line.len() => {
                add(&self.stats.accepted_by_guest, 1);
                self.wake(id);
            }
            _ => self.reset(id),
        }
    }

    /// Gives data to the host, and keeps what it does not take.
    fn carry(
        &mut self,
        id: ConnectionId,
        mut data: Reader<'_>,
        whole: bool,
        buffers: &mut GuestBuffers,
    ) -> Result<(), Fault> {
        let Some(connection) = self.table.get_mut(id) else {
            return Ok(());
        };
        let len = data.remaining();
        add(&self.stats.bytes_from_guest, len.into());
        let message = connection.kind() == SocketKind::Seqpacket;
        if connection.backlog.is_empty() && len > 0 && (whole || !message) {
            match send_direct(connection, data, buffers)? {
                Ok(sent) => {
                    data.take(sent).map_err(|error| Fault::new(&error))?;
                    if let Some(flow) = connection.flow() {
                        flow.forwarded(sent);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.send_failed(id, &error);
                    return Ok(());
                }
            }
            if data.remaining() == 0 {
                self.rest_later(id);
                self.wake(id);
                return Ok(());
            }
        }
        if data.remaining() > 0 {
            connection.backlog.push(data)?;
        }
        if whole && message {
            connection.backlog.end_message();
        }
        if !connection.full {
            self.flush(id);
        }
        self.rest_later(id);
        Ok(())
    }

    /// A sender of messages is told of room when all the guest's packets are dealt with.
    fn rest_later(&mut self, id: ConnectionId) {
        if let Some(connection) = self.table.get_mut(id)
            && connection.kind() == SocketKind::Seqpacket
            && !connection.resting
        {
            connection.resting = true;
            self.resting.push(id);
        }
    }

    /// The guest's packets are dealt with for now.
    pub(super) fn rest(&mut self) {
        while let Some(id) = self.resting.pop() {
            let Some(connection) = self.table.get_mut(id) else {
                continue;
            };
            connection.resting = false;
            if connection.flow().is_some_and(|flow| flow.rest()) {
                self.wake(id);
            }
        }
    }

    /// The guest has ended one direction or both.
    fn guest_ends(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get_mut(id) else {
            return;
        };
        let Stage::Open {
            ports,
            flow,
            buffer,
        } = &connection.stage
        else {
            return;
        };
        let (ended, ports, buffer) = (flow.guest_ended(), *ports, *buffer);
        if ended & SHUTDOWN_RECEIVE != 0
            && let Some(socket) = &connection.socket
        {
            socket.end_receiving();
        }
        if ended != SHUTDOWN_BOTH {
            connection.pass_end_on();
            return self.wake(id);
        }
        if connection.backlog.is_empty() {
            // 5.10.6.6.1: the end of both directions is confirmed by a reset.
            return self.reset(id);
        }
        // What the guest sent before it closed still arrives.
        connection.stage = Stage::Lingering { buffer };
        let kind = connection.kind();
        self.table.unbind(ports);
        self.tell_reset(ports, kind);
    }
}

/// Writes data from guest memory to the host. The outer error never comes after a walk that
/// succeeded.
fn send_direct(
    connection: &Connection,
    data: Reader<'_>,
    buffers: &mut GuestBuffers,
) -> Result<io::Result<u32>, Fault> {
    buffers.clear();
    data.append_to(buffers)
        .map_err(|error| Fault::new(&error))?;
    let Some(socket) = &connection.socket else {
        return Ok(Ok(data.remaining()));
    };
    let sent = socket.send(buffers);
    Ok(sent.map(|sent| u32::try_from(sent).unwrap_or(u32::MAX)))
}
