//! The receive queue: buffers of the guest's, filled with packets.
//!
//! Data is read from the host's sockets straight into several buffers with one call, the headers'
//! places left out and filled in afterwards; buffers that were not needed go back into the queue.

use std::os::fd::AsRawFd;
use std::os::fd::RawFd;

use vm_memory::{Bytes, GuestAddress};

use super::packet::{HEADER_LEN, Header};
use crate::disk::buffers::GuestBuffers;
use crate::io_thread::Fault;
use crate::memory::SharedMemory;
use crate::virtio::chain::ChainBuffers;
use crate::virtio::device::{ActiveQueue, QueuePosition};
use crate::virtio::interrupt::Interrupt;

/// Most buffers filled by one read. Linux's are of 4 KiB.
const CHAINS_MAX: usize = 64;

/// A buffer taken from the queue.
struct Taken {
    head: u16,
    /// Bytes of data that were asked for in it.
    room: u32,
    /// Where in `Rx::headers` the ranges of its header end.
    headers_end: usize,
}

/// The receive queue.
pub(super) struct Rx {
    memory: SharedMemory,
    queue: ActiveQueue,
    /// The guest is to notify when it adds buffers.
    waiting: bool,
    taken: Vec<Taken>,
    /// Places of the headers of all that is taken: address and length.
    headers: Vec<(u64, u32)>,
    /// Places of the data.
    data: GuestBuffers,
    chain: ChainBuffers,
}

impl Rx {
    pub(super) fn new(memory: SharedMemory, queue: ActiveQueue) -> Self {
        Self {
            queue,
            waiting: false,
            taken: Vec::with_capacity(CHAINS_MAX),
            headers: Vec::with_capacity(CHAINS_MAX),
            data: GuestBuffers::new(memory.clone()),
            chain: ChainBuffers::new(),
            memory,
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.queue.doorbell.as_raw_fd()
    }

    pub(super) fn position(&self) -> QueuePosition {
        (self.queue.index, self.queue.queue.position())
    }

    /// Empties the doorbell: whoever has something for the guest looks at the queue after this.
    pub(super) fn hear(&self) {
        // Fails if it had not rung.
        drop(self.queue.doorbell.read());
    }

    /// Rings the doorbell, so that the worker is woken again after others had their turn.
    pub(super) fn ring(&self) {
        // Fails only when its counter is full: it is signalled then.
        drop(self.queue.doorbell.write(1));
    }

    pub(super) fn signal(&mut self, interrupt: &Interrupt) -> Result<(), Fault> {
        self.queue.signal(&self.memory, interrupt)
    }

    /// Takes the next buffer; `None` when the guest has to give more, which it will then notify of.
    fn pop(&mut self) -> Result<Option<u16>, Fault> {
        loop {
            if let Some(head) = self.queue.queue.pop(&self.memory)? {
                if self.waiting {
                    self.waiting = false;
                    self.queue.queue.disable_notification(&self.memory)?;
                }
                return Ok(Some(head));
            }
            self.waiting = true;
            if !self.queue.queue.enable_notification(&self.memory)? {
                return Ok(None);
            }
        }
    }

    /// Sends a packet with a copy of the front of `data`, as much as fits the next buffer. `header`
    /// makes the header for so many bytes. Answers how many; `None` without a buffer.
    pub(super) fn send(
        &mut self,
        data: &[u8],
        header: impl FnOnce(u32) -> Header,
    ) -> Result<Option<u32>, Fault> {
        let Some(head) = self.pop()? else {
            return Ok(None);
        };
        let chain = self.queue.queue.chain(&self.memory, head);
        self.chain.collect(chain)?;
        let mut writer = self.chain.writable(&self.memory);
        let room = room(writer.remaining())?;
        let count = u32::try_from(data.len()).unwrap_or(u32::MAX).min(room);
        let short = |error| Fault::new(&error);
        writer.write(&header(count).encode()).map_err(short)?;
        let front = usize::try_from(count).ok().and_then(|n| data.get(..n));
        writer.write(front.unwrap_or_default()).map_err(short)?;
        self.queue
            .queue
            .push_used(&self.memory, head, HEADER_LEN + count)?;
        Ok(Some(count))
    }

    /// Takes buffers for up to `wanted` bytes of data, at least one, and answers for how many there
    /// is room; `None` without a buffer. To be followed by [`Self::finish`].
    pub(super) fn take(&mut self, wanted: u32) -> Result<Option<u32>, Fault> {
        self.taken.clear();
        self.headers.clear();
        self.data.clear();
        let mut left = wanted;
        while left > 0 && self.taken.len() < CHAINS_MAX {
            // With a buffer in hand there is no need to be notified of the next.
            let head = if self.taken.is_empty() {
                self.pop()?
            } else {
                self.queue.queue.pop(&self.memory)?
            };
            let Some(head) = head else { break };
            let chain = self.queue.queue.chain(&self.memory, head);
            self.chain.collect(chain)?;
            let mut writer = self.chain.writable(&self.memory);
            let room = room(writer.remaining())?.min(left);
            let short = |error| Fault::new(&error);
            let header = writer.take(HEADER_LEN).map_err(short)?;
            header.ranges(|address, len| self.headers.push((address, len)));
            let data = writer.take(room).map_err(short)?;
            data.append_to(&mut self.data).map_err(short)?;
            self.taken.push(Taken {
                head,
                room,
                headers_end: self.headers.len(),
            });
            left -= room;
        }
        Ok((!self.taken.is_empty()).then_some(wanted - left))
    }

    /// Where the data goes that there is room for.
    pub(super) fn data(&mut self) -> &mut GuestBuffers {
        &mut self.data
    }

    /// Sends the first `len` bytes of what lies in the data's places, a packet per buffer, and puts
    /// the other buffers back. Answers the number of packets.
    pub(super) fn finish(
        &mut self,
        len: u32,
        mut header: impl FnMut(u32) -> Header,
    ) -> Result<u32, Fault> {
        let mut left = len;
        let mut packets = 0;
        let mut headers_begin = 0;
        let mut unused = 0;
        for taken in &self.taken {
            let count = left.min(taken.room);
            if count == 0 {
                unused += 1;
                continue;
            }
            let bytes = header(count).encode();
            let mut rest = &bytes[..];
            let ranges = self.headers.get(headers_begin..taken.headers_end);
            for &(address, len) in ranges.unwrap_or_default() {
                let split = usize::try_from(len).unwrap_or(usize::MAX);
                let (now, later) = rest.split_at_checked(split).unwrap_or((rest, &[]));
                self.memory
                    .write_slice(now, GuestAddress(address))
                    .map_err(|error| Fault::new(&error))?;
                rest = later;
            }
            headers_begin = taken.headers_end;
            self.queue
                .queue
                .push_used(&self.memory, taken.head, HEADER_LEN + count)?;
            left -= count;
            packets += 1;
        }
        self.queue.queue.put_back(unused);
        self.taken.clear();
        Ok(packets)
    }
}

/// Bytes for data in a buffer.
fn room(bytes: u32) -> Result<u32, Fault> {
    match bytes.checked_sub(HEADER_LEN) {
        Some(room) if room > 0 => Ok(room),
        _ => Err(Fault(format!(
            "a receive buffer of {bytes} bytes has no room for data"
        ))),
    }
}
