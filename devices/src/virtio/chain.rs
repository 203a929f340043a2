//! Descriptor chains (virtio 1.2, 2.7.5): the walk, and the cursors over what it found.
//!
//! Used by workers on the I/O thread. The walk is an iterator of `Result`: a chain that breaks the
//! rules ends in an error, never as if it were complete. Limits, all before anything is allocated
//! or touched:
//!
//! * descriptors: the queue's size in the ring's own table (so a loop ends), [`INDIRECT_MAX`] in an
//!   indirect table;
//! * bytes: 2³² − 1 in all (2.7.4.1 allows a driver no more);
//! * every buffer non-empty and wholly in RAM; readable ones before writable ones;
//! * an indirect table at the end of a chain only, never inside another.

use vm_memory::{Bytes, GuestAddress};

use super::queue::in_memory;
use super::spec::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_SIZE};
use crate::disk::buffers::GuestBuffers;
use crate::io_thread::Fault;
use crate::memory::GuestMemory;

/// Most descriptors in an indirect table. The standard bounds a chain by the queue's size, but
/// Linux may build longer indirect tables; its block and net drivers stay below 1024, QEMU's limit.
pub const INDIRECT_MAX: u16 = 1024;

/// A buffer of a chain, in guest memory in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes, at least one.
    pub len: u32,
    /// For the device to write (and not to read).
    pub writable: bool,
}

/// What is wrong with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// More descriptors than the table has, so one comes twice.
    #[error("the chain is a loop or longer than its table")]
    TooLong,
    /// `next` names no descriptor.
    #[error("descriptor index {0} is outside its table")]
    Index(u16),
    /// A buffer or table is not in RAM.
    #[error("{len:#x} bytes at {address:#x} are not in guest memory")]
    OutsideMemory {
        /// Guest-physical address.
        address: u64,
        /// Bytes.
        len: u32,
    },
    /// A buffer of no bytes.
    #[error("a descriptor has no bytes")]
    Empty,
    /// All buffers together have more bytes than a 32-bit count holds.
    #[error("the chain has 4 GiB or more")]
    TooManyBytes,
    /// A buffer to read after one to write.
    #[error("a readable descriptor follows a writable one")]
    Order,
    /// An indirect descriptor that was not negotiated, is nested, or is not the last.
    #[error("an indirect descriptor where none may be")]
    Indirect,
    /// An indirect table of no, too many, or broken entries.
    #[error("an indirect table of {0} bytes")]
    IndirectSize(u32),
}

impl From<ChainError> for Fault {
    fn from(error: ChainError) -> Self {
        Self::new(&error)
    }
}

/// A table of descriptors: the queue's own, or an indirect one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) address: u64,
    pub(super) entries: u16,
}

/// The walk along one chain. After an error it is over.
#[derive(Debug)]
pub struct Chain<'m> {
    memory: &'m GuestMemory,
    table: Table,
    next: Option<u16>,
    /// Descriptors that may still come from the table.
    left: u16,
    indirect_allowed: bool,
    writable_seen: bool,
    bytes: u32,
}

impl<'m> Chain<'m> {
    pub(super) fn new(
        memory: &'m GuestMemory,
        table: Table,
        head: u16,
        indirect_allowed: bool,
    ) -> Self {
        Self {
            memory,
            table,
            next: Some(head),
            left: table.entries,
            indirect_allowed,
            writable_seen: false,
            bytes: 0,
        }
    }

    fn step(&mut self, mut index: u16) -> Result<Descriptor, ChainError> {
        let mut raw = self.fetch(index)?;
        if raw.flags & DESC_F_INDIRECT != 0 {
            self.enter(&raw)?;
            index = 0;
            raw = self.fetch(index)?;
            if raw.flags & DESC_F_INDIRECT != 0 {
                return Err(ChainError::Indirect);
            }
        }
        let writable = raw.flags & DESC_F_WRITE != 0;
        if self.writable_seen && !writable {
            return Err(ChainError::Order);
        }
        self.writable_seen = writable;
        if raw.len == 0 {
            return Err(ChainError::Empty);
        }
        self.bytes = self
            .bytes
            .checked_add(raw.len)
            .ok_or(ChainError::TooManyBytes)?;
        if !in_memory(self.memory, raw.address, u64::from(raw.len)) {
            return Err(ChainError::OutsideMemory {
                address: raw.address,
                len: raw.len,
            });
        }
        self.next = (raw.flags & DESC_F_NEXT != 0).then_some(raw.next);
        Ok(Descriptor {
            address: raw.address,
            len: raw.len,
            writable,
        })
    }

    /// Goes on in the table that `raw` refers to.
    fn enter(&mut self, raw: &RawDescriptor) -> Result<(), ChainError> {
        if !self.indirect_allowed || raw.flags & DESC_F_NEXT != 0 {
            return Err(ChainError::Indirect);
        }
        let entries = u64::from(raw.len) / DESC_SIZE;
        let whole = u64::from(raw.len) % DESC_SIZE == 0;
        let entries = u16::try_from(entries)
            .ok()
            .filter(|n| (1..=INDIRECT_MAX).contains(n));
        let Some(entries) = entries.filter(|_| whole) else {
            return Err(ChainError::IndirectSize(raw.len));
        };
        self.table = Table {
            address: raw.address,
            entries,
        };
        self.left = entries;
        // 2.7.5.3.1: a table holds no indirect descriptors.
        self.indirect_allowed = false;
        Ok(())
    }

    fn fetch(&mut self, index: u16) -> Result<RawDescriptor, ChainError> {
        if index >= self.table.entries {
            return Err(ChainError::Index(index));
        }
        self.left = self.left.checked_sub(1).ok_or(ChainError::TooLong)?;
        RawDescriptor::read(self.memory, self.table.address, index)
    }
}

impl Iterator for Chain<'_> {
    type Item = Result<Descriptor, ChainError>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.next.take()?;
        Some(self.step(index))
    }
}

/// A descriptor as it lies in memory (2.7.5).
struct RawDescriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl RawDescriptor {
    fn read(memory: &GuestMemory, table: u64, index: u16) -> Result<Self, ChainError> {
        let at = table.checked_add(u64::from(index) * DESC_SIZE);
        let outside = ChainError::OutsideMemory {
            address: table,
            len: 16,
        };
        let mut raw = [0; 16];
        // One copy: what is checked is what is used, whatever the guest writes meanwhile.
        memory
            .read_slice(&mut raw, GuestAddress(at.ok_or(outside)?))
            .map_err(|_| outside)?;
        let [
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            l0,
            l1,
            l2,
            l3,
            f0,
            f1,
            n0,
            n1,
        ] = raw;
        Ok(Self {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        })
    }
}

/// A range of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    address: u64,
    len: u32,
}

/// The buffers of one chain, readable ones first. Kept by a worker and filled anew for each chain,
/// so that the common path does not allocate.
#[derive(Debug, Default)]
pub struct ChainBuffers {
    segments: Vec<Segment>,
    /// How many of `segments` are readable.
    readable: usize,
    readable_len: u32,
    writable_len: u32,
}

impl ChainBuffers {
    /// Room for a chain of usual length; longer ones grow it, up to the limits above.
    #[must_use]
    pub fn new() -> Self {
        Self {
            segments: Vec::with_capacity(256),
            ..Self::default()
        }
    }

    /// Walks `chain` to its end and keeps its buffers in place of those of the chain before.
    ///
    /// # Errors
    /// What is wrong with the chain.
    pub fn collect(&mut self, chain: Chain<'_>) -> Result<(), ChainError> {
        self.segments.clear();
        (self.readable, self.readable_len, self.writable_len) = (0, 0, 0);
        for descriptor in chain {
            let Descriptor {
                address,
                len,
                writable,
            } = descriptor?;
            self.segments.push(Segment { address, len });
            // The walk bounds the sum of both.
            if writable {
                self.writable_len += len;
            } else {
                self.readable += 1;
                self.readable_len += len;
            }
        }
        Ok(())
    }

    /// What the driver wrote for the device.
    #[must_use]
    pub fn readable<'a>(&'a self, memory: &'a GuestMemory) -> Reader<'a> {
        let segments = self.segments.get(..self.readable).unwrap_or_default();
        Reader(Cursor {
            memory,
            segments,
            skip: 0,
            left: self.readable_len,
        })
    }

    /// What the device may write for the driver.
    #[must_use]
    pub fn writable<'a>(&'a self, memory: &'a GuestMemory) -> Writer<'a> {
        let segments = self.segments.get(self.readable..).unwrap_or_default();
        Writer(Cursor {
            memory,
            segments,
            skip: 0,
            left: self.writable_len,
        })
    }
}

/// Fewer bytes are left than were asked for, or (never, after the walk) they are not in RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chain is too short")]
pub struct TooShort;

/// A place in a list of segments.
#[derive(Debug, Clone, Copy)]
struct Cursor<'a> {
    memory: &'a GuestMemory,
    segments: &'a [Segment],
    /// Bytes of the first segment that are behind.
    skip: u32,
    /// Bytes ahead.
    left: u32,
}

impl<'a> Cursor<'a> {
    /// Takes the next range of at most `limit` bytes that lies in one segment.
    fn next_range(&mut self, limit: u32) -> Option<Segment> {
        let (first, rest) = self.segments.split_first()?;
        let rest_of_first = first.len - self.skip;
        let len = rest_of_first.min(self.left).min(limit);
        if len == 0 {
            return None;
        }
        let range = Segment {
            address: first.address + u64::from(self.skip),
            len,
        };
        self.left -= len;
        self.skip += len;
        if self.skip == first.len {
            self.segments = rest;
            self.skip = 0;
        }
        Some(range)
    }

    /// Calls `f` for each range of the next `len` bytes.
    fn ranges(
        &mut self,
        len: u32,
        mut f: impl FnMut(&GuestMemory, Segment) -> Result<(), TooShort>,
    ) -> Result<(), TooShort> {
        if len > self.left {
            return Err(TooShort);
        }
        let mut wanted = len;
        while wanted > 0 {
            let range = self.next_range(wanted).ok_or(TooShort)?;
            f(self.memory, range)?;
            wanted -= range.len;
        }
        Ok(())
    }

    /// Splits the next `len` bytes off into a cursor of their own.
    fn take(&mut self, len: u32) -> Result<Self, TooShort> {
        let mut taken = *self;
        self.ranges(len, |_, _| Ok(()))?;
        taken.left = len;
        Ok(taken)
    }

    fn append_to(mut self, buffers: &mut GuestBuffers) -> Result<(), TooShort> {
        self.ranges(self.left, |_, range| {
            buffers.push(range.address, range.len).map_err(|_| TooShort)
        })
    }
}

/// Reads the readable part of a chain from front to back.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(Cursor<'a>);

impl<'a> Reader<'a> {
    /// Bytes ahead.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.0.left
    }

    /// Copies the next bytes out, all of `data` or none.
    ///
    /// # Errors
    /// [`TooShort`].
    pub fn read(&mut self, data: &mut [u8]) -> Result<(), TooShort> {
        let len = u32::try_from(data.len()).map_err(|_| TooShort)?;
        let mut rest = data;
        self.0.ranges(len, |memory, range| {
            let count = usize::try_from(range.len).map_err(|_| TooShort)?;
            let (now, later) = std::mem::take(&mut rest)
                .split_at_mut_checked(count)
                .ok_or(TooShort)?;
            rest = later;
            memory
                .read_slice(now, GuestAddress(range.address))
                .map_err(|_| TooShort)
        })
    }

    /// Splits the next `len` bytes off.
    ///
    /// # Errors
    /// [`TooShort`].
    pub fn take(&mut self, len: u32) -> Result<Reader<'a>, TooShort> {
        self.0.take(len).map(Reader)
    }

    /// Adds everything ahead to a backend's list of buffers.
    ///
    /// # Errors
    /// [`TooShort`], never after a walk that succeeded.
    pub fn append_to(self, buffers: &mut GuestBuffers) -> Result<(), TooShort> {
        self.0.append_to(buffers)
    }
}

/// Writes the writable part of a chain from front to back.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a>(Cursor<'a>);

impl<'a> Writer<'a> {
    /// Bytes ahead.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.0.left
    }

    /// Copies `data` in, all of it or nothing.
    ///
    /// # Errors
    /// [`TooShort`].
    pub fn write(&mut self, data: &[u8]) -> Result<(), TooShort> {
        let len = u32::try_from(data.len()).map_err(|_| TooShort)?;
        let mut rest = data;
        self.0.ranges(len, |memory, range| {
            let count = usize::try_from(range.len).map_err(|_| TooShort)?;
            let (now, later) = rest.split_at_checked(count).ok_or(TooShort)?;
            rest = later;
            memory
                .write_slice(now, GuestAddress(range.address))
                .map_err(|_| TooShort)
        })
    }

    /// Splits the next `len` bytes off.
    ///
    /// # Errors
    /// [`TooShort`].
    pub fn take(&mut self, len: u32) -> Result<Writer<'a>, TooShort> {
        self.0.take(len).map(Writer)
    }

    /// Calls `f` with guest-physical address and length of each range ahead.
    pub fn ranges(mut self, mut f: impl FnMut(u64, u32)) {
        while let Some(range) = self.0.next_range(self.0.left) {
            f(range.address, range.len);
        }
    }

    /// Guest-physical address of the next byte.
    ///
    /// # Errors
    /// [`TooShort`] at the end.
    pub fn address(mut self) -> Result<u64, TooShort> {
        self.0
            .next_range(1)
            .map(|range| range.address)
            .ok_or(TooShort)
    }

    /// Adds everything ahead to a backend's list of buffers.
    ///
    /// # Errors
    /// [`TooShort`], never after a walk that succeeded.
    pub fn append_to(self, buffers: &mut GuestBuffers) -> Result<(), TooShort> {
        self.0.append_to(buffers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::SharedMemory;
    use crate::virtio::fake_driver::{
        DATA, DriverQueue, MEMORY_LEN, descriptor, memory, readable, writable,
    };
    use crate::virtio::queue::{Layout, Position, Queue};
    use crate::virtio::spec::F_INDIRECT_DESC;

    fn pair() -> (SharedMemory, DriverQueue, Queue) {
        let memory = memory();
        let driver = DriverQueue::new(memory.clone(), 0, 8);
        let DriverQueue {
            size,
            desc,
            avail,
            used,
            ..
        } = driver;
        let layout = Layout {
            size,
            desc,
            avail,
            used,
        };
        let queue = Queue::new(&memory, layout, Position::default(), F_INDIRECT_DESC).unwrap();
        (memory, driver, queue)
    }

    fn walk(memory: &SharedMemory, queue: &Queue) -> Result<Vec<Descriptor>, ChainError> {
        queue.chain(memory, 0).collect()
    }

    #[test]
    fn a_broken_chain_is_an_error_and_never_a_shorter_one() {
        const N: u16 = DESC_F_NEXT;
        const W: u16 = DESC_F_WRITE;
        const I: u16 = DESC_F_INDIRECT;
        let outside = |address, len| ChainError::OutsideMemory { address, len };
        let end = MEMORY_LEN;
        let loops = [(DATA, 1, N, 1), (DATA, 1, N, 0)];
        for (chain, error) in [
            (&loops[..], ChainError::TooLong),
            (&[(DATA, 1, N, 8)], ChainError::Index(8)),
            (&[(DATA, 0, 0, 0)], ChainError::Empty),
            (&[(end - 1, 2, 0, 0)], outside(end - 1, 2)),
            (&[(u64::MAX, 2, 0, 0)], outside(u64::MAX, 2)),
            (&[(0, u32::MAX, 0, 0)], outside(0, u32::MAX)),
            (&[(DATA, 1, W | N, 1), (DATA, 1, 0, 0)], ChainError::Order),
            (&[(DATA, 16, I | N, 1)], ChainError::Indirect),
            (&[(DATA, 0, I, 0)], ChainError::IndirectSize(0)),
            (&[(DATA, 17, I, 0)], ChainError::IndirectSize(17)),
            (
                &[(DATA, 16 * 1025, I, 0)],
                ChainError::IndirectSize(16 * 1025),
            ),
            (
                &[(DATA, u32::MAX, I, 0)],
                ChainError::IndirectSize(u32::MAX),
            ),
            (&[(end, 16, I, 0)], outside(end, 16)),
        ] {
            let (memory, driver, queue) = pair();
            for (index, &(address, len, flags, next)) in (0..).zip(chain) {
                driver.set_descriptor(index, descriptor(address, len, flags, next));
            }
            assert_eq!(walk(&memory, &queue), Err(error), "{chain:x?}");
        }
    }

    #[test]
    fn an_indirect_table_may_end_a_chain_and_holds_no_other() {
        let (memory, mut driver, queue) = pair();
        let table = DATA + 0x1000;
        driver.set_descriptor(0, descriptor(DATA, 3, DESC_F_NEXT, 1));
        driver.set_descriptor(1, descriptor(table, 32, DESC_F_INDIRECT, 0));
        let write = |at, raw: [u8; 16]| memory.write_slice(&raw, GuestAddress(at)).unwrap();
        write(table, descriptor(DATA, 4, DESC_F_NEXT, 1));
        write(table + 16, descriptor(DATA, 5, DESC_F_WRITE, 0));
        let lens: Vec<_> = walk(&memory, &queue)
            .unwrap()
            .iter()
            .map(|d| d.len)
            .collect();
        assert_eq!(lens, [3, 4, 5]);
        write(table + 16, descriptor(table, 16, DESC_F_INDIRECT, 0));
        assert_eq!(walk(&memory, &queue), Err(ChainError::Indirect));
        write(table, descriptor(DATA, 4, DESC_F_NEXT, 0));
        assert_eq!(walk(&memory, &queue), Err(ChainError::TooLong));
        // Longer than the queue, as Linux builds them.
        let many = vec![readable(DATA, 1); 100];
        let (memory, mut driver2, queue) = pair();
        std::mem::swap(&mut driver, &mut driver2);
        driver.add_indirect(table, &many);
        assert_eq!(walk(&memory, &queue).unwrap().len(), 100);
    }

    #[test]
    fn the_total_fits_32_bits() {
        use vm_memory::GuestAddress;
        // Address space only; nothing is touched.
        let regions = [(GuestAddress(0), 0x9000_0000)];
        let memory: SharedMemory = GuestMemory::from_ranges(&regions).unwrap().into();
        let driver = DriverQueue::new(memory.clone(), 0, 8);
        let DriverQueue {
            size,
            desc,
            avail,
            used,
            ..
        } = driver;
        let layout = Layout {
            size,
            desc,
            avail,
            used,
        };
        let queue = Queue::new(&memory, layout, Position::default(), 0).unwrap();
        driver.set_descriptor(0, descriptor(0, 0x8000_0000, DESC_F_NEXT, 1));
        driver.set_descriptor(1, descriptor(0, 0x8000_0000, 0, 0));
        assert_eq!(walk(&memory, &queue), Err(ChainError::TooManyBytes));
        driver.set_descriptor(1, descriptor(0, 0x7fff_ffff, 0, 0));
        assert_eq!(walk(&memory, &queue).unwrap().len(), 2);
    }

    #[test]
    fn cursors_cross_descriptors_and_stop_at_the_end() {
        let (memory, mut driver, queue) = pair();
        let (a, b, c) = (DATA, DATA + 0x100, DATA + 0x200);
        driver.add(&[
            readable(a, 3),
            readable(b, 4),
            writable(c, 2),
            writable(a, 2),
        ]);
        memory.write_slice(b"abc", GuestAddress(a)).unwrap();
        memory.write_slice(b"defg", GuestAddress(b)).unwrap();
        let mut buffers = ChainBuffers::new();
        buffers.collect(queue.chain(&memory, 0)).unwrap();
        let mut reader = buffers.readable(&memory);
        let mut first = reader.take(5).unwrap();
        let mut data = [0; 4];
        first.read(&mut data).unwrap();
        assert_eq!(
            (&data, first.remaining(), reader.remaining()),
            (b"abcd", 1, 2)
        );
        assert_eq!(first.read(&mut data), Err(TooShort));
        first.read(&mut data[..1]).unwrap();
        reader.read(&mut data[1..3]).unwrap();
        assert_eq!(&data[..3], b"efg");
        let mut writer = buffers.writable(&memory);
        assert_eq!(writer.write(b"12345"), Err(TooShort));
        writer.write(b"123").unwrap();
        assert_eq!((writer.remaining(), writer.address()), (1, Ok(a + 1)));
        writer.write(b"4").unwrap();
        assert_eq!(writer.address(), Err(TooShort));
        let mut back = [0; 2];
        memory.read_slice(&mut back, GuestAddress(a)).unwrap();
        assert_eq!(&back, b"34");
    }
}
