//! The guest's data that the host has not taken yet, of one connection.
//!
//! Bounded by the credit that the guest was given: whoever adds checks that first. Nothing is kept
//! while it is empty, so that idle connections cost no memory. A message costs four bytes more, so
//! that messages of one byte take up five times their credit, and a growing list twice as much for
//! a moment.

use std::collections::VecDeque;

use crate::io_thread::Fault;
use crate::virtio::chain::Reader;

/// Consumed bytes are left at the front until there are so many, and at least as many as are not.
const COMPACT_BYTES: usize = 64 << 10;

/// Bytes in order, and for messages where each ends.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// How many of `bytes` are consumed.
    start: usize,
    /// Lengths of the whole messages; what is beyond them belongs to one that is not whole.
    messages: VecDeque<u32>,
    /// Length of the part that is not whole.
    partial: u32,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Adds all that `data` has, as bytes of a stream or of the message that is not whole.
    ///
    /// # Errors
    /// Never after a walk that succeeded.
    pub(super) fn push(&mut self, mut data: Reader<'_>) -> Result<(), Fault> {
        let end = self.bytes.len();
        let count = data.remaining();
        let more = usize::try_from(count).unwrap_or(usize::MAX);
        self.bytes.resize(end.saturating_add(more), 0);
        let room = self.bytes.get_mut(end..).unwrap_or_default();
        data.read(room).map_err(|error| Fault::new(&error))?;
        self.partial = self.partial.saturating_add(count);
        Ok(())
    }

    /// The message that is not whole is so now. One without bytes is none: on the host it would
    /// look like the end.
    pub(super) fn end_message(&mut self) {
        if self.partial > 0 {
            self.messages.push_back(self.partial);
            self.partial = 0;
        }
    }

    /// The bytes of a stream.
    pub(super) fn stream(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// The first whole message.
    pub(super) fn message(&self) -> Option<&[u8]> {
        let length = usize::try_from(*self.messages.front()?).ok()?;
        self.stream().get(..length)
    }

    /// Drops the first whole message, and answers its length.
    pub(super) fn pop_message(&mut self) -> u32 {
        let length = self.messages.pop_front().unwrap_or(0);
        self.drop_bytes(usize::try_from(length).unwrap_or(usize::MAX));
        length
    }

    /// Drops the first `count` bytes of a stream.
    pub(super) fn consume(&mut self, count: usize) {
        let count = count.min(self.stream().len());
        self.partial = self
            .partial
            .saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        self.drop_bytes(count);
    }

    fn drop_bytes(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.bytes.len());
        if self.is_empty() {
            self.bytes = Vec::new();
            self.start = 0;
            if self.messages.is_empty() {
                self.messages = VecDeque::new();
            }
        } else if self.start >= COMPACT_BYTES && self.start >= self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::chain::ChainBuffers;
    use crate::virtio::fake_driver::{DATA, DriverQueue, memory, readable};
    use crate::virtio::queue::{Layout, Position, Queue};
    use vm_memory::{Bytes, GuestAddress};

    /// Adds `bytes` by way of guest memory.
    fn push(backlog: &mut Backlog, bytes: &[u8]) {
        let memory = memory();
        memory.write_slice(bytes, GuestAddress(DATA)).unwrap();
        let mut driver = DriverQueue::new(memory.clone(), 0, 4);
        let head = driver.add(&[readable(DATA, u32::try_from(bytes.len()).unwrap())]);
        let layout = Layout {
            size: 4,
            desc: driver.desc,
            avail: driver.avail,
            used: driver.used,
        };
        let queue = Queue::new(&memory, layout, Position::default(), 0).unwrap();
        let mut chain = ChainBuffers::new();
        chain.collect(queue.chain(&memory, head)).unwrap();
        backlog.push(chain.readable(&memory)).unwrap();
    }

    #[test]
    fn a_stream_comes_out_as_it_went_in_and_leaves_nothing() {
        let mut backlog = Backlog::default();
        let mut expected = Vec::new();
        for round in 0..100_u8 {
            let part = vec![round; 3000];
            push(&mut backlog, &part);
            expected.extend(part);
            let count = backlog.stream().len() / 2;
            assert_eq!(backlog.stream()[..count], expected[..count]);
            expected.drain(..count);
            backlog.consume(count);
            assert!(backlog.bytes.len() <= 2 * COMPACT_BYTES);
        }
        backlog.consume(usize::MAX);
        assert!(backlog.is_empty());
        assert_eq!((backlog.bytes.capacity(), backlog.partial), (0, 0));
    }

    #[test]
    fn messages_keep_their_ends() {
        let mut backlog = Backlog::default();
        backlog.end_message();
        assert_eq!(backlog.message(), None);
        push(&mut backlog, b"one");
        assert_eq!(backlog.message(), None);
        push(&mut backlog, b"two");
        backlog.end_message();
        push(&mut backlog, b"x");
        backlog.end_message();
        push(&mut backlog, b"part");
        assert_eq!(backlog.message(), Some(&b"onetwo"[..]));
        assert_eq!(backlog.pop_message(), 6);
        assert_eq!(backlog.message(), Some(&b"x"[..]));
        assert_eq!(backlog.pop_message(), 1);
        assert_eq!(backlog.message(), None);
        backlog.end_message();
        assert_eq!(backlog.pop_message(), 4);
        assert!(backlog.is_empty());
    }
}
