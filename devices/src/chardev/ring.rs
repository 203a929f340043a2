//! A bounded byte ring: output that has not been sent yet and, before it, output that has, kept
//! for a reader who comes late. Pure.

use std::collections::VecDeque;

/// The last `capacity` bytes pushed, of which the newest may be unsent.
#[derive(Debug)]
pub struct ReplayRing {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// How many of the newest bytes are unsent; never more than there are.
    unsent: usize,
    keep_sent: bool,
}

impl ReplayRing {
    /// An empty ring of `capacity` bytes. Without `keep_sent` bytes are forgotten once sent, and
    /// there is nothing to [`rewind`](Self::rewind) to.
    #[must_use]
    pub fn new(capacity: usize, keep_sent: bool) -> Self {
        Self {
            bytes: VecDeque::new(),
            capacity,
            unsent: 0,
            keep_sent,
        }
    }

    /// Appends an unsent byte. Returns whether it fits; if not, the oldest unsent byte is lost.
    #[must_use]
    pub fn push(&mut self, byte: u8) -> bool {
        let fits = self.unsent < self.capacity;
        if self.bytes.len() >= self.capacity {
            self.bytes.pop_front();
        }
        self.bytes.push_back(byte);
        self.unsent = self.capacity.min(self.unsent + 1);
        fits
    }

    /// Bytes that [`push`](Self::push) takes without losing one.
    #[must_use]
    pub fn room(&self) -> usize {
        self.capacity - self.unsent
    }

    /// The oldest unsent bytes, as far as they lie in one piece. Empty only when all is sent.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        let (front, back) = self.bytes.as_slices();
        let sent = self.bytes.len() - self.unsent;
        match front.get(sent..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => back
                .get(sent.saturating_sub(front.len())..)
                .unwrap_or_default(),
        }
    }

    /// The oldest `count` unsent bytes have been sent.
    pub fn sent(&mut self, count: usize) {
        let count = count.min(self.unsent);
        self.unsent -= count;
        if !self.keep_sent {
            self.bytes.drain(..count);
        }
    }

    /// Nobody wants the unsent bytes: they count as sent.
    pub fn discard(&mut self) {
        self.sent(self.unsent);
    }

    /// The last `limit` bytes kept are unsent again.
    pub fn rewind(&mut self, limit: usize) {
        self.unsent = self.bytes.len().min(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(ring: &mut ReplayRing) -> Vec<u8> {
        let mut all = Vec::new();
        while !ring.unsent().is_empty() {
            // An odd size, so that pieces do not line up with the ring's ends.
            let piece = ring.unsent().len().min(3);
            all.extend_from_slice(&ring.unsent()[..piece]);
            ring.sent(piece);
        }
        all
    }

    #[test]
    fn what_goes_in_comes_out_once() {
        for keep in [false, true] {
            let mut ring = ReplayRing::new(8, keep);
            assert_eq!((ring.unsent(), ring.room()), (&[][..], 8));
            let mut next = 0;
            for burst in [1, 5, 8, 3, 8, 7, 2] {
                let expected: Vec<u8> = (next..next + burst).collect();
                for byte in &expected {
                    assert!(ring.push(*byte));
                }
                assert_eq!(ring.room(), 8 - usize::from(burst));
                assert_eq!(drain(&mut ring), expected);
                next += burst;
            }
        }
    }

    #[test]
    fn the_oldest_are_lost_when_full() {
        let mut ring = ReplayRing::new(4, true);
        let fits: Vec<bool> = (0..6).map(|byte| ring.push(byte)).collect();
        assert_eq!(fits, [true, true, true, true, false, false]);
        assert_eq!(ring.room(), 0);
        assert_eq!(drain(&mut ring), [2, 3, 4, 5]);
    }

    #[test]
    fn a_late_reader_gets_the_last_bytes_again() {
        let mut ring = ReplayRing::new(4, true);
        for byte in 0..3 {
            assert!(ring.push(byte));
        }
        ring.discard();
        assert!(ring.unsent().is_empty());
        for byte in 3..6 {
            assert!(ring.push(byte));
        }
        ring.sent(2);
        ring.rewind(4);
        assert_eq!(drain(&mut ring), [2, 3, 4, 5]);
        ring.sent(100);
        ring.rewind(3);
        assert_eq!(drain(&mut ring), [3, 4, 5]);

        let mut forgetful = ReplayRing::new(4, false);
        assert!(forgetful.push(1));
        forgetful.discard();
        forgetful.rewind(4);
        assert!(forgetful.unsent().is_empty());
    }
}
