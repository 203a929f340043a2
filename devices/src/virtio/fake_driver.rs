//! The driver's side of a virtio device: builds rings in guest memory, adds chains (broken ones
//! too), and drives a transport's registers. For unit tests, fuzz targets and benches; not part of
//! the VMM.
//!
//! It waits for interrupts on an [`EventFd`] line, never by sleeping. Its calls panic on misuse, as
//! test code does.
#![expect(clippy::expect_used, reason = "test code; panicking is how it reports")]

use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::device::VirtioDevice;
use super::spec::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, STATUS_ACKNOWLEDGE, STATUS_DRIVER,
    STATUS_DRIVER_OK, STATUS_FEATURES_OK,
};
use super::transport::core::Wiring;
use super::transport::mmio::MmioTransport;
use crate::bus::BusDevice;
use crate::events::{EventSink, GuestEvent};
use crate::io_thread::IoHandle;
use crate::memory::{GuestMemory, SharedMemory};

/// Bytes of the test machine's memory: two regions that meet at half, and a hole behind.
pub const MEMORY_LEN: u64 = 0x40_0000;
/// Where queue n's rings are: 64 KiB from here on for each.
const RINGS: u64 = 0x1_0000;
/// Where data may be put by tests.
pub const DATA: u64 = 0x10_0000;

/// Memory for a test machine.
#[must_use]
pub fn memory() -> SharedMemory {
    let half = usize::try_from(MEMORY_LEN / 2).expect("small");
    let regions = [
        (GuestAddress(0), half),
        (GuestAddress(MEMORY_LEN / 2), half),
    ];
    Arc::new(GuestMemory::from_ranges(&regions).expect("memory for a test"))
}

/// An event sink that remembers.
#[derive(Debug, Default)]
pub struct Events(Mutex<Vec<GuestEvent>>);

impl EventSink for Events {
    fn raise(&self, event: GuestEvent) {
        self.0.lock().expect("no test panics with it").push(event);
    }
}

impl Events {
    /// What was raised since the last call.
    pub fn take(&self) -> Vec<GuestEvent> {
        std::mem::take(&mut self.0.lock().expect("no test panics with it"))
    }
}

/// One buffer of a chain to be built.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// For the device to write.
    pub writable: bool,
}

/// For the device to read.
#[must_use]
pub const fn readable(address: u64, len: u32) -> Buffer {
    Buffer {
        address,
        len,
        writable: false,
    }
}

/// For the device to write.
#[must_use]
pub const fn writable(address: u64, len: u32) -> Buffer {
    Buffer {
        address,
        len,
        writable: true,
    }
}

/// The bytes of a descriptor (virtio 1.2, 2.7.5).
#[must_use]
pub fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let raw = u128::from(address)
        | u128::from(len) << 64
        | u128::from(flags) << 96
        | u128::from(next) << 112;
    raw.to_le_bytes()
}

/// The driver's side of one split virtqueue.
#[derive(Debug)]
pub struct DriverQueue {
    memory: SharedMemory,
    /// Entries.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub desc: u64,
    /// Guest-physical address of the available ring.
    pub avail: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    next_desc: u16,
    avail_idx: u16,
    used_idx: u16,
}

impl DriverQueue {
    /// Queue number `index`, zeroed, at its place in a test machine's memory.
    #[must_use]
    pub fn new(memory: SharedMemory, index: u16, size: u16) -> Self {
        let desc = RINGS + u64::from(index) * 0x1_0000;
        let (avail, used) = (desc + 0x8000, desc + 0xa000);
        memory
            .write_slice(&[0; 0x1_0000], GuestAddress(desc))
            .expect("rings are in memory");
        let (next_desc, avail_idx, used_idx) = (0, 0, 0);
        Self {
            memory,
            size,
            desc,
            avail,
            used,
            next_desc,
            avail_idx,
            used_idx,
        }
    }

    /// Writes a descriptor as it is told.
    pub fn set_descriptor(&self, index: u16, raw: [u8; 16]) {
        let at = self.desc + u64::from(index) * 16;
        self.memory
            .write_slice(&raw, GuestAddress(at))
            .expect("rings are in memory");
    }

    /// Makes a chain of `buffers` available and returns its head. Descriptors are used round and
    /// round: no more than the queue's size may be outstanding.
    pub fn add(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next_desc;
        for (i, buffer) in buffers.iter().enumerate() {
            let index = self.next_desc;
            self.next_desc = (index + 1) % self.size;
            let more = if i + 1 < buffers.len() {
                DESC_F_NEXT
            } else {
                0
            };
            let flags = more | if buffer.writable { DESC_F_WRITE } else { 0 };
            let raw = descriptor(buffer.address, buffer.len, flags, self.next_desc);
            self.set_descriptor(index, raw);
        }
        self.publish(head);
        head
    }

    /// Makes a chain of `buffers` available by an indirect table at `table`.
    pub fn add_indirect(&mut self, table: u64, buffers: &[Buffer]) -> u16 {
        for (i, buffer) in (0_u16..).zip(buffers) {
            let more = if usize::from(i) + 1 < buffers.len() {
                DESC_F_NEXT
            } else {
                0
            };
            let flags = more | if buffer.writable { DESC_F_WRITE } else { 0 };
            let raw = descriptor(buffer.address, buffer.len, flags, i + 1);
            let at = GuestAddress(table + u64::from(i) * 16);
            self.memory
                .write_slice(&raw, at)
                .expect("the table is in memory");
        }
        let head = self.next_desc;
        self.next_desc = (head + 1) % self.size;
        let len = u32::try_from(buffers.len() * 16).expect("a short table");
        self.set_descriptor(head, descriptor(table, len, DESC_F_INDIRECT, 0));
        self.publish(head);
        head
    }

    /// Puts `head` into the available ring, whatever it names.
    pub fn publish(&mut self, head: u16) {
        let slot = u64::from(self.avail_idx % self.size);
        self.store(self.avail + 4 + slot * 2, head);
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.set_avail_idx(self.avail_idx);
    }

    /// Sets the available ring's index, whatever was made available.
    pub fn set_avail_idx(&self, index: u16) {
        let at = GuestAddress(self.avail + 2);
        self.memory
            .store(index, at, std::sync::atomic::Ordering::Release)
            .expect("in memory");
    }

    /// Asks for an interrupt once the used ring's index passes `index` (EVENT_IDX).
    pub fn set_used_event(&self, index: u16) {
        self.store(self.avail + 4 + u64::from(self.size) * 2, index);
    }

    /// Sets the available ring's flags.
    pub fn set_avail_flags(&self, flags: u16) {
        self.store(self.avail, flags);
    }

    /// Whether the device asks for no notification by the used ring's flags.
    #[must_use]
    pub fn used_flags(&self) -> u16 {
        self.load(self.used)
    }

    /// The index up to which the device wants no notification (EVENT_IDX).
    #[must_use]
    pub fn avail_event(&self) -> u16 {
        self.load(self.used + 4 + u64::from(self.size) * 8)
    }

    /// The used ring's index.
    #[must_use]
    pub fn used_idx(&self) -> u16 {
        let at = GuestAddress(self.used + 2);
        self.memory
            .load(at, std::sync::atomic::Ordering::Acquire)
            .expect("in memory")
    }

    /// The next used chain: its head and the bytes written. Asks for an interrupt when the one
    /// after it is used (EVENT_IDX).
    pub fn pop_used(&mut self) -> Option<(u16, u32)> {
        self.set_used_event(self.used_idx);
        // The wish before the look, or both sides could miss each other.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if self.used_idx() == self.used_idx {
            return None;
        }
        let at = self.used + 4 + u64::from(self.used_idx % self.size) * 8;
        self.used_idx = self.used_idx.wrapping_add(1);
        let element: u64 = self.memory.read_obj(GuestAddress(at)).expect("in memory");
        let head = u16::try_from(element & 0xffff).expect("16 bits");
        Some((head, u32::try_from(element >> 32).expect("32 bits")))
    }

    fn store(&self, at: u64, value: u16) {
        self.memory
            .write_obj(value, GuestAddress(at))
            .expect("rings are in memory");
    }

    fn load(&self, at: u64) -> u16 {
        self.memory
            .read_obj(GuestAddress(at))
            .expect("rings are in memory")
    }
}

/// A device behind virtio-mmio with its driver.
#[derive(Debug)]
pub struct Driver {
    /// The device's registers.
    pub transport: MmioTransport,
    /// Guest memory.
    pub memory: SharedMemory,
    /// The queues, after [`Driver::start`].
    pub queues: Vec<DriverQueue>,
    /// What the device told the machine's owner.
    pub events: Arc<Events>,
    /// The interrupt line. Blocking: reading it waits.
    line: Arc<EventFd>,
}

impl Driver {
    /// Puts `device` into a test machine whose I/O thread is `io`. `events` is the sink the device
    /// has, if it has one.
    #[must_use]
    pub fn new(device: Box<dyn VirtioDevice>, io: IoHandle, events: Arc<Events>) -> Self {
        Self::with_memory(device, io, events, memory())
    }

    /// The same with given memory, as for a restored machine.
    #[must_use]
    pub fn with_memory(
        device: Box<dyn VirtioDevice>,
        io: IoHandle,
        events: Arc<Events>,
        memory: SharedMemory,
    ) -> Self {
        let line = Arc::new(EventFd::new(0).expect("an event descriptor"));
        let wiring = Wiring {
            id: Arc::from("dev0"),
            memory: Arc::clone(&memory),
            io,
            irq: line.clone(),
            events: events.clone(),
        };
        let transport = MmioTransport::new(device, wiring).expect("event descriptors");
        Self {
            transport,
            memory,
            queues: Vec::new(),
            events,
            line,
        }
    }

    /// Reads a register.
    pub fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a register.
    pub fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// The features on offer.
    pub fn offered(&mut self) -> u64 {
        self.write(0x014, 0);
        let low = self.read(0x010);
        self.write(0x014, 1);
        u64::from(low) | u64::from(self.read(0x010)) << 32
    }

    /// Negotiates `features` of those on offer; false if the device does not agree.
    pub fn negotiate(&mut self, features: u64) -> bool {
        self.write(0x070, 0);
        self.write(0x070, STATUS_ACKNOWLEDGE.into());
        self.write(0x070, (STATUS_ACKNOWLEDGE | STATUS_DRIVER).into());
        self.write(0x024, 0);
        self.write(
            0x020,
            u32::try_from(features & 0xffff_ffff).expect("32 bits"),
        );
        self.write(0x024, 1);
        self.write(0x020, u32::try_from(features >> 32).expect("32 bits"));
        let wish = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
        self.write(0x070, wish.into());
        self.read(0x070) == u32::from(wish)
    }

    /// Tells the device where queue `index` is.
    pub fn place_queue(&mut self, index: u16, queue: &DriverQueue) {
        self.write(0x030, index.into());
        self.write(0x038, queue.size.into());
        for (low, address) in [
            (0x080, queue.desc),
            (0x090, queue.avail),
            (0x0a0, queue.used),
        ] {
            self.write(low, u32::try_from(address & 0xffff_ffff).expect("32 bits"));
            self.write(low + 4, u32::try_from(address >> 32).expect("32 bits"));
        }
        self.write(0x044, 1);
    }

    /// Writes DRIVER_OK.
    pub fn drive(&mut self) {
        let status = self.read(0x070);
        self.write(0x070, status | u32::from(STATUS_DRIVER_OK));
    }

    /// Starts the device with `features` of those on offer and all its queues of `size` entries.
    pub fn start(&mut self, features: u64, size: u16) {
        assert!(self.negotiate(features), "the features are on offer");
        self.queues.clear();
        let count = self.transport.core_mut().queue_count();
        for index in 0..u16::try_from(count).expect("few queues") {
            let queue = DriverQueue::new(self.memory.clone(), index, size);
            self.place_queue(index, &queue);
            self.queues.push(queue);
        }
        self.drive();
    }

    /// Notifies queue `index`.
    pub fn notify(&mut self, index: u16) {
        self.write(0x050, index.into());
    }

    /// Waits for the interrupt line, acknowledges all that is pending, and says what was.
    pub fn wait_interrupt(&mut self) -> u32 {
        self.line.read().expect("a blocking read");
        self.acknowledge()
    }

    /// Acknowledges all that is pending, and says what was.
    pub fn acknowledge(&mut self) -> u32 {
        let pending = self.read(0x060);
        self.write(0x064, pending);
        pending
    }

    /// Notifies queue `index` and waits for the next used chain of it.
    pub fn run(&mut self, index: u16) -> (u16, u32) {
        self.notify(index);
        self.next_used(index)
    }

    /// Waits for the next used chain of queue `index`.
    pub fn next_used(&mut self, index: u16) -> (u16, u32) {
        loop {
            let queue = self.queues.get_mut(usize::from(index)).expect("a queue");
            if let Some(used) = queue.pop_used() {
                return used;
            }
            let pending = self.wait_interrupt();
            let needs_reset = self.read(0x070) & 0x40 != 0;
            assert!(
                !needs_reset || pending & 1 != 0,
                "the device stopped: {:?}",
                self.events
            );
        }
    }
}
