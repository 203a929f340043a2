//! A virtio device with its driver, on an I/O thread and in memory that tells who wrote where.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use devices::disk::CacheMode;
use devices::disk::raw::RawDisk;
use devices::events::GuestEvent;
use devices::io_thread::IoThread;
use devices::net::fake::{self, FakePeer};
use devices::saved::Saved;
use devices::virtio::blk::{BlkOptions, ErrorPolicy, VirtioBlk};
use devices::virtio::device::VirtioDevice;
use devices::virtio::fake_driver::{DATA, Driver, Events, MEMORY_LEN, readable, writable};
use devices::virtio::net::{NetLimits, NetOptions, VirtioNet};
use devices::virtio::rng::{HostEntropy, Rng};
use devices::virtio::transport::saved::TransportState;
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress};

use crate::sparse::Sparse;

/// Bytes of the disk.
pub const DISK_LEN: u64 = 1 << 20;
/// Entries of each queue a rig starts with.
pub const QUEUE_LEN: u16 = 16;
const PAGE: usize = 4096;

/// Which device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A block device with two queues in front of a raw file.
    Blk,
    /// The same, read-only.
    ReadOnlyBlk,
    /// The entropy device.
    Rng,
    /// A network card in front of a socket.
    Net,
}

/// All of them.
pub const KINDS: [Kind; 4] = [Kind::Blk, Kind::Rng, Kind::ReadOnlyBlk, Kind::Net];

/// One I/O thread for all inputs: it must survive them all.
pub fn io() -> &'static IoThread {
    static IO: OnceLock<IoThread> = OnceLock::new();
    IO.get_or_init(|| IoThread::spawn(|| {}).expect("a thread"))
}

/// What is behind a device.
#[derive(Debug, Default)]
struct Behind {
    disk: Option<File>,
    network: Option<FakePeer>,
}

fn device(kind: Kind, events: &Arc<Events>) -> (Box<dyn VirtioDevice>, Behind) {
    if kind == Kind::Rng {
        return (Box::new(Rng::new(Box::new(HostEntropy))), Behind::default());
    }
    if kind == Kind::Net {
        let (backend, peer) = fake::pair(1);
        let options = NetOptions {
            id: Arc::from("dev0"),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: Some(1500),
            limits: NetLimits::default(),
            events: events.clone(),
        };
        let network = Some(peer);
        return (
            Box::new(VirtioNet::new(Box::new(backend), options).expect("descriptors")),
            Behind {
                network,
                ..Behind::default()
            },
        );
    }
    let file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).expect("a memfd"));
    file.set_len(DISK_LEN).expect("room");
    let clone = file.try_clone().expect("a descriptor");
    let disk = RawDisk::new(clone, CacheMode::Writeback, kind == Kind::ReadOnlyBlk);
    let options = BlkOptions {
        id: Arc::from("dev0"),
        serial: "serial".to_owned(),
        writeback: true,
        discard: true,
        rerror: ErrorPolicy::Report,
        werror: ErrorPolicy::Enospc,
        queues: 2,
        events: events.clone(),
    };
    (
        Box::new(VirtioBlk::new(Box::new(disk.expect("a disk")), options)),
        Behind {
            disk: Some(file),
            ..Behind::default()
        },
    )
}

/// A device, its driver, its disk.
pub struct Rig {
    /// The driver.
    pub driver: Driver,
    kind: Kind,
    behind: Behind,
}

impl Rig {
    /// A device that nobody has touched, in `ram`.
    pub fn new(kind: Kind, ram: &Sparse) -> Self {
        let events = Arc::new(Events::default());
        let (device, behind) = device(kind, &events);
        let memory = Arc::clone(&ram.memory);
        let driver = Driver::with_memory(device, io().handle(), events, memory);
        Self {
            driver,
            kind,
            behind,
        }
    }

    /// The network behind a card.
    pub fn network(&self) -> &FakePeer {
        self.behind.network.as_ref().expect("a network card")
    }

    /// Memory for rigs, as large as the fake driver's own.
    pub fn ram() -> Sparse {
        Sparse::new(MEMORY_LEN, 2)
    }

    /// Takes the worker back.
    pub fn pause(&mut self) {
        self.driver
            .transport
            .core_mut()
            .pause()
            .expect("the I/O thread lives");
    }

    /// Takes the worker back and the state.
    pub fn save(&mut self) -> TransportState {
        self.pause();
        self.driver.transport.save()
    }

    /// Lets the worker look at its queues a few times, until all that was made available in them is
    /// used or the device has stopped, and leaves it paused. A hostile queue may never get there.
    pub fn settle(&mut self) {
        for _ in 0..6 {
            self.driver.transport.core_mut().resume();
            self.pause();
            let state = self.driver.transport.save();
            let idle = (state.queues.iter().zip(&self.driver.queues)).all(|(device, driver)| {
                device.next_used == driver.used_idx()
                    && caught_up(&self.driver, driver.avail, device.next_avail)
            });
            if idle || state.status & 0x40 != 0 {
                return;
            }
        }
    }

    /// Whether the device has told, once, that it stopped; or has not stopped.
    pub fn check_faults(&mut self) {
        let stopped = self.driver.read(0x070) & 0x40 != 0;
        let told = self.driver.events.take();
        let faults = told
            .iter()
            .filter(|event| matches!(event, GuestEvent::DeviceNeedsReset { .. }))
            .count();
        assert_eq!(faults, usize::from(stopped), "{told:?}");
    }

    /// The device answers a plain request after a reset, whatever went before, and its disk is as
    /// long as ever.
    pub fn check_works(&mut self) {
        self.driver.write(0x070, 0);
        let status = (self.driver.read(0x070), self.driver.read(0x060));
        assert_eq!(status, (0, 0), "a reset device");
        self.driver.events.take();
        let features = self.driver.offered();
        self.driver.start(features, QUEUE_LEN);
        let mut header = [0; 16];
        header[0] = 4;
        let memory = Arc::clone(&self.driver.memory);
        memory
            .write_slice(&header, GuestAddress(DATA))
            .expect("in memory");
        if self.kind == Kind::Net {
            // With the cable out, or with no sense in its header, the frame goes nowhere.
            let head = self.driver.queues[1].add(&[readable(DATA, 96)]);
            assert_eq!(self.driver.run(1), (head, 0));
        } else {
            let chain = [readable(DATA, 16), writable(DATA + 0x100, 1)];
            let head = self.driver.queues[0].add(&chain);
            assert_eq!(self.driver.run(0), (head, 1));
        }
        self.pause();
        assert_eq!(self.driver.events.take(), []);
        if let Some(disk) = &self.behind.disk {
            assert_eq!(disk.metadata().expect("a file").len(), DISK_LEN);
        }
    }

    /// The state of the device comes back equal in another one, which works too.
    pub fn check_restores(&mut self, ram: &Sparse) {
        let state = self.save();
        let mut other = Self::new(self.kind, ram);
        other
            .driver
            .transport
            .restore(&state)
            .expect("a state we saved");
        assert_eq!(other.driver.transport.save(), state);
        other.driver.transport.core_mut().resume();
        other.pause();
        other.check_works();
    }
}

fn caught_up(driver: &Driver, avail: u64, taken: u16) -> bool {
    let index: u16 = driver
        .memory
        .read_obj(GuestAddress(avail + 2))
        .expect("in memory");
    index == taken
}

/// What was in memory at some time.
pub struct Snapshot(BTreeMap<u64, Vec<u8>>);

impl Snapshot {
    /// The memory as it is now.
    pub fn of(ram: &Sparse) -> Self {
        let mut pages = BTreeMap::new();
        for range in ram.touched() {
            let bytes = ram.bytes(range.clone());
            for (at, page) in (range.start..).step_by(PAGE).zip(bytes.chunks(PAGE)) {
                pages.insert(at, page.to_vec());
            }
        }
        Self(pages)
    }

    /// Panics if a byte outside `allowed` has changed since.
    pub fn check_only(&self, ram: &Sparse, allowed: &[Range<u64>]) {
        let empty = vec![0; PAGE];
        for (at, page) in &Self::of(ram).0 {
            let before = self.0.get(at).unwrap_or(&empty);
            if before == page {
                continue;
            }
            for ((address, old), new) in (*at..).zip(before).zip(page) {
                let may = || allowed.iter().any(|range| range.contains(&address));
                assert!(old == new || may(), "{address:#x} was written");
            }
        }
    }
}
