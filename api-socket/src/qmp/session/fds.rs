//! Which command a descriptor belongs to.
//!
//! Clients send a descriptor with the bytes of its command (libvirt) or with a lone space ahead of
//! it (qemu.qmp). QEMU keeps the descriptors of the latest such message until a command takes
//! them, and because it reads single bytes it knows where each message began. We read in bulk: a
//! read that brings descriptors ends with the message they came with, but may begin with bytes sent
//! before it. Where that leaves a choice between older descriptors and those of this read, a
//! command takes the older ones if more follows it in the read (another command, or a last byte
//! that is a space), and otherwise its own.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

/// Descriptors that may be pending, and again as many that came with bytes not parsed yet.
pub const MAX_FDS: usize = 16;

/// Descriptors of one read, and how many of its bytes are still to be parsed.
#[derive(Debug)]
struct Arrival {
    /// Bytes between the end of the parsed input and the start of the read.
    ahead: usize,
    /// Bytes of the read not parsed yet.
    left: usize,
    fds: Vec<OwnedFd>,
}

/// Descriptors on their way from the socket to commands.
#[derive(Debug, Default)]
pub(super) struct FdInput {
    /// Of reads that are parsed to their end.
    pending: Vec<OwnedFd>,
    /// Of reads that are not, in order.
    arrivals: VecDeque<Arrival>,
    /// Bytes come and not parsed yet.
    unparsed: usize,
}

impl FdInput {
    /// Notes a read of `length` bytes that brought `fds`. Dropping a descriptor closes it.
    pub(super) fn arrived(&mut self, length: usize, mut fds: Vec<OwnedFd>) {
        fds.truncate(MAX_FDS.saturating_sub(self.unparsed_fds()));
        if !fds.is_empty() {
            self.arrivals.push_back(Arrival {
                ahead: self.unparsed,
                left: length,
                fds,
            });
        }
        self.unparsed += length;
    }

    fn unparsed_fds(&self) -> usize {
        self.arrivals.iter().map(|arrival| arrival.fds.len()).sum()
    }

    /// Whether the parser is to catch up before more descriptors are let in.
    pub(super) fn full(&self) -> bool {
        self.unparsed_fds() >= MAX_FDS
    }

    /// Notes that `count` more bytes have been parsed.
    pub(super) fn passed(&mut self, count: usize) {
        self.unparsed = self.unparsed.saturating_sub(count);
        for arrival in &mut self.arrivals {
            let outside = count.min(arrival.ahead);
            arrival.ahead -= outside;
            arrival.left = arrival.left.saturating_sub(count - outside);
        }
        while self
            .arrivals
            .front()
            .is_some_and(|arrival| arrival.left == 0)
        {
            let Some(arrival) = self.arrivals.pop_front() else {
                return;
            };
            // Taken ones leave an empty list behind, which replaces nothing.
            if !arrival.fds.is_empty() {
                self.pending = arrival.fds;
            }
        }
    }

    /// Takes the descriptors meant for a command whose last bytes are the next `count` of the
    /// input, with `rest` after it.
    pub(super) fn take(&mut self, count: usize, rest: &[u8]) -> Vec<OwnedFd> {
        // Reads that end inside the command have become its own.
        let mut own = None;
        for arrival in &mut self.arrivals {
            let before_end = count.saturating_sub(arrival.ahead);
            if before_end == 0 {
                break;
            }
            let followed = match before_end.cmp(&arrival.left) {
                std::cmp::Ordering::Less => {
                    let tail = rest.get(..arrival.left - before_end).unwrap_or(rest);
                    tail.last() == Some(&b' ') || !tail.trim_ascii().is_empty()
                }
                _ => false,
            };
            let older = own.is_some() || !self.pending.is_empty();
            if followed && older {
                break;
            }
            if !arrival.fds.is_empty() {
                own = Some(std::mem::take(&mut arrival.fds));
            }
        }
        let pending = std::mem::take(&mut self.pending);
        own.unwrap_or(pending)
    }

    /// Makes `fds` pending again, unless others are by now.
    pub(super) fn give_back(&mut self, fds: Vec<OwnedFd>) {
        if self.pending.is_empty() {
            self.pending = fds;
        }
    }
}
