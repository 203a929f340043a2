//! One connection's protocol (virtio 1.2, 5.10.6): phase, credit both ways, shutdown, and which
//! packets the guest is still to get. Pure: no socket, no clock, no memory.
//!
//! Counts of bytes are modulo 2³², as on the wire. What the guest says of its own credit is taken
//! as said: it decides only how much is written into buffers that the guest gave.

use std::num::Wrapping;

use super::packet::{
    Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW,
    OP_SHUTDOWN, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND,
};

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The host began it; the guest has not answered.
    Requested,
    /// Data may flow.
    Established,
    /// Both directions have ended on the host's side; the guest is to confirm with a reset.
    Closing,
}

/// What is to be done about a packet of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing more: what it said is noted.
    Noted,
    /// Its data goes to the host.
    Data,
    /// Its data goes nowhere: the host takes no more.
    Discard,
    /// The guest has accepted the host's request.
    Accepted,
    /// The guest ends what [`Flow::guest_ended`] says.
    Ended,
    /// The guest has reset the connection: it is over at once.
    Gone,
    /// The guest breaks the protocol: the connection is reset.
    Violation(&'static str),
}

/// A packet without data that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Notice {
    /// Operation.
    pub(super) op: u16,
    /// Its flags.
    pub(super) flags: u32,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Flow {
    phase: Phase,
    /// The packet that begins the connection, until it is sent.
    opening: Option<u16>,

    /// Room for the guest's data that was promised.
    buf_alloc: u32,
    /// Whether every consumed byte is worth telling once nothing else is to be done: a sender of
    /// messages may wait for room for a whole one.
    eager: bool,
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    /// What of `forwarded` the guest knows.
    told: Wrapping<u32>,
    update_due: bool,

    peer_buf_alloc: u32,
    peer_fwd_cnt: Wrapping<u32>,
    sent: Wrapping<u32>,
    /// The guest is to be asked for credit.
    request_due: bool,
    /// It was asked and has given none since.
    requested: bool,

    /// Directions the guest has ended ([`SHUTDOWN_RECEIVE`], [`SHUTDOWN_SEND`]: as the guest sees
    /// them).
    guest_ended: u32,
    /// Directions the host has ended, as the host sees them.
    host_ended: u32,
    /// What of `host_ended` the guest knows.
    told_ended: u32,
}

impl Flow {
    /// A connection the host begins; `buf_alloc` bytes are kept for the guest's data.
    pub(super) fn requested(buf_alloc: u32, eager: bool) -> Self {
        Self {
            phase: Phase::Requested,
            opening: Some(OP_REQUEST),
            buf_alloc,
            eager,
            received: Wrapping(0),
            forwarded: Wrapping(0),
            told: Wrapping(0),
            update_due: false,
            peer_buf_alloc: 0,
            peer_fwd_cnt: Wrapping(0),
            sent: Wrapping(0),
            request_due: false,
            requested: false,
            guest_ended: 0,
            host_ended: 0,
            told_ended: 0,
        }
    }

    /// A connection the guest began by `request`, and that the host has accepted.
    pub(super) fn accepted(buf_alloc: u32, eager: bool, request: &Header) -> Self {
        let mut flow = Self::requested(buf_alloc, eager);
        flow.phase = Phase::Established;
        flow.opening = Some(OP_RESPONSE);
        flow.note_credit(request);
        flow
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Judges a packet of the guest's.
    pub(super) fn packet(&mut self, header: &Header) -> Verdict {
        if header.op == OP_RST {
            return Verdict::Gone;
        }
        self.note_credit(header);
        match header.op {
            OP_RESPONSE if self.phase == Phase::Requested && self.opening.is_none() => {
                self.phase = Phase::Established;
                Verdict::Accepted
            }
            _ if self.phase == Phase::Requested => Verdict::Violation("no answer to a request"),
            OP_RW => self.data(header.len),
            OP_SHUTDOWN => {
                self.guest_ended |= header.flags & SHUTDOWN_BOTH;
                Verdict::Ended
            }
            OP_CREDIT_UPDATE => Verdict::Noted,
            OP_CREDIT_REQUEST => {
                self.update_due = true;
                Verdict::Noted
            }
            _ => Verdict::Violation("an operation that makes no sense here"),
        }
    }

    fn data(&mut self, len: u32) -> Verdict {
        if self.guest_ended & SHUTDOWN_SEND != 0 {
            return Verdict::Violation("data after the end");
        }
        let room = self.buf_alloc.saturating_sub(self.buffered());
        if len > room {
            return Verdict::Violation("more data than there is credit for");
        }
        self.received += len;
        if self.host_ended & SHUTDOWN_RECEIVE != 0 {
            self.forwarded(len);
            return Verdict::Discard;
        }
        Verdict::Data
    }

    fn note_credit(&mut self, header: &Header) {
        self.peer_buf_alloc = header.buf_alloc;
        self.peer_fwd_cnt = Wrapping(header.fwd_cnt);
        if self.credit() > 0 {
            self.requested = false;
            self.request_due = false;
        }
    }

    /// Bytes taken from the guest that the host has not got.
    pub(super) fn buffered(&self) -> u32 {
        (self.received - self.forwarded).0
    }

    /// The host has got `len` more bytes, or they were thrown away.
    pub(super) fn forwarded(&mut self, len: u32) {
        self.forwarded += len;
        // Not for every packet: at half the room the guest need not stop for it yet.
        if (self.forwarded - self.told).0 >= self.buf_alloc / 2 {
            self.update_due = true;
        }
    }

    /// The guest's packets at hand are dealt with: a good moment to tell it of room. Answers
    /// whether there is something to tell.
    pub(super) fn rest(&mut self) -> bool {
        self.update_due |= self.eager && self.forwarded != self.told;
        self.update_due
    }

    /// Bytes the guest will take now.
    pub(super) fn credit(&self) -> u32 {
        let under_way = (self.sent - self.peer_fwd_cnt).0;
        self.peer_buf_alloc.saturating_sub(under_way)
    }

    /// Room the guest has in all for this connection.
    pub(super) fn peer_buf_alloc(&self) -> u32 {
        self.peer_buf_alloc
    }

    /// There is more for the guest than it has credit for: asks it, once.
    pub(super) fn want_credit(&mut self) {
        self.request_due |= !self.requested;
        self.requested = true;
    }

    /// Whether data of the host's may be sent.
    pub(super) fn may_send(&self) -> bool {
        self.phase == Phase::Established
            && self.opening.is_none()
            && self.guest_ended & SHUTDOWN_RECEIVE == 0
            && self.host_ended & SHUTDOWN_SEND == 0
    }

    /// What the guest has ended, as it sees it.
    pub(super) fn guest_ended(&self) -> u32 {
        self.guest_ended
    }

    /// The host ends `directions`, as it sees them. What is buffered for a host that receives no
    /// more is to be thrown away by the caller.
    pub(super) fn host_ends(&mut self, directions: u32) {
        self.host_ended |= directions;
        if self.host_ended == SHUTDOWN_BOTH && self.phase == Phase::Established {
            self.phase = Phase::Closing;
        }
    }

    /// Whether the packet that begins the connection has yet to be sent.
    pub(super) fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    /// Whether [`Self::next_notice`] has something.
    pub(super) fn has_notice(&self) -> bool {
        self.opening.is_some()
            || self.host_ended != self.told_ended
            || self.update_due
            || self.request_due
    }

    /// The next packet without data, which the caller is going to send. The end of the host's data
    /// is known only once all of it is sent, so that it may go before data here.
    pub(super) fn next_notice(&mut self) -> Option<Notice> {
        let notice = |op| Some(Notice { op, flags: 0 });
        if let Some(op) = self.opening.take() {
            return notice(op);
        }
        if self.host_ended != self.told_ended {
            self.told_ended = self.host_ended;
            return Some(Notice {
                op: OP_SHUTDOWN,
                flags: self.host_ended,
            });
        }
        if std::mem::take(&mut self.update_due) {
            return notice(OP_CREDIT_UPDATE);
        }
        if std::mem::take(&mut self.request_due) {
            return notice(OP_CREDIT_REQUEST);
        }
        None
    }

    /// Fills in a header's credit, and counts its data as sent. Every packet tells of room.
    pub(super) fn stamp(&mut self, header: &mut Header) {
        header.buf_alloc = self.buf_alloc;
        header.fwd_cnt = self.forwarded.0;
        self.sent += header.len;
        self.told = self.forwarded;
        self.update_due = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: u32 = 1000;

    fn packet(op: u16) -> Header {
        Header {
            op,
            buf_alloc: 500,
            ..Header::default()
        }
    }

    fn data(len: u32) -> Header {
        Header {
            len,
            ..packet(OP_RW)
        }
    }

    fn established() -> Flow {
        let mut flow = Flow::accepted(ROOM, false, &packet(OP_REQUEST));
        assert_eq!(ops(&mut flow), [OP_RESPONSE]);
        flow
    }

    /// Sends all notices.
    fn ops(flow: &mut Flow) -> Vec<u16> {
        let mut ops = Vec::new();
        while flow.has_notice() {
            let notice = flow.next_notice().unwrap();
            flow.stamp(&mut Header::default());
            ops.push(notice.op);
        }
        ops
    }

    fn is_violation(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Violation(_))
    }

    #[test]
    fn a_request_of_the_hosts_is_answered_once_and_not_before_it_was_sent() {
        let mut flow = Flow::requested(ROOM, false);
        assert!(is_violation(flow.packet(&packet(OP_RESPONSE))));
        assert_eq!(ops(&mut flow), [OP_REQUEST]);
        assert!(!flow.may_send());
        assert!(is_violation(flow.packet(&data(1))));
        assert_eq!(flow.packet(&packet(OP_RESPONSE)), Verdict::Accepted);
        assert!(flow.may_send() && flow.credit() == 500);
        assert!(is_violation(flow.packet(&packet(OP_RESPONSE))));
        assert!(is_violation(flow.packet(&packet(OP_REQUEST))));
        assert!(is_violation(flow.packet(&packet(0))));
        assert_eq!(flow.packet(&packet(OP_RST)), Verdict::Gone);
    }

    #[test]
    fn the_guest_cannot_send_more_than_was_promised() {
        let mut flow = established();
        assert_eq!(flow.packet(&data(600)), Verdict::Data);
        assert_eq!(flow.packet(&data(400)), Verdict::Data);
        assert!(is_violation(flow.packet(&data(1))));
        flow.forwarded(1000);
        assert_eq!(flow.packet(&data(1000)), Verdict::Data);
        assert!(is_violation(flow.packet(&data(u32::MAX))));
    }

    #[test]
    fn room_is_told_at_half_or_when_asked_and_not_for_every_packet() {
        let mut flow = established();
        for _ in 0..4 {
            flow.packet(&data(100));
            flow.forwarded(100);
            assert!(!flow.rest());
        }
        assert!(ops(&mut flow).is_empty());
        flow.packet(&data(100));
        flow.forwarded(100);
        assert_eq!(ops(&mut flow), [OP_CREDIT_UPDATE]);
        assert_eq!(flow.packet(&packet(OP_CREDIT_REQUEST)), Verdict::Noted);
        assert_eq!(flow.packet(&packet(OP_CREDIT_REQUEST)), Verdict::Noted);
        assert_eq!(ops(&mut flow), [OP_CREDIT_UPDATE]);
        // Another packet tells it as well.
        flow.packet(&data(600));
        flow.forwarded(600);
        let mut header = data(1);
        flow.stamp(&mut header);
        assert_eq!((header.buf_alloc, header.fwd_cnt), (ROOM, 1100));
        assert!(!flow.has_notice());
    }

    #[test]
    fn a_sender_of_messages_hears_of_all_room_when_it_rests() {
        let mut flow = Flow::accepted(ROOM, true, &packet(OP_REQUEST));
        ops(&mut flow);
        flow.packet(&data(10));
        flow.forwarded(10);
        assert!(!flow.has_notice());
        assert!(flow.rest());
        assert_eq!(ops(&mut flow), [OP_CREDIT_UPDATE]);
        assert!(!flow.rest());
    }

    #[test]
    fn credit_is_asked_for_once_until_some_comes() {
        let mut flow = established();
        flow.stamp(&mut data(500));
        assert_eq!(flow.credit(), 0);
        flow.want_credit();
        flow.want_credit();
        assert_eq!(ops(&mut flow), [OP_CREDIT_REQUEST]);
        // None to give: not asked again.
        flow.packet(&packet(OP_CREDIT_UPDATE));
        flow.want_credit();
        assert!(ops(&mut flow).is_empty());
        let mut update = packet(OP_CREDIT_UPDATE);
        update.fwd_cnt = 100;
        flow.packet(&update);
        assert_eq!(flow.credit(), 100);
        flow.stamp(&mut data(100));
        flow.want_credit();
        assert_eq!(ops(&mut flow), [OP_CREDIT_REQUEST]);
    }

    #[test]
    fn counts_wrap_and_lies_give_no_credit() {
        let mut flow = established();
        flow.sent = Wrapping(u32::MAX - 99);
        let mut update = packet(OP_CREDIT_UPDATE);
        update.fwd_cnt = u32::MAX - 99;
        flow.packet(&update);
        flow.stamp(&mut data(300));
        assert_eq!((flow.sent.0, flow.credit()), (200, 200));
        // It consumed what was never sent.
        update.fwd_cnt = 201;
        flow.packet(&update);
        assert_eq!(flow.credit(), 0);
        update.buf_alloc = u32::MAX;
        flow.packet(&update);
        assert_eq!(flow.credit(), 0);
    }

    #[test]
    fn each_direction_ends_by_itself() {
        let mut flow = established();
        flow.host_ends(SHUTDOWN_SEND);
        assert!(!flow.may_send() && flow.phase() == Phase::Established);
        let notice = flow.next_notice().unwrap();
        assert_eq!((notice.op, notice.flags), (OP_SHUTDOWN, SHUTDOWN_SEND));
        assert_eq!(flow.packet(&data(5)), Verdict::Data);
        let mut end = packet(OP_SHUTDOWN);
        end.flags = SHUTDOWN_SEND | 0x80;
        assert_eq!(flow.packet(&end), Verdict::Ended);
        assert_eq!(flow.guest_ended(), SHUTDOWN_SEND);
        assert!(is_violation(flow.packet(&data(5))));
    }

    #[test]
    fn data_for_a_host_that_takes_none_is_thrown_away_and_counted() {
        let mut flow = established();
        flow.host_ends(SHUTDOWN_RECEIVE);
        assert_eq!(flow.packet(&data(900)), Verdict::Discard);
        assert_eq!(flow.packet(&data(900)), Verdict::Discard);
        flow.host_ends(SHUTDOWN_SEND);
        assert_eq!(flow.phase(), Phase::Closing);
        let notice = flow.next_notice().unwrap();
        assert_eq!((notice.op, notice.flags), (OP_SHUTDOWN, SHUTDOWN_BOTH));
        assert_eq!(flow.packet(&packet(OP_RST)), Verdict::Gone);
    }
}
