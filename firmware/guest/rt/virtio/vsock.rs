//! Driver of a virtio socket device (virtio 1.2, section 5.10): packets in and out, polled.
//! Connections are the caller's.

use super::queue::{Queue, Segment};
use super::{DEVICE_VSOCK, Error, F_EVENT_IDX, NEEDS_RESET, Transport};
use crate::clock::Deadline;
use crate::memory::{PAGE, Region};

/// Bytes of a header.
pub const HEADER: u64 = 44;
/// The host's address.
pub const HOST_CID: u64 = 2;

/// Feature: sequences of messages.
pub const F_SEQPACKET: u64 = 1 << 1;

/// Socket type: a stream.
pub const STREAM: u16 = 1;
/// Socket type: messages.
pub const SEQPACKET: u16 = 2;

// Operations.
/// Asks for a connection.
pub const REQUEST: u16 = 1;
/// Accepts it.
pub const RESPONSE: u16 = 2;
/// Ends it at once.
pub const RST: u16 = 3;
/// Ends a direction.
pub const SHUTDOWN: u16 = 4;
/// Carries data.
pub const RW: u16 = 5;
/// Says how much room there is.
pub const CREDIT_UPDATE: u16 = 6;
/// Asks for that.
pub const CREDIT_REQUEST: u16 = 7;

/// Flag of a shutdown: no more will be received.
pub const RECEIVE: u32 = 1;
/// Flag of a shutdown: no more will be sent.
pub const SEND: u32 = 2;

/// Bytes of a receive buffer, as Linux has them.
pub const RX_BUFFER: u64 = PAGE;
/// Most bytes of data in a packet to the device, as Linux has it.
pub const TX_DATA: u64 = 64 << 10;
/// Packets to the device that may be under way.
const TX_SLOTS: u64 = 16;
/// A slot's place is whole pages.
const TX_SLOT: u64 = TX_DATA + PAGE;

const RX: u32 = 0;
const TX: u32 = 1;
const EVENT: u32 = 2;

const TIMEOUT_MS: u64 = 10_000;

/// A packet's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The sender's address.
    pub src_cid: u64,
    /// The receiver's address.
    pub dst_cid: u64,
    /// The sender's port.
    pub src_port: u32,
    /// The receiver's port.
    pub dst_port: u32,
    /// Bytes of data.
    pub len: u32,
    /// Socket type.
    pub kind: u16,
    /// Operation.
    pub op: u16,
    /// Its flags.
    pub flags: u32,
    /// The sender's room in all.
    pub buf_alloc: u32,
    /// Bytes the sender has consumed.
    pub fwd_cnt: u32,
}

impl Header {
    fn write(&self, to: Region, at: u64) {
        to.write64(at, self.src_cid);
        to.write64(at + 8, self.dst_cid);
        to.write32(at + 16, self.src_port);
        to.write32(at + 20, self.dst_port);
        to.write32(at + 24, self.len);
        to.write16(at + 28, self.kind);
        to.write16(at + 30, self.op);
        to.write32(at + 32, self.flags);
        to.write32(at + 36, self.buf_alloc);
        to.write32(at + 40, self.fwd_cnt);
    }

    fn read(from: Region, at: u64) -> Self {
        Self {
            src_cid: from.read64(at),
            dst_cid: from.read64(at + 8),
            src_port: from.read32(at + 16),
            dst_port: from.read32(at + 20),
            len: from.read32(at + 24),
            kind: from.read16(at + 28),
            op: from.read16(at + 30),
            flags: from.read32(at + 32),
            buf_alloc: from.read32(at + 36),
            fwd_cnt: from.read32(at + 40),
        }
    }
}

/// A packet of the device's, to be given back with [`Vsock::recycle`].
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Its header.
    pub header: Header,
    /// Its data.
    pub data: &'static [u8],
    buffer: u64,
}

/// A set-up device.
pub struct Vsock {
    transport: Transport,
    features: u64,
    cid: u64,
    rx: Queue,
    tx: Queue,
    event: Queue,
    rx_memory: Region,
    tx_memory: Region,
    event_memory: Region,
    /// Which receive buffer each descriptor has.
    rx_buffer_of: [u16; super::queue::SIZE_MAX as usize],
    /// Slots that are free, a bit each.
    tx_free: u64,
    tx_slot_of: [u8; super::queue::SIZE_MAX as usize],
}

impl Vsock {
    /// Sets the device up, its receive queue full.
    pub fn new(transport: Transport) -> Result<Self, Error> {
        assert_eq!(transport.device_id(), DEVICE_VSOCK);
        let features = transport.negotiate(F_SEQPACKET | F_EVENT_IDX)?;
        let rx = transport.set_up_queue(RX)?;
        let tx = transport.set_up_queue(TX)?;
        let event = transport.set_up_queue(EVENT)?;
        transport.driver_ok();
        let rx_memory = Region::allocate(u64::from(rx.size()) * RX_BUFFER);
        let mut new = Self {
            transport,
            features,
            cid: transport.config64(0),
            rx,
            tx,
            event,
            rx_memory,
            tx_memory: Region::allocate(TX_SLOTS * TX_SLOT),
            event_memory: Region::allocate(PAGE),
            rx_buffer_of: [0; super::queue::SIZE_MAX as usize],
            tx_free: (1 << TX_SLOTS) - 1,
            tx_slot_of: [0; super::queue::SIZE_MAX as usize],
        };
        for queue in [&mut new.rx, &mut new.tx, &mut new.event] {
            queue.set_event_idx(features & F_EVENT_IDX != 0);
            queue.want_interrupts(false);
        }
        for buffer in 0..u64::from(new.rx.size()) {
            new.give(buffer);
        }
        new.event.submit(&[Segment {
            address: new.event_memory.address(),
            length: 4,
            device_writes: true,
        }]);
        for queue in [&mut new.rx, &mut new.event] {
            if queue.needs_notification() {
                transport.notify(queue.index());
            }
        }
        Ok(new)
    }

    /// The guest's address.
    pub fn cid(&self) -> u64 {
        self.cid
    }

    /// The features agreed on.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Its transport.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The next packet of the device's.
    pub fn poll(&mut self) -> Option<Received> {
        let used = self.rx.pop()?;
        let buffer = u64::from(self.rx_buffer_of[usize::from(used.head)]);
        let at = buffer * RX_BUFFER;
        let header = Header::read(self.rx_memory, at);
        assert!(u64::from(header.len) <= RX_BUFFER - HEADER);
        assert_eq!(u64::from(used.written), HEADER + u64::from(header.len));
        let first = (self.rx_memory.address() + at + HEADER) as *const u8;
        // SAFETY: the buffer has these bytes, and it is not the device's until it is given back,
        // after which nobody looks at them any more.
        let data = unsafe { core::slice::from_raw_parts(first, header.len as usize) };
        Some(Received {
            header,
            data,
            buffer,
        })
    }

    /// Gives a packet's buffer back; the packet is not to be looked at any more.
    pub fn recycle(&mut self, packet: Received) {
        self.give(packet.buffer);
        if self.rx.needs_notification() {
            self.transport.notify(RX);
        }
    }

    fn give(&mut self, buffer: u64) {
        let segment = Segment {
            address: self.rx_memory.address() + buffer * RX_BUFFER,
            length: RX_BUFFER as u32,
            device_writes: true,
        };
        if let Some(head) = self.rx.submit(&[segment]) {
            self.rx_buffer_of[usize::from(head)] = buffer as u16;
        }
    }

    /// Whether a packet can be sent at once.
    pub fn can_send(&mut self) -> bool {
        while let Some(used) = self.tx.pop() {
            self.tx_free |= 1 << self.tx_slot_of[usize::from(used.head)];
        }
        self.tx_free != 0
    }

    /// Sends a packet whose `header.len` bytes of data `fill` writes; waits for a slot.
    pub fn send(&mut self, header: &Header, fill: impl FnOnce(&mut [u8])) {
        let deadline = Deadline::after_ms(TIMEOUT_MS);
        while !self.can_send() {
            assert!(!deadline.passed(), "the device takes no packets");
            assert!(self.transport.status() & NEEDS_RESET == 0, "needs reset");
            core::hint::spin_loop();
        }
        let slot = u64::from(self.tx_free.trailing_zeros());
        self.tx_free &= !(1 << slot);
        let at = slot * TX_SLOT;
        header.write(self.tx_memory, at);
        let first = (self.tx_memory.address() + at + HEADER) as *mut u8;
        // SAFETY: the slot has these bytes, and it is ours until it is submitted.
        fill(unsafe { core::slice::from_raw_parts_mut(first, header.len as usize) });
        let segment = Segment {
            address: self.tx_memory.address() + at,
            length: HEADER as u32 + header.len,
            device_writes: false,
        };
        if let Some(head) = self.tx.submit(&[segment]) {
            self.tx_slot_of[usize::from(head)] = slot as u8;
        }
        if self.tx.needs_notification() {
            self.transport.notify(TX);
        }
    }
}
