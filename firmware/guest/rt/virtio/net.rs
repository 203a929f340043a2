//! Driver of a virtio network card (virtio 1.2, section 5.1): one pair of queues, small mergeable
//! receive buffers, the control queue.

use super::queue::{Queue, Segment};
use super::{DEVICE_NET, Error, NEEDS_RESET, Transport};
use crate::clock::Deadline;
use crate::memory::{PAGE, Region};

/// Feature: frames may come in several buffers.
pub const F_MRG_RXBUF: u64 = 1 << 15;
/// Feature: several pairs of queues.
pub const F_MQ: u64 = 1 << 22;
/// Features that this driver is fit for: all up to the control queue's, and UDP segmentation.
pub const WANTED: u64 = 0x00ff_ffff | 7 << 54;

/// Bytes of the header before each frame.
pub const HEADER: usize = 12;
/// Most bytes of a frame with its header that this driver takes.
pub const FRAME_MAX: usize = 17 * PAGE as usize;

const BUFFERS: u16 = 128;
/// Bytes of a receive buffer; small, so that an ordinary frame needs several.
const BUFFER: u64 = 512;
const TIMEOUT_MS: u64 = 30_000;

/// A card in use.
pub struct Net {
    transport: Transport,
    features: u64,
    receive: Queue,
    transmit: Queue,
    control: Queue,
    buffers: Region,
    /// Which buffer each chain of the receive queue is.
    places: [u16; 256],
    frame: Region,
    command: Region,
}

impl Net {
    /// Sets the card up with all it offers but `without`, and gives it every buffer.
    pub fn new(transport: Transport, without: u64) -> Result<Self, Error> {
        assert_eq!(transport.device_id(), DEVICE_NET);
        let features = transport.negotiate(WANTED & !without)?;
        let pairs = if features & F_MQ != 0 {
            u32::from(transport.config16(8))
        } else {
            1
        };
        let mut net = Self {
            transport,
            features,
            receive: transport.set_up_queue(0)?,
            transmit: transport.set_up_queue(1)?,
            control: transport.set_up_queue(2 * pairs)?,
            buffers: Region::allocate(u64::from(BUFFERS) * BUFFER),
            places: [0; 256],
            frame: Region::allocate(FRAME_MAX as u64),
            command: Region::allocate(PAGE),
        };
        for queue in [&net.receive, &net.transmit, &net.control] {
            queue.want_interrupts(false);
        }
        for place in 0..BUFFERS {
            net.give(place);
        }
        transport.driver_ok();
        transport.notify(0);
        Ok(net)
    }

    /// The registers.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// What was agreed on.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The receive queue and the transmit queue, for tests that break them.
    pub fn queues(&mut self) -> (&mut Queue, &mut Queue) {
        (&mut self.receive, &mut self.transmit)
    }

    fn give(&mut self, place: u16) {
        let segment = Segment {
            address: self.buffers.address() + u64::from(place) * BUFFER,
            length: BUFFER as u32,
            device_writes: true,
        };
        if let Some(head) = self.receive.submit(&[segment]) {
            self.places[usize::from(head)] = place;
        }
    }

    fn wait(&self, deadline: Deadline) -> Result<(), Error> {
        if self.transport.status() & NEEDS_RESET != 0 {
            return Err(Error::NeedsReset);
        }
        if deadline.passed() {
            return Err(Error::Timeout);
        }
        core::hint::spin_loop();
        Ok(())
    }

    /// Waits for a frame and copies it, behind its header, into `frame`. Returns its length and the
    /// number of buffers it came in.
    pub fn receive(&mut self, frame: &mut [u8]) -> Result<(usize, u16), Error> {
        let deadline = Deadline::after_ms(TIMEOUT_MS);
        let (mut length, mut seen, mut count) = (0, 0, 1);
        while seen < count {
            let Some(used) = self.receive.pop() else {
                // The rest of a frame is there when its first buffer is.
                assert!(seen == 0, "a frame came in pieces");
                self.wait(deadline)?;
                continue;
            };
            let place = self.places[usize::from(used.head)];
            let end = length + used.written as usize;
            let offset = u64::from(place) * BUFFER;
            self.buffers.copy_to(offset, &mut frame[length..end]);
            length = end;
            if seen == 0 {
                count = u16::from_le_bytes([frame[10], frame[11]]);
            }
            seen += 1;
            self.give(place);
        }
        self.transport.notify(0);
        Ok((length, count))
    }

    /// Sends a frame behind its header and waits until the device has it.
    pub fn send(&mut self, frame: &[u8]) -> Result<(), Error> {
        for (offset, byte) in (0..).zip(frame) {
            self.frame.write8(offset, *byte);
        }
        // In two pieces, which part within Ethernet's header.
        let piece = |offset: usize, length: usize| Segment {
            address: self.frame.address() + offset as u64,
            length: length as u32,
            device_writes: false,
        };
        let first = HEADER + 6;
        let pieces = [piece(0, first), piece(first, frame.len() - first)];
        self.transmit.submit(&pieces);
        self.transport.notify(1);
        let deadline = Deadline::after_ms(TIMEOUT_MS);
        while self.transmit.pop().is_none() {
            self.wait(deadline)?;
        }
        Ok(())
    }

    /// Gives the control queue a command and returns the answer.
    pub fn command(&mut self, class: u8, command: u8, data: &[u8]) -> Result<u8, Error> {
        self.command.write8(0, class);
        self.command.write8(1, command);
        for (offset, byte) in (2..).zip(data) {
            self.command.write8(offset, *byte);
        }
        let answer = PAGE - 1;
        self.command.write8(answer, 0xee);
        let request = Segment {
            address: self.command.address(),
            length: 2 + data.len() as u32,
            device_writes: false,
        };
        let ack = Segment {
            address: self.command.address() + answer,
            length: 1,
            device_writes: true,
        };
        self.control.submit(&[request, ack]);
        self.transport.notify(self.control.index());
        let deadline = Deadline::after_ms(TIMEOUT_MS);
        while self.control.pop().is_none() {
            self.wait(deadline)?;
        }
        Ok(self.command.read8(answer))
    }
}
