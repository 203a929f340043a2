//! The driver's side of a split virtqueue (virtio 1.2, section 2.7).

use core::sync::atomic::{Ordering::SeqCst, fence};

use crate::memory::{PAGE, Region};

/// Largest ring this driver makes.
pub const SIZE_MAX: u16 = 256;

/// Descriptor flag: another follows.
pub const NEXT: u16 = 1;
/// Descriptor flag: the device writes here.
pub const WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// Bytes of a descriptor.
pub const DESCRIPTOR_SIZE: u64 = 16;

/// Available ring's flag: no interrupts, please.
const NO_INTERRUPT: u16 = 1;

/// Used ring's flag: no notifications, please.
const NO_NOTIFY: u16 = 1;

const RING_INDEX: u64 = 2;
const RING_ENTRIES: u64 = 4;

/// A piece of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Where.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// Whether the device writes it; else it reads it.
    pub device_writes: bool,
}

/// A finished buffer.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Its first descriptor.
    pub head: u16,
    /// Bytes the device says it wrote.
    pub written: u32,
}

/// A ring and its free descriptors.
pub struct Queue {
    index: u32,
    size: u16,
    memory: Region,
    /// Free descriptors are a stack in `free[..free_count]`.
    free: [u16; SIZE_MAX as usize],
    free_count: u16,
    /// Descriptor after each in its chain; none ends it.
    next: [Option<u16>; SIZE_MAX as usize],
    available: u16,
    used: u16,
    /// Whether notifications and interrupts go by ring position.
    event_idx: bool,
    /// The available index when it was last asked whether to notify.
    told: u16,
}

impl Queue {
    /// Makes an empty ring of `size` descriptors, a power of two up to `SIZE_MAX`.
    pub fn new(index: u32, size: u16) -> Self {
        assert!(size.is_power_of_two() && size <= SIZE_MAX);
        let mut free = [0; SIZE_MAX as usize];
        for (i, entry) in (0..size).rev().zip(free.iter_mut()) {
            *entry = i;
        }
        Self {
            index,
            size,
            memory: Region::allocate(3 * PAGE),
            free,
            free_count: size,
            next: [None; SIZE_MAX as usize],
            available: 0,
            used: 0,
            event_idx: false,
            told: 0,
        }
    }

    /// Its number among the device's queues.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The memory of the three parts, a page each, for tests that write into it.
    pub fn memory(&self) -> Region {
        self.memory
    }

    /// Address of the descriptor table.
    pub fn descriptors(&self) -> u64 {
        self.memory.address()
    }

    /// Address of the available ring.
    pub fn available(&self) -> u64 {
        self.memory.address() + PAGE
    }

    /// Address of the used ring.
    pub fn used(&self) -> u64 {
        self.memory.address() + 2 * PAGE
    }

    /// Asks for interrupts, or for none.
    pub fn want_interrupts(&self, wanted: bool) {
        self.memory
            .write16(PAGE, if wanted { 0 } else { NO_INTERRUPT });
    }

    /// Notifications and interrupts go by ring position from now on, as was agreed.
    pub fn set_event_idx(&mut self, event_idx: bool) {
        self.event_idx = event_idx;
    }

    /// Whether the device wants to be notified of what was submitted since the last call, section
    /// 2.7.10.
    pub fn needs_notification(&mut self) -> bool {
        let old = core::mem::replace(&mut self.told, self.available);
        if old == self.available {
            return false;
        }
        if !self.event_idx {
            return self.memory.read16(2 * PAGE) & NO_NOTIFY == 0;
        }
        let event = 2 * PAGE + RING_ENTRIES + u64::from(self.size) * 8;
        let event = self.memory.read16(event);
        let ahead = self.available.wrapping_sub(event).wrapping_sub(1);
        ahead < self.available.wrapping_sub(old)
    }

    /// Puts a chain of segments into the available ring; returns its head, or none if there is no
    /// room. The device has to be notified.
    pub fn submit(&mut self, segments: &[Segment]) -> Option<u16> {
        if segments.is_empty() || segments.len() > usize::from(self.free_count) {
            return None;
        }
        let mut head = None;
        // From the last to the first, so that each knows its successor.
        for segment in segments.iter().rev() {
            let descriptor = self.take();
            write_descriptor(self.memory, descriptor, *segment, 0, head);
            self.next[usize::from(descriptor)] = head;
            head = Some(descriptor);
        }
        self.publish(head?);
        head
    }

    /// Puts a chain into the available ring as one indirect descriptor. `table` holds it from
    /// offset 0.
    pub fn submit_indirect(&mut self, table: Region, segments: &[Segment]) -> Option<u16> {
        if segments.is_empty() || self.free_count == 0 {
            return None;
        }
        let last = segments.len() - 1;
        for (i, segment) in segments.iter().enumerate() {
            let next = (i < last).then_some(i as u16 + 1);
            write_descriptor(table, i as u16, *segment, 0, next);
        }
        let head = self.take();
        let length = segments.len() as u32 * DESCRIPTOR_SIZE as u32;
        let whole = Segment {
            address: table.address(),
            length,
            device_writes: false,
        };
        write_descriptor(self.memory, head, whole, INDIRECT, None);
        self.next[usize::from(head)] = None;
        self.publish(head);
        Some(head)
    }

    /// The head the next chain of so many descriptors will have; none if there is no room for it.
    pub fn next_head(&self, length: usize) -> Option<u16> {
        let index = usize::from(self.free_count).checked_sub(length)?;
        self.free.get(index).copied()
    }

    fn take(&mut self) -> u16 {
        self.free_count -= 1;
        self.free[usize::from(self.free_count)]
    }

    /// Puts a head into the available ring as it is.
    pub fn publish(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size);
        self.memory.write16(PAGE + RING_ENTRIES + slot * 2, head);
        self.available = self.available.wrapping_add(1);
        // The entry, and the descriptors before it, are seen before the index that covers them.
        fence(SeqCst);
        self.memory.write16(PAGE + RING_INDEX, self.available);
        // And the index before the notification.
        fence(SeqCst);
    }

    /// Whether the device has finished a buffer.
    pub fn has_used(&self) -> bool {
        self.memory.read16(2 * PAGE + RING_INDEX) != self.used
    }

    /// Takes a finished buffer out of the used ring and frees its descriptors.
    pub fn pop(&mut self) -> Option<Used> {
        if !self.has_used() {
            return None;
        }
        // The index is read before the entry it covers, and before what the device wrote.
        fence(SeqCst);
        let entry = 2 * PAGE + RING_ENTRIES + u64::from(self.used % self.size) * 8;
        let head = self.memory.read32(entry);
        let written = self.memory.read32(entry + 4);
        self.used = self.used.wrapping_add(1);
        if self.event_idx {
            // The interrupt is wanted after half the numbers there are: never.
            let event = PAGE + RING_ENTRIES + u64::from(self.size) * 2;
            self.memory.write16(event, self.used.wrapping_add(0x8000));
        }
        assert!(
            head < u32::from(self.size),
            "the device returned descriptor {head}"
        );
        let head = head as u16;
        let mut descriptor = Some(head);
        while let Some(freed) = descriptor {
            self.free[usize::from(self.free_count)] = freed;
            self.free_count += 1;
            descriptor = self.next[usize::from(freed)].take();
        }
        Some(Used { head, written })
    }
}

/// Writes entry `index` of a descriptor table. `next` sets the flag that goes with it.
pub fn write_descriptor(
    table: Region,
    index: u16,
    segment: Segment,
    flags: u16,
    next: Option<u16>,
) {
    let at = u64::from(index) * DESCRIPTOR_SIZE;
    let direction = if segment.device_writes { WRITE } else { 0 };
    let chained = if next.is_some() { NEXT } else { 0 };
    table.write64(at, segment.address);
    table.write32(at + 8, segment.length);
    table.write16(at + 12, flags | direction | chained);
    table.write16(at + 14, next.unwrap_or(0));
}
