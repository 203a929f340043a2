//! What a guest sees of `thimble-1`'s devices before it has touched any, frozen: where they are, on
//! which lines, and what their registers read.

use std::cell::RefCell;
use std::fmt::Write;
use std::fs;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use api_socket::config::{CheckedDisk, CheckedNet, check, parse};
use devices::chardev::{Backend, Chardev};
use devices::io_thread::IoThread;
use devices::net::ranges::GuestRanges;
use devices::net::{NetBackend, Offloads};
use devices::vsock::VsockBackend;
use devices::vsock::directory::DirectoryConnector;
use firmware::layout;
use serde_json::{Value, json};

use super::*;
use crate::guest_events::event_queue;
use crate::memory::GuestRam;

/// The clock of the machine below: 2023-11-14 22:13:20 UTC.
const NOW: Duration = Duration::from_secs(1_700_000_000);

/// Writes down what is asked of KVM.
#[derive(Default)]
struct Written(RefCell<String>);

impl EventRoutes for Written {
    fn irqfd(&self, _event: &EventFd, gsi: u32) -> Result<(), KvmError> {
        writeln!(self.0.borrow_mut(), "irqfd gsi {gsi}").unwrap();
        Ok(())
    }

    fn ioeventfd(&self, _event: &EventFd, address: u64, value: u32) -> Result<(), KvmError> {
        writeln!(self.0.borrow_mut(), "ioeventfd {address:08x} = {value}").unwrap();
        Ok(())
    }
}

/// A machine's devices without KVM.
struct Rig {
    routes: Written,
    io: IoThread,
    ram: GuestRam,
}

impl Rig {
    fn new() -> Self {
        Self {
            routes: Written::default(),
            io: IoThread::spawn(|| {}).unwrap(),
            ram: GuestRam::new(&layout::ram_regions(0x20_0000)).unwrap(),
        }
    }

    fn board(&self) -> Board<'_> {
        let (events, _receiver) = event_queue(Arc::default()).unwrap();
        Board {
            routes: &self.routes,
            pio: Bus::new(),
            mmio: Bus::new(),
            events,
            memory: Arc::clone(self.ram.memory()),
            io: self.io.handle(),
            virtio_slots: 0,
        }
    }
}

fn disks(settings: &[Value]) -> Vec<OpenDisk> {
    let config = serde_json::from_value(json!({ "disks": settings })).unwrap();
    let open = |config: &CheckedDisk| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        OpenDisk {
            config: config.clone(),
            lock: file.try_clone().unwrap(),
            file,
        }
    };
    check(&config).unwrap().disks.iter().map(open).collect()
}

/// A vsock device to which nobody connects.
fn open_vsock() -> OpenVsock {
    let config = json!({ "vsock": { "path": "v", "cid": 0x1234_5678 } });
    let config = serde_json::from_value(config).unwrap();
    let (listener, _) = UnixStream::pair().unwrap();
    OpenVsock {
        config: check(&config).unwrap().vsock.unwrap(),
        backend: VsockBackend {
            listener: listener.into(),
            connector: Box::new(DirectoryConnector::open(Path::new("v")).unwrap()),
        },
    }
}

/// A network that is nowhere, of a host with every offload.
struct Nowhere;

impl NetBackend for Nowhere {
    fn queues(&self) -> u16 {
        2
    }

    fn offloads(&self) -> Offloads {
        Offloads {
            csum: true,
            tso4: true,
            tso6: true,
            ecn: true,
            ufo: true,
            uso: true,
        }
    }

    fn set_offloads(&mut self, _guest: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn set_active(&mut self, _active: u16) -> io::Result<()> {
        Ok(())
    }

    fn event(&self, _queue: u16) -> Option<RawFd> {
        None
    }

    fn watch(&mut self, _queue: u16, _receiving: bool, _sending: bool) -> io::Result<()> {
        Ok(())
    }

    fn receive(
        &mut self,
        _queue: u16,
        _ranges: &mut GuestRanges,
        _overflow: &mut [u8],
    ) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, _queue: u16, _header: &[u8; 12], _frame: &GuestRanges) -> io::Result<()> {
        Ok(())
    }
}

/// Network cards without a network.
fn nets(nets: &[Value]) -> Vec<OpenNet> {
    let text = json!({ "nets": nets }).to_string();
    let open = |config: &CheckedNet| OpenNet {
        config: config.clone(),
        backend: Box::new(Nowhere),
        interface: "nowhere".to_owned(),
    };
    let checked = parse(text.as_bytes()).unwrap();
    checked.nets.iter().map(open).collect()
}

fn attach_all(board: &mut Board<'_>, wanted: Wanted<'_>) -> Devices {
    let console = Chardev::new("serial0", Backend::Null).unwrap();
    let clock = Box::new(|| NOW);
    all(board, Box::new(console.output()), clock, wanted).unwrap()
}

fn byte(bus: &Bus, address: u64) -> u8 {
    let mut data = [0];
    assert!(bus.read(address, &mut data), "{address:#x}");
    data[0]
}

fn word(bus: &Bus, address: u64) -> u32 {
    let mut data = [0; 4];
    assert!(bus.read(address, &mut data), "{address:#x}");
    u32::from_le_bytes(data)
}

/// Sixteen bytes a line.
fn hex(text: &mut String, bytes: &[u8]) {
    for line in bytes.chunks(16) {
        let line: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "    {}", line.join(" ")).unwrap();
    }
}

/// The registers of a virtio-mmio slot, as a driver reads them first (virtio 1.2, 4.2.2).
fn virtio(text: &mut String, mmio: &Bus, name: &str, base: u64) {
    let select = |register, value: u32| {
        assert!(mmio.write(base + register, &value.to_le_bytes()));
    };
    let identity: Vec<_> = [0x000, 0x004, 0x008, 0x00c]
        .map(|register| format!("{:08x}", word(mmio, base + register)))
        .into();
    writeln!(text, "{name}: {}", identity.join(" ")).unwrap();
    let features = [1, 0].map(|half| {
        select(0x014, half);
        format!("{:08x}", word(mmio, base + 0x010))
    });
    writeln!(text, "  features {}", features.concat()).unwrap();
    let queues = (0..).map(|queue| {
        select(0x030, queue);
        word(mmio, base + 0x034)
    });
    let sizes: Vec<_> = queues.take_while(|&size| size != 0).collect();
    writeln!(text, "  queues {sizes:?}").unwrap();
    writeln!(text, "  configuration space").unwrap();
    let config: Vec<_> = (0..64).map(|at| byte(mmio, base + 0x100 + at)).collect();
    hex(text, &config);
}

/// The whole machine as text.
fn machine() -> String {
    let rig = Rig::new();
    let mut board = rig.board();
    let images = disks(&[
        json!({ "path": "a", "serial": "S1" }),
        json!({ "path": "b", "readonly": true }),
        json!({ "path": "c", "cache": "writethrough", "discard": "ignore" }),
    ]);
    let wanted = Wanted {
        disks: images,
        rng: Some("rng0"),
        nets: nets(&[json!({ "tap": "t", "queues": 2, "mtu": 9000 })]),
        vsock: Some(open_vsock()),
        guest: Some("golden".to_owned()),
    };
    let devices = attach_all(&mut board, wanted);
    let (pio, mmio) = (board.pio, board.mmio);
    let mut text = String::new();
    for (title, bus) in [("ports", &pio), ("memory", &mmio)] {
        writeln!(text, "{title}").unwrap();
        for (first, last, name) in bus.ranges() {
            writeln!(text, "  {first:08x}-{last:08x} {name}").unwrap();
        }
    }
    text.push_str(&rig.routes.0.borrow());
    writeln!(text, "com1 at power-on").unwrap();
    let com1: Vec<_> = (0x3f8..0x400).map(|port| byte(&pio, port)).collect();
    hex(&mut text, &com1);
    writeln!(text, "i8042 at power-on").unwrap();
    let i8042: Vec<_> = (0x60..0x65).map(|port| byte(&pio, port)).collect();
    hex(&mut text, &i8042);
    writeln!(text, "pvpanic {:02x}", byte(&pio, 0x505)).unwrap();
    writeln!(text, "cmos at power-on").unwrap();
    let cmos: Vec<_> = (0..128)
        .map(|index| {
            assert!(pio.write(0x70, &[index]));
            byte(&pio, 0x71)
        })
        .collect();
    hex(&mut text, &cmos);
    for slot in &devices.virtio {
        let base = u64::from(layout::virtio_mmio_slot(slot.slot).unwrap().address);
        virtio(&mut text, &mmio, &slot.id, base);
    }
    text
}

#[test]
fn the_machine_is_the_frozen_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/thimble-1.txt");
    let now = machine();
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        fs::write(&path, &now).unwrap();
    }
    let frozen = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}: UPDATE_GOLDENS=1 writes it", path.display()));
    assert_eq!(
        now, frozen,
        "the devices of thimble-1 changed. Guests see this: it wants a new machine version, unless \
         nothing was released yet (then UPDATE_GOLDENS=1)"
    );
}

#[test]
fn every_slot_can_be_taken_and_no_more() {
    let rig = Rig::new();
    let mut board = rig.board();
    let paths: Vec<_> = (0..layout::VIRTIO_MMIO_SLOTS)
        .map(|n| json!({ "path": format!("image{n}") }))
        .collect();
    let wanted = Wanted {
        disks: disks(&paths),
        rng: None,
        nets: Vec::new(),
        vsock: None,
        guest: None,
    };
    let devices = attach_all(&mut board, wanted);
    let slots: Vec<_> = devices.virtio.iter().map(|slot| slot.slot).collect();
    assert_eq!(slots, (0..17).collect::<Vec<u8>>());
    let refused = rng::attach(&mut board, "rng0").err().unwrap();
    assert_eq!(refused.to_string(), "the machine has no free slot for rng0");
}
