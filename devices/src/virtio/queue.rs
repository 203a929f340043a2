//! The device's side of a split virtqueue (virtio 1.2, 2.7): takes heads from the available ring,
//! puts them into the used ring, and decides when to notify.
//!
//! Owned by a worker, used on the I/O thread only. The `virtio-queue` crate is not used because it
//! treats rubbish as an empty queue: its iterator ends at a malformed descriptor as if the chain
//! were complete, `pop_descriptor_chain` answers "nothing" to an impossible available index, and
//! it logs both at the guest's pace. Here each is an error.
//!
//! Every access goes through guest-physical addresses and `vm-memory`; nothing is cached that the
//! guest could change meanwhile.

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::chain::{Chain, Table};
use super::spec::{
    AVAIL_F_NO_INTERRUPT, DESC_SIZE, F_EVENT_IDX, F_INDIRECT_DESC, QUEUE_SIZE_MAX, USED_F_NO_NOTIFY,
};
use crate::io_thread::Fault;
use crate::memory::GuestMemory;

/// Bytes before the ring array in both rings: flags and index.
const RING_HEADER: u64 = 4;
/// Offset of the index in both rings; the flags are at 0.
const RING_INDEX: u64 = 2;
/// Bytes of an entry of the available ring.
const AVAIL_ENTRY: u64 = 2;
/// Bytes of an entry of the used ring.
const USED_ENTRY: u64 = 8;
/// Bytes after the ring array in both rings: the event index.
const RING_TRAILER: u64 = 2;

/// Where a driver put a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layout {
    /// Entries: a power of two up to [`QUEUE_SIZE_MAX`].
    pub size: u16,
    /// Guest-physical address of the descriptor table, a multiple of 16.
    pub desc: u64,
    /// Guest-physical address of the available ring, a multiple of 2.
    pub avail: u64,
    /// Guest-physical address of the used ring, a multiple of 4.
    pub used: u64,
}

/// How far a device got in a queue. Both count modulo 65536 and are independent of the queue's
/// size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Available entries taken.
    pub next_avail: u16,
    /// Used entries written.
    pub next_used: u16,
}

/// Why a queue cannot be used, or not any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// Not a power of two, zero, or above the limit.
    #[error("queue size {0} is not a power of two of at most {QUEUE_SIZE_MAX}")]
    Size(u16),
    /// A part of the queue is not aligned as it must be.
    #[error("the {part} at {address:#x} is not aligned")]
    Alignment {
        /// Which part.
        part: &'static str,
        /// Where the driver put it.
        address: u64,
    },
    /// A part of the queue does not lie in RAM.
    #[error("the {part} at {address:#x} is not in guest memory")]
    OutsideMemory {
        /// Which part.
        part: &'static str,
        /// Where the driver put it.
        address: u64,
    },
    /// The driver claims to have made more available than fits.
    #[error("available index {index} is more than a queue ahead of {taken}")]
    AvailableIndex {
        /// What the ring says.
        index: u16,
        /// How many entries the device has taken.
        taken: u16,
    },
    /// An entry of the available ring names no descriptor.
    #[error("available entry names descriptor {head} of {size}")]
    Head {
        /// What the entry says.
        head: u16,
        /// The queue's size.
        size: u16,
    },
}

impl From<QueueError> for Fault {
    fn from(error: QueueError) -> Self {
        Self::new(&error)
    }
}

/// A queue in use.
#[derive(Debug, PartialEq, Eq)]
pub struct Queue {
    layout: Layout,
    next_avail: Wrapping<u16>,
    next_used: Wrapping<u16>,
    event_idx: bool,
    indirect: bool,
    /// `next_used` when the driver's wish for an interrupt was last looked at; `None` until then,
    /// so that the first used buffer after a start or a restore is always told.
    signalled: Option<Wrapping<u16>>,
}

impl Queue {
    /// A queue laid out as `layout` says, to go on at `position`, with the negotiated `features`.
    ///
    /// # Errors
    /// [`QueueError::Size`], [`QueueError::Alignment`], [`QueueError::OutsideMemory`].
    pub fn new(
        memory: &GuestMemory,
        layout: Layout,
        position: Position,
        features: u64,
    ) -> Result<Self, QueueError> {
        let Layout {
            size,
            desc,
            avail,
            used,
        } = layout;
        if !size.is_power_of_two() || size > QUEUE_SIZE_MAX {
            return Err(QueueError::Size(size));
        }
        let n = u64::from(size);
        let parts = [
            ("descriptor table", desc, 16, n * DESC_SIZE),
            (
                "available ring",
                avail,
                2,
                RING_HEADER + n * AVAIL_ENTRY + RING_TRAILER,
            ),
            (
                "used ring",
                used,
                4,
                RING_HEADER + n * USED_ENTRY + RING_TRAILER,
            ),
        ];
        for (part, address, align, len) in parts {
            if address % align != 0 {
                return Err(QueueError::Alignment { part, address });
            }
            if !in_memory(memory, address, len) {
                return Err(QueueError::OutsideMemory { part, address });
            }
        }
        Ok(Self {
            layout,
            next_avail: Wrapping(position.next_avail),
            next_used: Wrapping(position.next_used),
            event_idx: features & F_EVENT_IDX != 0,
            indirect: features & F_INDIRECT_DESC != 0,
            signalled: None,
        })
    }

    /// How far the device got.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            next_avail: self.next_avail.0,
            next_used: self.next_used.0,
        }
    }

    /// Entries of the queue.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// Takes the next available chain's head. `None` when the driver has made nothing more
    /// available.
    ///
    /// # Errors
    /// [`QueueError::AvailableIndex`], [`QueueError::Head`]: the queue is not to be used further.
    pub fn pop(&mut self, memory: &GuestMemory) -> Result<Option<u16>, QueueError> {
        let pending = self.pending(memory)?;
        if pending == 0 {
            return Ok(None);
        }
        let slot = u64::from(self.next_avail.0 & (self.layout.size - 1));
        let entry = self.layout.avail + RING_HEADER + slot * AVAIL_ENTRY;
        // Not before the index, whose load was an acquire.
        let head = load(memory, "available ring", entry, Ordering::Relaxed)?;
        if head >= self.layout.size {
            return Err(QueueError::Head {
                head,
                size: self.layout.size,
            });
        }
        self.next_avail += 1;
        Ok(Some(head))
    }

    /// Puts the last `count` chains back that [`Self::pop`] gave and that were not used, so that it
    /// gives them again.
    pub fn put_back(&mut self, count: u16) {
        self.next_avail -= count;
    }

    /// The descriptors of the chain that starts at `head`.
    #[must_use]
    pub fn chain<'m>(&self, memory: &'m GuestMemory, head: u16) -> Chain<'m> {
        let table = Table {
            address: self.layout.desc,
            entries: self.layout.size,
        };
        Chain::new(memory, table, head, self.indirect)
    }

    /// Gives a chain back to the driver; `written` bytes of its writable part were written.
    ///
    /// # Errors
    /// [`QueueError::OutsideMemory`], which [`Queue::new`] has ruled out.
    pub fn push_used(
        &mut self,
        memory: &GuestMemory,
        head: u16,
        written: u32,
    ) -> Result<(), QueueError> {
        self.place_used(memory, 0, head, written)?;
        self.publish_used(memory, 1)
    }

    /// Writes the used entry `ahead` places after the last one published, for chains that the
    /// driver must see together or not at all. To be followed by [`Queue::publish_used`].
    ///
    /// # Errors
    /// [`QueueError::OutsideMemory`], which [`Queue::new`] has ruled out.
    pub fn place_used(
        &mut self,
        memory: &GuestMemory,
        ahead: u16,
        head: u16,
        written: u32,
    ) -> Result<(), QueueError> {
        let place = self.next_used + Wrapping(ahead);
        let slot = u64::from(place.0 & (self.layout.size - 1));
        let entry = self.layout.used + RING_HEADER + slot * USED_ENTRY;
        let element = u64::from(head) | u64::from(written) << 32;
        let outside = |_| QueueError::OutsideMemory {
            part: "used ring",
            address: entry,
        };
        memory
            .write_slice(&element.to_le_bytes(), GuestAddress(entry))
            .map_err(outside)
    }

    /// Shows the driver the `count` entries placed by [`Queue::place_used`].
    ///
    /// # Errors
    /// [`QueueError::OutsideMemory`], which [`Queue::new`] has ruled out.
    pub fn publish_used(&mut self, memory: &GuestMemory, count: u16) -> Result<(), QueueError> {
        self.next_used += count;
        // Release: the driver must see the elements, and the data, before the index.
        self.store_used(memory, RING_INDEX, self.next_used.0, Ordering::Release)
    }

    /// Whether the driver wants an interrupt for what was pushed since the last call.
    ///
    /// # Errors
    /// [`QueueError::OutsideMemory`], which [`Queue::new`] has ruled out.
    pub fn should_signal(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        let new = self.next_used;
        let old = self.signalled.replace(new);
        if old == Some(new) {
            return Ok(false);
        }
        // The used index was written before the driver's wish is read. Without the fence both
        // sides could miss each other: the driver re-arms and sees no new index, the device reads
        // the wish from before.
        fence(Ordering::SeqCst);
        let part = "available ring";
        if !self.event_idx {
            let flags = load(memory, part, self.layout.avail, Ordering::Relaxed)?;
            return Ok(flags & AVAIL_F_NO_INTERRUPT == 0);
        }
        let Some(old) = old else { return Ok(true) };
        let n = u64::from(self.layout.size);
        let at = self.layout.avail + RING_HEADER + n * AVAIL_ENTRY;
        let event = Wrapping(load(memory, part, at, Ordering::Relaxed)?);
        // 2.7.10: the index moved past the one the driver waits for.
        Ok(new - event - Wrapping(1) < new - old)
    }

    /// Asks the driver not to notify while the queue is being worked on. Only a hint.
    ///
    /// # Errors
    /// [`QueueError::OutsideMemory`], which [`Queue::new`] has ruled out.
    pub fn disable_notification(&mut self, memory: &GuestMemory) -> Result<(), QueueError> {
        if self.event_idx {
            // Behind everything the driver will make available, until it comes around.
            let behind = (self.next_avail - Wrapping(1)).0;
            return self.store_used(memory, self.event_offset(), behind, Ordering::Relaxed);
        }
        self.store_used(memory, 0, USED_F_NO_NOTIFY, Ordering::Relaxed)
    }

    /// Asks the driver to notify for the next chain. Answers whether one has come already: then
    /// the queue must be looked at again, as no notification may follow.
    ///
    /// # Errors
    /// [`QueueError::AvailableIndex`].
    pub fn enable_notification(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        if self.event_idx {
            let next = self.next_avail.0;
            self.store_used(memory, self.event_offset(), next, Ordering::Relaxed)?;
        } else {
            self.store_used(memory, 0, 0, Ordering::Relaxed)?;
        }
        // The wish is written before the index is read again: the mirror image of should_signal.
        fence(Ordering::SeqCst);
        Ok(self.pending(memory)? != 0)
    }

    /// Where the index is, in the used ring, past which the driver is to notify.
    fn event_offset(&self) -> u64 {
        RING_HEADER + u64::from(self.layout.size) * USED_ENTRY
    }

    /// Chains made available and not yet taken.
    fn pending(&self, memory: &GuestMemory) -> Result<u16, QueueError> {
        let at = self.layout.avail + RING_INDEX;
        // Acquire: what the driver wrote before the index is read after it.
        let index = load(memory, "available ring", at, Ordering::Acquire)?;
        let pending = (Wrapping(index) - self.next_avail).0;
        if pending > self.layout.size {
            return Err(QueueError::AvailableIndex {
                index,
                taken: self.next_avail.0,
            });
        }
        Ok(pending)
    }

    /// Stores a 16-bit field of the used ring.
    fn store_used(
        &self,
        memory: &GuestMemory,
        offset: u64,
        value: u16,
        order: Ordering,
    ) -> Result<(), QueueError> {
        let address = self.layout.used + offset;
        memory
            .store(value.to_le(), GuestAddress(address), order)
            .map_err(|_| QueueError::OutsideMemory {
                part: "used ring",
                address,
            })
    }
}

/// Whether `len` bytes at `address` are RAM, all of them.
pub(super) fn in_memory(memory: &GuestMemory, address: u64, len: u64) -> bool {
    let Ok(count) = usize::try_from(len) else {
        return false;
    };
    address.checked_add(len).is_some()
        && GuestMemoryBackend::check_range(memory, GuestAddress(address), count)
}

fn load(
    memory: &GuestMemory,
    part: &'static str,
    address: u64,
    order: Ordering,
) -> Result<u16, QueueError> {
    memory
        .load(GuestAddress(address), order)
        .map(u16::from_le)
        .map_err(|_| QueueError::OutsideMemory { part, address })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::fake_driver::{DATA, DriverQueue, MEMORY_LEN, memory, readable};

    fn layout(driver: &DriverQueue) -> Layout {
        let DriverQueue {
            size,
            desc,
            avail,
            used,
            ..
        } = *driver;
        Layout {
            size,
            desc,
            avail,
            used,
        }
    }

    /// A queue of 8 that both sides have gone through almost once around.
    fn pair(features: u64) -> (crate::memory::SharedMemory, DriverQueue, Queue) {
        let memory = memory();
        let driver = DriverQueue::new(memory.clone(), 0, 8);
        let queue = Queue::new(&memory, layout(&driver), Position::default(), features).unwrap();
        (memory, driver, queue)
    }

    #[test]
    fn heads_come_in_order_and_go_back_across_the_wrap_of_the_index() {
        let (memory, mut driver, mut queue) = pair(0);
        for round in 0..0x1_0010_u32 {
            let head = driver.add(&[readable(DATA, 1)]);
            assert_eq!(queue.pop(&memory), Ok(Some(head)));
            assert_eq!(queue.pop(&memory), Ok(None));
            queue.push_used(&memory, head, round).unwrap();
            assert_eq!(driver.pop_used(), Some((head, round)));
        }
        assert_eq!(
            queue.position(),
            Position {
                next_avail: 0x10,
                next_used: 0x10
            }
        );
    }

    #[test]
    fn entries_that_belong_together_appear_at_once() {
        let (memory, mut driver, mut queue) = pair(0);
        for _ in 0..3 {
            let heads = [(); 5].map(|()| driver.add(&[readable(DATA, 1)]));
            for (ahead, &head) in (0..).zip(&heads) {
                queue.pop(&memory).unwrap();
                queue.place_used(&memory, ahead, head, 7).unwrap();
            }
            assert_eq!(driver.pop_used(), None);
            queue.publish_used(&memory, 5).unwrap();
            for head in heads {
                assert_eq!(driver.pop_used(), Some((head, 7)));
            }
        }
    }

    #[test]
    fn a_queue_that_cannot_be_is_refused() {
        let (memory, driver, _) = pair(0);
        let good = layout(&driver);
        let end = MEMORY_LEN;
        for (bad, part) in [
            (Layout { size: 0, ..good }, "queue size 0"),
            (Layout { size: 7, ..good }, "queue size 7"),
            (
                Layout {
                    desc: good.desc + 8,
                    ..good
                },
                "descriptor table",
            ),
            (
                Layout {
                    avail: good.avail + 1,
                    ..good
                },
                "available ring",
            ),
            (
                Layout {
                    used: good.used + 2,
                    ..good
                },
                "used ring",
            ),
            (
                Layout {
                    desc: end - 112,
                    ..good
                },
                "descriptor table",
            ),
            (
                Layout {
                    avail: end - 20,
                    ..good
                },
                "available ring",
            ),
            (
                Layout {
                    used: end - 68,
                    ..good
                },
                "used ring",
            ),
            (
                Layout {
                    used: u64::MAX - 3,
                    ..good
                },
                "used ring",
            ),
        ] {
            let error = Queue::new(&memory, bad, Position::default(), 0)
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{bad:x?}: {error}");
        }
    }

    #[test]
    fn rubbish_in_the_available_ring_is_an_error_not_an_empty_queue() {
        let (memory, mut driver, mut queue) = pair(0);
        driver.publish(8);
        assert_eq!(
            queue.pop(&memory),
            Err(QueueError::Head { head: 8, size: 8 })
        );
        driver.set_avail_idx(9);
        assert_eq!(
            queue.pop(&memory),
            Err(QueueError::AvailableIndex { index: 9, taken: 0 })
        );
        driver.set_avail_idx(0xffff);
        assert!(queue.enable_notification(&memory).is_err());
    }

    #[test]
    fn interrupts_follow_the_flag_without_event_idx() {
        let (memory, driver, mut queue) = pair(0);
        assert_eq!(queue.should_signal(&memory), Ok(true));
        assert_eq!(queue.should_signal(&memory), Ok(false));
        driver.set_avail_flags(AVAIL_F_NO_INTERRUPT);
        queue.push_used(&memory, 0, 0).unwrap();
        assert_eq!(queue.should_signal(&memory), Ok(false));
        queue.disable_notification(&memory).unwrap();
        assert_eq!(driver.used_flags(), USED_F_NO_NOTIFY);
        assert_eq!(queue.enable_notification(&memory), Ok(false));
        assert_eq!(driver.used_flags(), 0);
    }

    #[test]
    fn interrupts_follow_the_index_with_event_idx() {
        let (memory, driver, mut queue) = pair(F_EVENT_IDX);
        // The first is always told: where the driver was before is not known.
        assert_eq!(queue.should_signal(&memory), Ok(true));
        // Against the formula written out: told exactly when the wished index was passed.
        let mut used = 0_u16;
        for (wish, pushed) in [
            (0, 1),
            (0, 1),
            (4, 2),
            (4, 1),
            (4, 3),
            (100, 8),
            (0xffff, 1),
        ] {
            driver.set_used_event(wish);
            let before = used;
            for _ in 0..pushed {
                queue.push_used(&memory, 0, 0).unwrap();
                used += 1;
            }
            let passed = (before..used).contains(&wish);
            assert_eq!(
                queue.should_signal(&memory),
                Ok(passed),
                "{before}..{used} {wish}"
            );
        }
    }

    #[test]
    fn a_chain_that_came_meanwhile_is_seen_when_notifications_are_enabled() {
        for features in [0, F_EVENT_IDX] {
            let (memory, mut driver, mut queue) = pair(features);
            queue.disable_notification(&memory).unwrap();
            assert_eq!(queue.enable_notification(&memory), Ok(false));
            driver.add(&[readable(DATA, 1)]);
            assert_eq!(queue.enable_notification(&memory), Ok(true));
            queue.pop(&memory).unwrap();
            assert_eq!(queue.enable_notification(&memory), Ok(false));
            assert_eq!(driver.avail_event(), if features == 0 { 0 } else { 1 });
        }
    }
}
