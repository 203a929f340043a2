//! What the guest is to get: notices and resets, and the host's data, in fair turns.

use std::io;
use std::time::Instant;

use super::connection::Stage;
use super::connection::{APPETITE_MAX, APPETITE_MIN, Connection};
use super::flow::Flow;
use super::hub::{Hub, wire_kind};
use super::packet::{HOST_CID, Header, OP_CREDIT_UPDATE, OP_RW, SEQ_END_OF_MESSAGE, SHUTDOWN_SEND};
use super::rx::Rx;
use super::stats::add;
use super::table::ConnectionId;
use super::worker::TURN;
use crate::io_thread::{Fault, Recall};
use crate::limited_warn;
use crate::vsock::SocketKind;

/// Longest message of the host's that is carried. The guest's credit bounds it too.
const MESSAGE_MAX: usize = 256 << 10;

/// A message on its way to the guest, for which it has credit: only receive buffers are waited for.
/// There is one at a time, so that such messages take no more memory than one.
#[derive(Debug)]
pub(super) struct Staged {
    id: ConnectionId,
    bytes: Vec<u8>,
    sent: usize,
}

/// How far the guest got what it is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fed {
    /// There is nothing more, for now.
    All,
    /// The guest has to give buffers, and will notify.
    Starved,
    /// There is more, and it is others' turn.
    More,
}

/// What became of one connection's turn.
enum Turn {
    Over,
    Again,
    Starved,
}

impl Hub {
    /// Sends to the guest what there is, for a bounded time.
    ///
    /// # Errors
    /// A [`Fault`] of the receive queue's.
    pub(super) fn feed(
        &mut self,
        rx: &mut Rx,
        begun: Instant,
        recall: &Recall,
    ) -> Result<Fed, Fault> {
        loop {
            while let Some(&reset) = self.resets.front() {
                if rx.send(&[], |_| reset)?.is_none() {
                    return Ok(Fed::Starved);
                }
                add(&self.stats.packets_to_guest, 1);
                self.resets.pop_front();
            }
            if !self.feed_staged(rx)? {
                return Ok(Fed::Starved);
            }
            let Some(id) = self.turns.pop_front() else {
                return Ok(Fed::All);
            };
            match self.turn(id, rx)? {
                Turn::Over => {
                    if let Some(connection) = self.table.get_mut(id) {
                        connection.queued = false;
                    }
                    // It may have got something to say in its turn.
                    self.wake(id);
                }
                Turn::Again => self.turns.push_back(id),
                Turn::Starved => {
                    self.turns.push_front(id);
                    return Ok(Fed::Starved);
                }
            }
            if begun.elapsed() >= TURN || recall.is_set() {
                return Ok(Fed::More);
            }
        }
    }

    /// A header for `id` with everything but its length, flags and credit.
    fn header(&self, kind: SocketKind, op: u16) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            kind: wire_kind(kind),
            op,
            ..Header::default()
        }
    }

    /// One connection's turn: a part of its data, and its notices. Those come last: data tells of
    /// room as well, and the end of the data may be what there is to notice.
    fn turn(&mut self, id: ConnectionId, rx: &mut Rx) -> Result<Turn, Fault> {
        let flow = self.table.get_mut(id).and_then(Connection::flow);
        if flow.is_some_and(|flow| flow.is_opening()) && !self.send_notices(id, rx)? {
            return Ok(Turn::Starved);
        }
        match self.send_data(id, rx)? {
            Turn::Starved => Ok(Turn::Starved),
            _ if !self.send_notices(id, rx)? => Ok(Turn::Starved),
            turn => Ok(turn),
        }
    }

    /// Sends a part of a connection's data, if there is any and the guest takes it.
    fn send_data(&mut self, id: ConnectionId, rx: &mut Rx) -> Result<Turn, Fault> {
        let Some(connection) = self.table.get_mut(id) else {
            return Ok(Turn::Over);
        };
        let kind = connection.kind();
        let readable = connection.readable;
        let Some(flow) = connection.flow() else {
            return Ok(Turn::Over);
        };
        if !readable || !flow.may_send() {
            return Ok(Turn::Over);
        }
        if flow.credit() == 0 {
            flow.want_credit();
            connection.short = true;
            return Ok(Turn::Over);
        }
        match kind {
            SocketKind::Stream => self.read_stream(id, rx),
            SocketKind::Seqpacket => Ok(self.read_message(id)),
        }
    }

    /// Sends a connection's packets without data. False: the guest has to give buffers first.
    fn send_notices(&mut self, id: ConnectionId, rx: &mut Rx) -> Result<bool, Fault> {
        let blank = self.header(SocketKind::Stream, OP_RW);
        let Some(connection) = self.table.get_mut(id) else {
            return Ok(true);
        };
        let kind = wire_kind(connection.kind());
        loop {
            if !connection.flow().is_some_and(|flow| flow.has_notice()) {
                return Ok(true);
            }
            let sent = rx.send(&[], |_| {
                let notice = connection.flow().and_then(Flow::next_notice);
                let (op, flags) = notice.map_or((OP_CREDIT_UPDATE, 0), |n| (n.op, n.flags));
                connection.stamped(Header {
                    kind,
                    op,
                    flags,
                    ..blank
                })
            })?;
            if sent.is_none() {
                return Ok(false);
            }
            add(&self.stats.packets_to_guest, 1);
        }
    }

    /// Reads a stream into the guest's buffers.
    fn read_stream(&mut self, id: ConnectionId, rx: &mut Rx) -> Result<Turn, Fault> {
        let header = self.header(SocketKind::Stream, OP_RW);
        let Some(connection) = self.table.get_mut(id) else {
            return Ok(Turn::Over);
        };
        let credit = connection.flow().map_or(0, |flow| flow.credit());
        let Some(room) = rx.take(credit.min(connection.appetite))? else {
            return Ok(Turn::Starved);
        };
        let Some(socket) = &connection.socket else {
            rx.finish(0, |_| header)?;
            return Ok(Turn::Over);
        };
        let received = match socket.receive(rx.data()) {
            Ok(received) => received,
            Err(error) => {
                rx.finish(0, |_| header)?;
                self.receive_failed(id, &error);
                return Ok(Turn::Over);
            }
        };
        let len = u32::try_from(received.bytes).unwrap_or(u32::MAX).min(room);
        let packets = rx.finish(len, |len| connection.stamped(Header { len, ..header }))?;
        add(&self.stats.packets_to_guest, packets.into());
        add(&self.stats.bytes_to_guest, len.into());
        if len == 0 {
            connection.readable = false;
            self.host_ends(id, SHUTDOWN_SEND);
            return Ok(Turn::Over);
        }
        let full = len == room;
        connection.appetite = if full {
            connection.appetite.saturating_mul(2).min(APPETITE_MAX)
        } else {
            (connection.appetite / 2).max(APPETITE_MIN)
        };
        // Less than asked for was all there was, and what comes now is told by a new event; but for
        // an end that was told already, and where the kernel broke off.
        connection.readable = full || connection.ending || received.interrupted;
        Ok(if connection.readable {
            Turn::Again
        } else {
            Turn::Over
        })
    }

    /// Reads a message, if the guest has credit for all of it.
    fn read_message(&mut self, id: ConnectionId) -> Turn {
        let Some(connection) = self.table.get_mut(id) else {
            return Turn::Over;
        };
        let Some(socket) = &connection.socket else {
            return Turn::Over;
        };
        let len = match socket.peek(&mut []) {
            Ok(len) => len,
            Err(error) => {
                self.receive_failed(id, &error);
                return Turn::Over;
            }
        };
        if len == 0 {
            connection.readable = false;
            self.host_ends(id, SHUTDOWN_SEND);
            return Turn::Over;
        }
        let Stage::Open { flow, .. } = &connection.stage else {
            return Turn::Over;
        };
        let fits = |room: u32| usize::try_from(room).is_ok_and(|room| len <= room);
        if len > MESSAGE_MAX || !fits(flow.peer_buf_alloc()) {
            limited_warn!("vsock: a message of {len} bytes is too long for the guest");
            self.reset(id);
            return Turn::Over;
        }
        if !fits(flow.credit()) {
            // Told by the guest when it has read what it has.
            connection.short = true;
            return Turn::Over;
        }
        let mut bytes = vec![0; len];
        match socket.receive_bytes(&mut bytes) {
            Ok(_) => self.staged = Some(Staged { id, bytes, sent: 0 }),
            Err(error) => self.receive_failed(id, &error),
        }
        Turn::Again
    }

    /// Sends what is left of the message on its way. False: the guest has to give buffers first.
    fn feed_staged(&mut self, rx: &mut Rx) -> Result<bool, Fault> {
        let header = self.header(SocketKind::Seqpacket, OP_RW);
        let Some(staged) = &mut self.staged else {
            return Ok(true);
        };
        while let Some(connection) = self.table.get_mut(staged.id) {
            let rest = staged.bytes.get(staged.sent..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            let sent = rx.send(rest, |len| {
                let last = usize::try_from(len).is_ok_and(|len| len == rest.len());
                let flags = if last { SEQ_END_OF_MESSAGE } else { 0 };
                connection.stamped(Header {
                    len,
                    flags,
                    ..header
                })
            })?;
            let Some(sent) = sent else { return Ok(false) };
            add(&self.stats.packets_to_guest, 1);
            add(&self.stats.bytes_to_guest, sent.into());
            staged.sent += usize::try_from(sent).unwrap_or(0);
        }
        self.staged = None;
        Ok(true)
    }

    /// The host's socket gave nothing.
    fn receive_failed(&mut self, id: ConnectionId, error: &io::Error) {
        let Some(connection) = self.table.get_mut(id) else {
            return;
        };
        if error.kind() == io::ErrorKind::WouldBlock {
            connection.readable = false;
        } else {
            self.reset(id);
        }
    }
}
