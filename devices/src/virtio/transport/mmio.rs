//! The registers of virtio-mmio, version 2 (virtio 1.2, 4.2.2). Decoding only; [`Core`] decides.
//!
//! Called on vCPU threads through the bus. Below 0x100 only aligned 4-byte accesses mean anything
//! (4.2.2.2); the rest reads as zero and writes nothing.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::core::{Core, Wiring, replace_half};
use super::saved::{TransportState, restore, save};
use crate::bus::BusDevice;
use crate::saved::{BadState, Saved};
use crate::virtio::device::VirtioDevice;
use crate::virtio::queue::Layout;

/// Bytes of a device's range.
pub const MMIO_LEN: u64 = 0x1000;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "TMBL", little-endian. Drivers do not care; part of `thimble-1`.
const VENDOR: u32 = 0x4c42_4d54;

const REG_MAGIC: u64 = 0x000;
const REG_VERSION: u64 = 0x004;
const REG_DEVICE_ID: u64 = 0x008;
const REG_VENDOR_ID: u64 = 0x00c;
const REG_DEVICE_FEATURES: u64 = 0x010;
const REG_DEVICE_FEATURES_SEL: u64 = 0x014;
const REG_DRIVER_FEATURES: u64 = 0x020;
const REG_DRIVER_FEATURES_SEL: u64 = 0x024;
const REG_QUEUE_SEL: u64 = 0x030;
const REG_QUEUE_NUM_MAX: u64 = 0x034;
const REG_QUEUE_NUM: u64 = 0x038;
const REG_QUEUE_READY: u64 = 0x044;
/// Offset of QueueNotify: a driver writes the number of the queue there.
pub const REG_QUEUE_NOTIFY: u64 = 0x050;
const REG_INTERRUPT_STATUS: u64 = 0x060;
const REG_INTERRUPT_ACK: u64 = 0x064;
const REG_STATUS: u64 = 0x070;
const REG_QUEUE_DESC_LOW: u64 = 0x080;
const REG_QUEUE_DESC_HIGH: u64 = 0x084;
const REG_QUEUE_DRIVER_LOW: u64 = 0x090;
const REG_QUEUE_DRIVER_HIGH: u64 = 0x094;
const REG_QUEUE_DEVICE_LOW: u64 = 0x0a0;
const REG_QUEUE_DEVICE_HIGH: u64 = 0x0a4;
const REG_SHM_LEN_LOW: u64 = 0x0b0;
const REG_SHM_BASE_HIGH: u64 = 0x0bc;
const REG_CONFIG_GENERATION: u64 = 0x0fc;
const CONFIG: u64 = 0x100;

/// An address that the VMM registers with KVM, so that a notification wakes the I/O thread without
/// a detour through the VMM: a 4-byte write of `queue` at `offset` signals `event`.
#[derive(Debug, Clone)]
pub struct Doorbell {
    /// Offset in the device's range.
    pub offset: u64,
    /// The value that must be written.
    pub queue: u32,
    /// What is signalled. The same for the life of the device.
    pub event: Arc<EventFd>,
}

/// A device behind virtio-mmio.
#[derive(Debug)]
pub struct MmioTransport {
    core: Core,
    selectors: Selectors,
}

/// The registers that choose what other registers mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Selectors {
    pub(super) device_features: u32,
    pub(super) driver_features: u32,
    pub(super) queue: u32,
}

impl MmioTransport {
    /// Puts `device` behind virtio-mmio registers.
    ///
    /// # Errors
    /// When no event descriptor can be had for a queue's doorbell.
    pub fn new(device: Box<dyn VirtioDevice>, wiring: Wiring) -> io::Result<Self> {
        Ok(Self {
            core: Core::new(device, wiring)?,
            selectors: Selectors::default(),
        })
    }

    /// What the VMM registers as ioeventfds: one per queue. A notification that reaches the bus
    /// nevertheless works as well.
    #[must_use]
    pub fn doorbells(&self) -> Vec<Doorbell> {
        let doorbell = |(queue, event)| Doorbell {
            offset: REG_QUEUE_NOTIFY,
            queue,
            event,
        };
        let events = self
            .core
            .queues
            .iter()
            .map(|queue| Arc::clone(&queue.doorbell));
        (0..).zip(events).map(doorbell).collect()
    }

    /// The device's registers and life: pause, resume, configuration changes, and the device
    /// itself. Not for resetting; see [`MmioTransport::reset`].
    pub fn core_mut(&mut self) -> &mut Core {
        &mut self.core
    }

    /// Resets the device and its selectors, with the machine.
    pub fn reset(&mut self) {
        let Self { core, selectors } = self;
        core.reset();
        *selectors = Selectors::default();
    }

    fn read_register(&self, offset: u64) -> u32 {
        let Selectors {
            device_features,
            driver_features: _,
            queue,
        } = self.selectors;
        let core = &self.core;
        match offset {
            REG_MAGIC => MAGIC,
            REG_VERSION => VERSION,
            REG_DEVICE_ID => core.device_type(),
            REG_VENDOR_ID => VENDOR,
            REG_DEVICE_FEATURES => half(core.device_features(), device_features),
            REG_QUEUE_NUM_MAX => core.queue_info(queue).map_or(0, |(max, _)| u32::from(max)),
            REG_QUEUE_READY => core
                .queue_info(queue)
                .map_or(0, |(_, ready)| u32::from(ready)),
            REG_INTERRUPT_STATUS => core.interrupt().status(),
            REG_STATUS => u32::from(core.status()),
            // No shared memory region exists: its length and base read as all ones.
            REG_SHM_LEN_LOW..=REG_SHM_BASE_HIGH => u32::MAX,
            REG_CONFIG_GENERATION => core.config_generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let queue = self.selectors.queue;
        let core = &mut self.core;
        let mut layout = |change: &dyn Fn(&mut Layout)| core.configure_queue(queue, change);
        match offset {
            REG_DEVICE_FEATURES_SEL => self.selectors.device_features = value,
            REG_DRIVER_FEATURES_SEL => self.selectors.driver_features = value,
            REG_QUEUE_SEL => self.selectors.queue = value,
            // Bits from 64 on are offered by no device, so accepting them means nothing.
            REG_DRIVER_FEATURES if self.selectors.driver_features <= 1 => {
                core.accept_features(self.selectors.driver_features == 1, value);
            }
            // A size beyond 16 bits becomes one that is refused when the queue is used.
            REG_QUEUE_NUM => layout(&|q| q.size = u16::try_from(value).unwrap_or(0)),
            REG_QUEUE_READY => core.set_queue_ready(queue, value & 1 != 0),
            REG_QUEUE_NOTIFY => core.notify(value),
            REG_INTERRUPT_ACK => core.interrupt().acknowledge(value),
            // A value above 8 bits is no status; above all it is not the zero that resets.
            REG_STATUS => {
                if let Ok(status) = u8::try_from(value) {
                    core.write_status(status);
                }
            }
            REG_QUEUE_DESC_LOW => layout(&|q| q.desc = replace_half(q.desc, false, value)),
            REG_QUEUE_DESC_HIGH => layout(&|q| q.desc = replace_half(q.desc, true, value)),
            REG_QUEUE_DRIVER_LOW => layout(&|q| q.avail = replace_half(q.avail, false, value)),
            REG_QUEUE_DRIVER_HIGH => layout(&|q| q.avail = replace_half(q.avail, true, value)),
            REG_QUEUE_DEVICE_LOW => layout(&|q| q.used = replace_half(q.used, false, value)),
            REG_QUEUE_DEVICE_HIGH => layout(&|q| q.used = replace_half(q.used, true, value)),
            _ => {}
        }
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.core.read_config(offset, data);
        } else if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.core.write_config(offset, data);
        } else if let Ok(&data) = <&[u8; 4]>::try_from(data) {
            self.write_register(offset, u32::from_le_bytes(data));
        }
    }
}

impl Saved for MmioTransport {
    type State = TransportState;

    const KIND: &'static str = "virtio-mmio";
    const VERSION: u32 = 1;

    /// Only while no worker runs; see [`Core::is_running`].
    fn save(&self) -> TransportState {
        let Self { core, selectors } = self;
        save(core, *selectors)
    }

    fn restore(&mut self, state: &TransportState) -> Result<(), BadState> {
        let Self { core, selectors } = self;
        *selectors = restore(core, Self::KIND, state)?;
        Ok(())
    }
}

/// Bits 0 to 31 (`select` 0) or 32 to 63 (1) of the features; no others exist.
fn half(features: u64, select: u32) -> u32 {
    let [low, high] = [features & 0xffff_ffff, features >> 32];
    let half = match select {
        0 => low,
        1 => high,
        _ => 0,
    };
    u32::try_from(half).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io_thread::IoThread;
    use crate::virtio::fake_driver::{DATA, Driver, DriverQueue, Events, writable};
    use crate::virtio::rng::{HostEntropy, Rng};
    use crate::virtio::spec::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

    fn driver(io: &IoThread) -> Driver {
        let device = Box::new(Rng::new(Box::new(HostEntropy)));
        Driver::new(device, io.handle(), Arc::new(Events::default()))
    }

    #[test]
    fn the_identity_registers_are_those_of_the_machine() {
        let io = IoThread::spawn(|| {}).unwrap();
        let mut d = driver(&io);
        let golden = [
            (0x000, 0x7472_6976),
            (0x004, 2),
            (0x008, 4),
            (0x00c, 0x4c42_4d54),
        ];
        for (offset, value) in golden {
            d.write(offset, 0xffff_ffff);
            assert_eq!(d.read(offset), value);
        }
        assert_eq!(d.offered(), F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC);
        d.write(0x014, 2);
        assert_eq!(d.read(0x010), 0);
        assert_eq!(
            (d.read(0x034), d.read(0x0b0), d.read(0x0bc), d.read(0x0c0)),
            (64, u32::MAX, u32::MAX, 0)
        );
        d.write(0x030, 1);
        assert_eq!((d.read(0x034), d.read(0x044)), (0, 0));
        // Other widths and unaligned offsets read as nothing.
        for (offset, len) in [(0, 1), (0, 2), (0, 8), (2, 4), (0x070, 8)] {
            let mut data = vec![0; len];
            d.transport.read(offset, &mut data);
            assert!(data.iter().all(|&byte| byte == 0), "{offset:#x} {len}");
        }
    }

    #[test]
    fn the_status_only_grows_and_in_order() {
        let io = IoThread::spawn(|| {}).unwrap();
        let mut d = driver(&io);
        let mut step = |value: u32| {
            d.write(0x070, value);
            d.read(0x070)
        };
        // DRIVER, FEATURES_OK, DRIVER_OK without what goes before.
        assert_eq!([step(2), step(8), step(4)], [0, 0, 0]);
        assert_eq!([step(1), step(1 | 4), step(1 | 8)], [1, 1, 1]);
        // FEATURES_OK without VERSION_1; taking a bit back; a reserved bit; beyond 8 bits.
        assert_eq!(
            [step(3), step(11), step(2), step(3 | 0x20), step(0x100)],
            [3; 5]
        );
        assert_eq!([step(0x83), step(0)], [0x83, 0]);
    }

    #[test]
    fn features_not_on_offer_are_not_agreed_on() {
        let io = IoThread::spawn(|| {}).unwrap();
        let mut d = driver(&io);
        assert!(!d.negotiate(0));
        assert!(!d.negotiate(F_VERSION_1 | 1));
        assert!(!d.negotiate(F_VERSION_1 | 1 << 63));
        assert!(d.negotiate(F_VERSION_1));
        // Settled: what is written now does not count.
        d.write(0x024, 0);
        d.write(0x020, u32::MAX);
        assert_eq!(d.transport.core_mut().negotiated(), F_VERSION_1);
    }

    #[test]
    fn queue_registers_are_writable_between_features_ok_and_driver_ok() {
        let io = IoThread::spawn(|| {}).unwrap();
        let mut d = driver(&io);
        let queue = DriverQueue::new(d.memory.clone(), 0, 8);
        d.place_queue(0, &queue);
        assert_eq!(d.read(0x044), 0);
        assert!(d.negotiate(F_VERSION_1));
        d.place_queue(0, &queue);
        assert_eq!(d.read(0x044), 1);
        // While it is ready its place is fixed, but it can be made unready.
        d.write(0x080, 0x1234);
        d.write(0x044, 0);
        assert_eq!(d.read(0x044), 0);
        d.write(0x044, 1);
        d.drive();
        d.write(0x044, 0);
        assert_eq!((d.read(0x044), d.read(0x070)), (1, 0xf));
        d.queues.push(queue);
        d.queues[0].add(&[writable(DATA, 8)]);
        assert_eq!(d.run(0).1, 8);
    }

    #[test]
    fn a_queue_of_an_impossible_size_stops_the_device_at_driver_ok() {
        let io = IoThread::spawn(|| {}).unwrap();
        for size in [0, 3, 128, 0x1_0000, u32::MAX] {
            let mut d = driver(&io);
            assert!(d.negotiate(F_VERSION_1));
            let queue = DriverQueue::new(d.memory.clone(), 0, 8);
            d.write(0x038, size);
            d.write(0x080, u32::try_from(queue.desc).unwrap());
            d.write(0x044, 1);
            d.drive();
            assert_eq!((d.read(0x070), d.read(0x060)), (0x4f, 2), "{size}");
            assert_eq!(d.events.take().len(), 1);
        }
    }

    #[test]
    fn a_doorbell_wakes_the_worker_without_the_bus() {
        let io = IoThread::spawn(|| {}).unwrap();
        let mut d = driver(&io);
        d.start(F_VERSION_1, 8);
        let doorbells = d.transport.doorbells();
        let [
            Doorbell {
                offset: 0x050,
                queue: 0,
                event,
            },
        ] = &doorbells[..]
        else {
            panic!("{doorbells:?}")
        };
        d.queues[0].add(&[writable(DATA, 5)]);
        event.write(1).unwrap();
        assert_eq!(d.next_used(0).1, 5);
        assert_eq!(d.read(0x060) & !1, 0);
    }
}
