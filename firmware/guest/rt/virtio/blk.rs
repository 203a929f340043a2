//! Driver of a virtio block device (virtio 1.2, section 5.2).

use core::sync::atomic::{Ordering::SeqCst, fence};

use super::queue::{Queue, Segment, Used};
use super::{DEVICE_BLOCK, Error, F_INDIRECT_DESC, NEEDS_RESET, Transport};
use crate::memory::Region;
use crate::{apic, clock, interrupts, service};

/// Bytes of a sector, whatever the device's block size.
pub const SECTOR: u64 = 512;

// Features, section 5.2.3.
/// Most segments of a request are told.
pub const F_SEG_MAX: u64 = 1 << 2;
/// The device is read-only.
pub const F_RO: u64 = 1 << 5;
/// The block size is told.
pub const F_BLK_SIZE: u64 = 1 << 6;
/// The device has a cache to flush.
pub const F_FLUSH: u64 = 1 << 9;
/// Discard works.
pub const F_DISCARD: u64 = 1 << 13;
/// Write-zeroes works.
pub const F_WRITE_ZEROES: u64 = 1 << 14;

/// What this driver knows how to use.
const WANTED: u64 =
    F_SEG_MAX | F_RO | F_BLK_SIZE | F_FLUSH | F_DISCARD | F_WRITE_ZEROES | F_INDIRECT_DESC;

// Request types, section 5.2.6.
/// Read.
pub const IN: u32 = 0;
/// Write.
pub const OUT: u32 = 1;
/// Flush the cache.
pub const FLUSH: u32 = 4;
/// Get the serial number.
pub const GET_ID: u32 = 8;
/// Discard.
pub const DISCARD: u32 = 11;
/// Write zeroes.
pub const WRITE_ZEROES: u32 = 13;

// Request status.
/// Done.
pub const OK: u8 = 0;
/// Failed.
pub const IOERR: u8 = 1;
/// Not supported.
pub const UNSUPP: u8 = 2;
/// Not written by the device.
pub const UNTOUCHED: u8 = 0xff;

/// Bytes of the answer to GET_ID.
pub const ID_LENGTH: u32 = 20;

/// Offset of the capacity in configuration space.
const CONFIG_CAPACITY: u64 = 0;
/// Offset of the most segments.
const CONFIG_SEG_MAX: u64 = 12;
/// Offset of the block size.
const CONFIG_BLK_SIZE: u64 = 20;

/// Request header and status byte of one request in flight.
const HEADER_STRIDE: u64 = 32;
const HEADER_LENGTH: u32 = 16;
const STATUS_OFFSET: u64 = 16;

/// Segments of one request this driver can send, header and status apart.
pub const SEGMENTS_MAX: usize = 126;

/// How long a request may take.
const TIMEOUT_MS: u64 = 20_000;
/// Looks at the used ring before the processor halts.
const SPINS: u32 = 1000;

/// A block device that is set up.
pub struct Blk {
    transport: Transport,
    features: u64,
    queue: Queue,
    /// Header and status of the requests in flight, by the head of their chain.
    headers: Region,
    /// For the table of an indirect request.
    table: Region,
    halts: bool,
}

impl Blk {
    /// Sets up the block device a transport leads to. Polls: no interrupts are asked for.
    pub fn new(transport: Transport) -> Result<Self, Error> {
        assert_eq!(transport.device_id(), DEVICE_BLOCK);
        let features = transport.negotiate(WANTED)?;
        let queue = transport.set_up_queue(0)?;
        queue.want_interrupts(false);
        transport.driver_ok();
        Ok(Self {
            transport,
            features,
            headers: Region::allocate(u64::from(queue.size()) * HEADER_STRIDE),
            queue,
            table: Region::allocate(crate::memory::PAGE),
            halts: false,
        })
    }

    /// Has the device interrupt, and halts while it waits. Needs `interrupts::enable`.
    pub fn use_interrupts(&mut self) {
        if let Some(line) = self.transport.line() {
            interrupts::route(line);
        }
        self.queue.want_interrupts(true);
        self.halts = true;
    }

    /// The device's registers.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The features agreed on.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The ring, for tests that break it.
    pub fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Sectors.
    pub fn capacity(&self) -> u64 {
        self.transport.config64(CONFIG_CAPACITY)
    }

    /// Sectors of a block: requests begin and end with one.
    pub fn block_sectors(&self) -> u64 {
        match self.features & F_BLK_SIZE {
            0 => 1,
            _ => (u64::from(self.transport.config32(CONFIG_BLK_SIZE)) / SECTOR).max(1),
        }
    }

    /// Most segments of one request, by the device and by this driver.
    pub fn segments_max(&self) -> usize {
        let device = match self.features & F_SEG_MAX {
            0 => 1,
            _ => self.transport.config32(CONFIG_SEG_MAX) as usize,
        };
        device
            .min(SEGMENTS_MAX)
            .min(usize::from(self.queue.size()) - 2)
    }

    /// Puts a request into the ring; none if there is no room. The device is not notified.
    pub fn submit(&mut self, kind: u32, sector: u64, data: &[Segment]) -> Option<u16> {
        let head = self.queue.next_head(data.len() + 2)?;
        let mut all = [EMPTY; SEGMENTS_MAX + 2];
        self.queue
            .submit(self.frame(head, kind, sector, data, &mut all))
    }

    /// The same as one indirect descriptor. One such request at a time: there is one table.
    pub fn submit_indirect(&mut self, kind: u32, sector: u64, data: &[Segment]) -> Option<u16> {
        let head = self.queue.next_head(1)?;
        let mut all = [EMPTY; SEGMENTS_MAX + 2];
        self.queue
            .submit_indirect(self.table, self.frame(head, kind, sector, data, &mut all))
    }

    /// Writes the header of the request whose chain starts at `head`, and frames the data with
    /// header and status in `all`.
    fn frame<'a>(
        &self,
        head: u16,
        kind: u32,
        sector: u64,
        data: &[Segment],
        all: &'a mut [Segment; SEGMENTS_MAX + 2],
    ) -> &'a [Segment] {
        assert!(data.len() <= SEGMENTS_MAX);
        let offset = u64::from(head) * HEADER_STRIDE;
        self.headers.write32(offset, kind);
        self.headers.write32(offset + 4, 0);
        self.headers.write64(offset + 8, sector);
        self.headers.write8(offset + STATUS_OFFSET, UNTOUCHED);
        let address = self.headers.address() + offset;
        let header = Segment {
            address,
            length: HEADER_LENGTH,
            device_writes: false,
        };
        let status = Segment {
            address: address + STATUS_OFFSET,
            length: 1,
            device_writes: true,
        };
        for (to, from) in all
            .iter_mut()
            .zip([&header].into_iter().chain(data).chain([&status]))
        {
            *to = *from;
        }
        &all[..data.len() + 2]
    }

    /// Tells the device about new requests.
    pub fn notify(&self) {
        self.transport.notify(self.queue.index());
    }

    /// A finished request and its status, if there is one.
    pub fn poll(&mut self) -> Option<(Used, u8)> {
        let used = self.queue.pop()?;
        let header = u64::from(used.head) * HEADER_STRIDE;
        Some((used, self.headers.read8(header + STATUS_OFFSET)))
    }

    /// Waits for a finished request: spins a little, then halts if it may.
    pub fn wait(&mut self) -> Result<(Used, u8), Error> {
        let deadline = clock::Deadline::after_ms(TIMEOUT_MS);
        loop {
            for _ in 0..SPINS {
                if let Some(finished) = self.poll() {
                    return Ok(finished);
                }
                core::hint::spin_loop();
            }
            if self.transport.status() & NEEDS_RESET != 0 {
                return Err(Error::NeedsReset);
            }
            if deadline.passed() {
                return Err(Error::Timeout);
            }
            if self.halts {
                self.halt();
            }
        }
    }

    fn halt(&self) {
        let seen = interrupts::total();
        // What was raised before `seen` was read is in the ring by now; what comes after it
        // changes the count.
        self.transport.acknowledge();
        fence(SeqCst);
        if !self.queue.has_used() {
            apic::start_timer_ms(5);
            service::wait_unless_interrupted(seen);
        }
    }

    /// Sends a request and waits for it; returns its status.
    pub fn request(&mut self, kind: u32, sector: u64, data: &[Segment]) -> Result<u8, Error> {
        self.submit(kind, sector, data).ok_or(Error::NoQueue)?;
        self.notify();
        Ok(self.wait()?.1)
    }

    /// Reads the sectors a region from `offset` on has room for `length` bytes of.
    pub fn read(&mut self, sector: u64, to: Region, offset: u64, length: u32) -> Result<u8, Error> {
        let address = to.address() + offset;
        self.request(
            IN,
            sector,
            &[Segment {
                address,
                length,
                device_writes: true,
            }],
        )
    }

    /// Writes `length` bytes of a region.
    pub fn write(
        &mut self,
        sector: u64,
        from: Region,
        offset: u64,
        length: u32,
    ) -> Result<u8, Error> {
        let address = from.address() + offset;
        self.request(
            OUT,
            sector,
            &[Segment {
                address,
                length,
                device_writes: false,
            }],
        )
    }
}

/// Placeholder in arrays of segments.
const EMPTY: Segment = Segment {
    address: 0,
    length: 0,
    device_writes: false,
};
