//! virtio over MMIO: finding devices, and the transport (virtio 1.2, section 4.2).

pub mod blk;
pub mod net;
pub mod queue;
pub mod rng;
pub mod vsock;

use crate::{boot_info, mmio};

/// thimble-1's slots.
pub const SLOTS: u64 = 17;
const FIRST_SLOT: u64 = 0xc000_1000;
const SLOT_SIZE: u64 = 0x1000;
/// The line of each slot.
const SLOT_LINES: [u32; SLOTS as usize] = [
    5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
];

/// Where other VMMs put devices, for benches that run on them: first, step, number. Firecracker
/// (two releases' places), and QEMU's microvm.
const OTHER_PLACES: [(u64, u64, u64); 3] = [
    (0xd000_0000, 0x1000, 8),
    (0xc000_1000, 0x1000, 8),
    (0xfeb0_0000, 0x200, 24),
];

/// Register offsets, section 4.2.2.
pub mod register {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const MAGIC_VALUE: u64 = 0x00;
    pub const VERSION: u64 = 0x04;
    pub const DEVICE_ID: u64 = 0x08;
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_NUM_MAX: u64 = 0x34;
    pub const QUEUE_NUM: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const INTERRUPT_STATUS: u64 = 0x60;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESC: u64 = 0x80;
    pub const QUEUE_DRIVER: u64 = 0x90;
    pub const QUEUE_DEVICE: u64 = 0xa0;
    pub const CONFIG_GENERATION: u64 = 0xfc;
    pub const CONFIG: u64 = 0x100;
}
use register::*;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// Version of the modern interface; 1 is the legacy one.
const MODERN: u32 = 2;

// Device status, section 2.1.
/// A driver has noticed the device.
pub const ACKNOWLEDGE: u32 = 1;
/// A driver knows how to drive it.
pub const DRIVER: u32 = 2;
/// The driver is ready.
pub const DRIVER_OK: u32 = 4;
/// Features are agreed on.
pub const FEATURES_OK: u32 = 8;
/// The device has met something it cannot go on from.
pub const NEEDS_RESET: u32 = 64;
/// The driver has given up.
pub const FAILED: u32 = 128;

/// Feature: indirect descriptors.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature: notifications and interrupts by ring position.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// Feature: not legacy.
pub const F_VERSION_1: u64 = 1 << 32;

/// Device types, section 5: network card.
pub const DEVICE_NET: u32 = 1;
/// Block device.
pub const DEVICE_BLOCK: u32 = 2;
/// Entropy source.
pub const DEVICE_RNG: u32 = 4;
/// Socket device.
pub const DEVICE_VSOCK: u32 = 19;

/// Why a device could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It did not take the features offered, which are its own.
    FeaturesRefused,
    /// It has no such queue.
    NoQueue,
    /// It did not finish a request in time.
    Timeout,
    /// It asks to be reset.
    NeedsReset,
}

/// Name of a device type.
pub fn device_name(id: u32) -> &'static str {
    match id {
        DEVICE_NET => "network card",
        DEVICE_BLOCK => "block device",
        3 => "console",
        DEVICE_RNG => "entropy source",
        5 => "balloon",
        8 => "SCSI host",
        9 => "9P transport",
        16 => "GPU",
        18 => "input device",
        DEVICE_VSOCK => "vsock",
        20 => "crypto device",
        24 => "memory device",
        26 => "file system",
        27 => "persistent memory",
        _ => "unknown device",
    }
}

/// One device's registers.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    base: u64,
    line: Option<u32>,
}

impl Transport {
    /// The device at an address, if there is a modern one.
    pub fn at(base: u64, line: Option<u32>) -> Option<Self> {
        let found = Self { base, line };
        let present = found.read(MAGIC_VALUE) == MAGIC
            && found.read(VERSION) == MODERN
            && found.read(DEVICE_ID) != 0;
        present.then_some(found)
    }

    /// The device in one of thimble-1's slots.
    pub fn in_slot(slot: u64) -> Option<Self> {
        let line = *SLOT_LINES.get(slot as usize)?;
        Self::at(FIRST_SLOT + slot * SLOT_SIZE, Some(line))
    }

    /// Address of its registers.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Its line, where that is known.
    pub fn line(&self) -> Option<u32> {
        self.line
    }

    /// Reads a register.
    pub fn read(&self, register: u64) -> u32 {
        mmio::read32(self.base + register)
    }

    /// Writes a register.
    pub fn write(&self, register: u64, value: u32) {
        mmio::write32(self.base + register, value);
    }

    /// Device type.
    pub fn device_id(&self) -> u32 {
        self.read(DEVICE_ID)
    }

    /// Device status.
    pub fn status(&self) -> u32 {
        self.read(STATUS)
    }

    /// Resets the device and waits for it, section 4.2.3.1.
    pub fn reset(&self) {
        self.write(STATUS, 0);
        while self.status() != 0 {
            core::hint::spin_loop();
        }
    }

    /// All features the device offers.
    pub fn features(&self) -> u64 {
        self.write(DEVICE_FEATURES_SEL, 0);
        let low = u64::from(self.read(DEVICE_FEATURES));
        self.write(DEVICE_FEATURES_SEL, 1);
        u64::from(self.read(DEVICE_FEATURES)) << 32 | low
    }

    /// Resets the device and agrees on those of `wanted` it offers, section 3.1.1.
    pub fn negotiate(&self, wanted: u64) -> Result<u64, Error> {
        self.reset();
        self.write(STATUS, ACKNOWLEDGE);
        self.write(STATUS, ACKNOWLEDGE | DRIVER);
        let agreed = self.features() & (wanted | F_VERSION_1);
        self.write(DRIVER_FEATURES_SEL, 0);
        self.write(DRIVER_FEATURES, agreed as u32);
        self.write(DRIVER_FEATURES_SEL, 1);
        self.write(DRIVER_FEATURES, (agreed >> 32) as u32);
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if self.status() & FEATURES_OK == 0 {
            return Err(Error::FeaturesRefused);
        }
        Ok(agreed)
    }

    /// Gives the device its queue number `index`, of the largest size both can do.
    pub fn set_up_queue(&self, index: u32) -> Result<queue::Queue, Error> {
        self.write(QUEUE_SEL, index);
        let size = self.read(QUEUE_NUM_MAX).min(u32::from(queue::SIZE_MAX));
        if size == 0 || self.read(QUEUE_READY) != 0 {
            return Err(Error::NoQueue);
        }
        // The device's limit need not be a power of two; the ring's size must be.
        let size = 1 << size.ilog2();
        let queue = queue::Queue::new(index, size as u16);
        self.write(QUEUE_NUM, size);
        self.write_address(QUEUE_DESC, queue.descriptors());
        self.write_address(QUEUE_DRIVER, queue.available());
        self.write_address(QUEUE_DEVICE, queue.used());
        self.write(QUEUE_READY, 1);
        Ok(queue)
    }

    fn write_address(&self, register: u64, address: u64) {
        self.write(register, address as u32);
        self.write(register + 4, (address >> 32) as u32);
    }

    /// Tells the device that the driver is ready.
    pub fn driver_ok(&self) {
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Tells the device that a queue has new buffers.
    pub fn notify(&self, queue: u32) {
        self.write(QUEUE_NOTIFY, queue);
    }

    /// Acknowledges and returns what the device has raised its line for.
    pub fn acknowledge(&self) -> u32 {
        let reasons = self.read(INTERRUPT_STATUS);
        self.write(INTERRUPT_ACK, reasons);
        reasons
    }

    /// Reads configuration space.
    pub fn config8(&self, offset: u64) -> u8 {
        mmio::read8(self.base + CONFIG + offset)
    }

    /// Reads configuration space.
    pub fn config16(&self, offset: u64) -> u16 {
        mmio::read16(self.base + CONFIG + offset)
    }

    /// Reads configuration space.
    pub fn config32(&self, offset: u64) -> u32 {
        mmio::read32(self.base + CONFIG + offset)
    }

    /// Reads configuration space, again until the generation holds still, section 4.2.2.2.
    pub fn config64(&self, offset: u64) -> u64 {
        loop {
            let generation = self.read(CONFIG_GENERATION);
            let low = u64::from(self.config32(offset));
            let value = u64::from(self.config32(offset + 4)) << 32 | low;
            if self.read(CONFIG_GENERATION) == generation {
                return value;
            }
        }
    }
}

/// Devices at the places the command line names (`virtio_mmio.device=SIZE@ADDRESS:LINE`), then
/// those in thimble-1's slots.
pub fn devices() -> impl Iterator<Item = Transport> {
    named_on_command_line().chain((0..SLOTS).filter_map(Transport::in_slot))
}

/// The first device of a type: one of `devices`, or where other VMMs put them.
pub fn find(device_id: u32) -> Option<Transport> {
    let elsewhere = OTHER_PLACES
        .iter()
        .flat_map(|&(first, step, number)| (0..number).map(move |i| first + i * step))
        .filter_map(|base| Transport::at(base, None));
    devices()
        .chain(elsewhere)
        .find(|found| found.device_id() == device_id)
}

fn named_on_command_line() -> impl Iterator<Item = Transport> {
    boot_info::command_line()
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("virtio_mmio.device="))
        .filter_map(|place| {
            let (_size, rest) = place.split_once('@')?;
            let mut parts = rest.split(':');
            let base = u64::from_str_radix(parts.next()?.trim_start_matches("0x"), 16).ok()?;
            mmio::WINDOW.contains(&base).then_some(())?;
            let line = parts.next().and_then(|line| line.parse().ok());
            Transport::at(base, line)
        })
}
