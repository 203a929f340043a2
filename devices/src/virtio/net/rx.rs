//! Receiving: from the backend straight into the driver's buffers.
//!
//! On the I/O thread, a [`Receiver`] for each receive queue. How long a frame is shows only once
//! it has been read. So chains are taken off the ring until there is room for the longest, and
//! those a frame did not need are kept for the next; they go back into the ring if the worker is
//! taken back. If the driver has given less, what does not fit arrives in a buffer of ours, and the
//! frame waits there for more.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::config::{F_GUEST_CSUM, F_MRG_RXBUF};
use super::filter::SEEN;
use super::stats::add;
use super::worker::Port;
use crate::io_thread::Fault;
use crate::memory::{GuestMemory, SharedMemory};
use crate::net::ranges::{GuestRanges, RANGES_MAX};
use crate::net::{FRAME_MAX, HEADER_LEN};
use crate::virtio::device::{ActiveQueue, QueuePosition};

/// Frames taken before the I/O thread looks at its other workers.
const BATCH: usize = 128;

/// Bytes of a header.
const HEADER: u32 = HEADER_LEN as u32;
/// Offset of the header's `num_buffers`.
const NUM_BUFFERS: u64 = 10;
/// Bytes with header of the longest frame that is not to be segmented, unless the MTU is known:
/// Ethernet's, with a VLAN tag.
const PLAIN_FRAME: u32 = HEADER + 1518 + 4;
/// Most ranges of one chain that are used. The driver may make longer ones, but their rest stays
/// empty.
const RANGES_OF_CHAIN: usize = RANGES_MAX / 2;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Frames of the backend's.
    Frames,
    /// Buffers of the driver's.
    Buffers,
    /// This time, for the rate limit.
    Time(Instant),
    /// Nothing, until the driver or the owner changes something.
    Nothing,
}

/// A chain taken off the ring.
#[derive(Debug, Clone, Copy)]
struct Taken {
    head: u16,
    ranges: usize,
    bytes: u32,
}

/// The device's side of a receive queue.
pub(super) struct Receiver {
    active: ActiveQueue,
    /// Chains that hold nothing yet, in the ring's order.
    chains: VecDeque<Taken>,
    /// Their memory.
    ranges: GuestRanges,
    /// What did not fit into a frame's chains.
    overflow: Box<[u8]>,
    /// A frame that waits for more chains.
    held: Option<Held>,
    /// No memory at all, for frames that nobody wants.
    nowhere: GuestRanges,
}

/// A frame that did not fit into the chains there were.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// Its length with header.
    len: u32,
    /// How much of it is in the chains; the rest is in the overflow.
    inside: u64,
}

impl Receiver {
    pub(super) fn new(active: ActiveQueue, memory: SharedMemory) -> Self {
        // One more than the longest frame, so that a longer one is noticed.
        let room = HEADER + FRAME_MAX + 1;
        Self {
            active,
            chains: VecDeque::new(),
            ranges: GuestRanges::new(memory.clone()),
            nowhere: GuestRanges::new(memory),
            overflow: vec![0; room as usize].into_boxed_slice(),
            held: None,
        }
    }

    pub(super) fn active(&self) -> &ActiveQueue {
        &self.active
    }

    /// How far the queue is; the chains that were kept count as not taken.
    pub(super) fn position(&self) -> QueuePosition {
        let mut position = self.active.queue.position();
        let kept = u16::try_from(self.chains.len()).unwrap_or(0);
        position.next_avail = position.next_avail.wrapping_sub(kept);
        (self.active.index, position)
    }

    /// Takes frames from the backend's queue `number`.
    pub(super) fn run(&mut self, port: &mut Port, number: u16) -> Result<Next, Fault> {
        drop(self.active.doorbell.read());
        if number >= port.setup.pairs || port.is_lost() {
            return Ok(Next::Nothing);
        }
        let memory = port.memory.clone();
        self.active.queue.disable_notification(&memory)?;
        let next = self.batch(port, number, &memory);
        // What was received before a fault is told as well.
        let told = self.active.signal(&memory, &port.interrupt);
        next.and_then(|next| told.map(|()| next))
    }

    fn batch(&mut self, port: &mut Port, number: u16, memory: &GuestMemory) -> Result<Next, Fault> {
        for _ in 0..BATCH {
            if !port.shared.link_up.load(Ordering::Relaxed) {
                match self.discard(port, number) {
                    Some(next) => return Ok(next),
                    None => continue,
                }
            }
            if let Some(until) = port.rx_wait() {
                add(&port.shared.stats.rx_throttled, 1);
                return Ok(Next::Time(until));
            }
            if let Some(held) = self.held {
                if !self.complete(port, held, memory)? {
                    return Ok(Next::Buffers);
                }
                continue;
            }
            if !self.refill(port, wanted(port), memory)? {
                add(&port.shared.stats.rx_starved, 1);
                return Ok(Next::Buffers);
            }
            let room = self.ranges.bytes();
            match port
                .backend
                .receive(number, &mut self.ranges, &mut self.overflow)
            {
                Ok(len) => self.arrived(port, len as u64, room, memory)?,
                Err(error) => return Ok(after(port, &error)),
            }
        }
        Ok(Next::Frames)
    }

    /// Takes chains off the ring until there is room for `wanted` bytes, as far as the driver has
    /// given some. Without mergeable buffers a frame has one chain, and one is taken. False: there
    /// is no chain, and the driver will notify of the next.
    fn refill(&mut self, port: &Port, wanted: u32, memory: &GuestMemory) -> Result<bool, Fault> {
        let merge = port.features & F_MRG_RXBUF != 0;
        let size = usize::from(self.active.queue.size());
        loop {
            let enough = |this: &Self| {
                let full = this.ranges.count() > RANGES_MAX - RANGES_OF_CHAIN;
                let all = this.chains.len() >= size;
                let one = !merge && !this.chains.is_empty();
                this.ranges.bytes() >= u64::from(wanted) || full || all || one
            };
            while !enough(self) {
                match self.active.queue.pop(memory)? {
                    Some(head) => self.take(head, memory)?,
                    None => break,
                }
            }
            if !self.chains.is_empty() {
                return Ok(true);
            }
            if !self.active.queue.enable_notification(memory)? {
                return Ok(false);
            }
            self.active.queue.disable_notification(memory)?;
        }
    }

    fn take(&mut self, head: u16, memory: &GuestMemory) -> Result<(), Fault> {
        let (mut ranges, mut bytes) = (0, 0);
        for descriptor in self.active.queue.chain(memory, head) {
            let descriptor = descriptor?;
            if !descriptor.writable {
                return Err(Fault("a receive buffer that is only to be read".to_owned()));
            }
            // One more may become two where regions of memory meet.
            if ranges + 1 < RANGES_OF_CHAIN {
                let added = self.ranges.push(descriptor.address, descriptor.len);
                ranges += added.map_err(|error| Fault::new(&error))?;
                // The walk bounds the sum.
                bytes += descriptor.len;
            }
        }
        if bytes < HEADER {
            return Err(Fault(format!("a receive buffer of {bytes} bytes")));
        }
        self.chains.push_back(Taken {
            head,
            ranges,
            bytes,
        });
        Ok(())
    }

    /// A frame of `len` bytes with header has been read; the first `room` are in the chains.
    fn arrived(
        &mut self,
        port: &mut Port,
        len: u64,
        room: u64,
        memory: &GuestMemory,
    ) -> Result<(), Fault> {
        let stats = &port.shared.stats;
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let too_long = u64::from(len) >= room + self.overflow.len() as u64;
        let mergeable = port.features & F_MRG_RXBUF != 0;
        if len < HEADER || too_long || len > HEADER + FRAME_MAX {
            add(&stats.rx_dropped, 1);
            return Ok(());
        }
        port.rx_charge(len - HEADER);
        if !self.passes(port, len, room) {
            add(&port.shared.stats.rx_filtered, 1);
            return Ok(());
        }
        if u64::from(len) <= room {
            return self.deliver(port, len, memory);
        }
        if mergeable {
            self.held = Some(Held { len, inside: room });
        } else {
            add(&port.shared.stats.rx_dropped, 1);
        }
        Ok(())
    }

    /// Whether the driver wants the frame just read.
    fn passes(&self, port: &Port, len: u32, room: u64) -> bool {
        let filter = &port.setup.filter;
        if filter.passes_all() {
            return true;
        }
        let mut start = [0; SEEN];
        let seen = SEEN.min((len - HEADER) as usize);
        let Some(start) = start.get_mut(..seen) else {
            return false;
        };
        // Chains hold a header at least; the rest may be in our own buffer.
        let here = usize::try_from(room - u64::from(HEADER)).map_or(seen, |here| here.min(seen));
        let (inside, outside) = start.split_at_mut(here);
        let read = self.ranges.read(u64::from(HEADER), inside);
        let rest = self.overflow.get(..outside.len()).unwrap_or_default();
        outside.copy_from_slice(rest);
        read && filter.passes(start)
    }

    /// Tries to find room for the frame that waits. False: the driver will notify of more.
    fn complete(
        &mut self,
        port: &mut Port,
        held: Held,
        memory: &GuestMemory,
    ) -> Result<bool, Fault> {
        let Held { len, inside } = held;
        loop {
            self.refill(port, len, memory)?;
            if self.ranges.bytes() >= u64::from(len) {
                break;
            }
            let all = self.chains.len() >= usize::from(self.active.queue.size());
            if all || self.ranges.count() > RANGES_MAX - RANGES_OF_CHAIN {
                // The driver has no more to give.
                self.held = None;
                add(&port.shared.stats.rx_dropped, 1);
                return Ok(true);
            }
            if !self.active.queue.enable_notification(memory)? {
                add(&port.shared.stats.rx_starved, 1);
                return Ok(false);
            }
            self.active.queue.disable_notification(memory)?;
        }
        self.held = None;
        let outside = (u64::from(len) - inside) as usize;
        let rest = self.overflow.get(..outside).unwrap_or_default();
        if !self.ranges.write(inside, rest) {
            return Err(Fault("a receive buffer has gone".to_owned()));
        }
        self.deliver(port, len, memory)?;
        Ok(true)
    }

    /// Gives the driver the frame of `len` bytes that lies in the first chains.
    fn deliver(&mut self, port: &Port, len: u32, memory: &GuestMemory) -> Result<(), Fault> {
        let (mut count, mut left) = (0_u16, len);
        for chain in &self.chains {
            let written = chain.bytes.min(left);
            self.active
                .queue
                .place_used(memory, count, chain.head, written)?;
            count += 1;
            left -= written;
            if left == 0 {
                break;
            }
        }
        // 5.1.6.4.1: set also where it can only be 1, and no flags without GUEST_CSUM.
        let mut written = self.ranges.write(NUM_BUFFERS, &count.to_le_bytes());
        if port.features & F_GUEST_CSUM == 0 {
            written &= self.ranges.write(0, &[0]);
        }
        if !written {
            return Err(Fault("a receive buffer has gone".to_owned()));
        }
        self.active.queue.publish_used(memory, count)?;
        let used = self.chains.drain(..usize::from(count));
        let ranges = used.map(|chain| chain.ranges).sum();
        self.ranges.remove(ranges);
        let stats = &port.shared.stats;
        add(&stats.rx_frames, 1);
        add(&stats.rx_bytes, u64::from(len - HEADER));
        Ok(())
    }

    /// With the cable unplugged: takes a frame and forgets it.
    fn discard(&mut self, port: &mut Port, number: u16) -> Option<Next> {
        let stats = &port.shared.stats;
        if self.held.take().is_some() {
            add(&stats.rx_dropped, 1);
        }
        self.nowhere.clear();
        let taken = port
            .backend
            .receive(number, &mut self.nowhere, &mut self.overflow);
        match taken {
            Ok(_) => {
                add(&stats.rx_dropped, 1);
                None
            }
            Err(error) => Some(after(port, &error)),
        }
    }
}

/// What follows when no frame could be read.
fn after(port: &mut Port, error: &io::Error) -> Next {
    if error.kind() == io::ErrorKind::WouldBlock {
        return Next::Frames;
    }
    port.lose(error);
    Next::Nothing
}

/// Bytes to have room for before a frame is read.
fn wanted(port: &Port) -> u32 {
    if port.takes_long_frames() {
        return HEADER + FRAME_MAX;
    }
    let mtu = port.shared.options.mtu.map_or(0, u32::from);
    // Ethernet's header and two tags.
    PLAIN_FRAME.max(HEADER + 22 + mtu)
}
