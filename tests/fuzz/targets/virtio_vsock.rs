//! The socket device, reached by the guest's driver and by programs of the host: nearly valid
//! packets for a few connections both begin, data and its end from the host, and rubbish.
//!
//! The device gives each receive buffer back at most once and writes nowhere else; what it sends is
//! a packet of its own address; a fault is told once; and after a reset it works and has no
//! connection left.
#![no_main]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::{fs, io};

use devices::virtio::fake_driver::{DATA, Driver, Events, readable, writable};
use devices::virtio::vsock::packet::{HEADER_LEN, HOST_CID, Header, OP_REQUEST, OP_RST};
use devices::virtio::vsock::{PATIENCE, RX_QUEUE, TX_QUEUE, VirtioVsock};
use devices::vsock::{Connector, SocketKind, VsockBackend};
use libfuzzer_sys::fuzz_target;
use thimble_fuzz::queue::any_descriptor;
use thimble_fuzz::rig::{QUEUE_LEN, io};
use thimble_fuzz::source::Source;
use vm_memory::{Bytes, GuestAddress};

const CID: u32 = 3;
const BUFFER: u32 = 512;
/// What the guest sends, behind its receive buffers.
const SENT: u64 = DATA + 0x10_0000;

/// The host's ends of the guest's connections.
type Peers = Arc<Mutex<Vec<UnixStream>>>;

/// Every port but one is served.
struct Anywhere(Peers);

impl Connector for Anywhere {
    fn connect(&mut self, port: u32, kind: SocketKind) -> io::Result<OwnedFd> {
        if port == 0 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let pair = match kind {
            SocketKind::Stream => UnixStream::pair()?,
            SocketKind::Seqpacket => {
                use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
                let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
                let (ours, theirs) = socketpair(family, kind, SocketFlags::CLOEXEC, None)?;
                (ours.into(), theirs.into())
            }
        };
        for end in [&pair.0, &pair.1] {
            end.set_nonblocking(true)?;
        }
        self.0.lock().expect("nobody panics with it").push(pair.1);
        Ok(pair.0.into())
    }
}

/// The device, its driver, and the host's programs.
struct Host {
    driver: Driver,
    path: PathBuf,
    peers: Peers,
    buffers: VecDeque<u64>,
    /// Packets made available.
    sent: u16,
    /// What the device has sent last, for ports that mean something to it.
    heard: Vec<Header>,
}

impl Host {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "thimble-fuzz-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let peers = Peers::default();
        let backend = VsockBackend {
            listener: listener.into(),
            connector: Box::new(Anywhere(Arc::clone(&peers))),
        };
        let device = VirtioVsock::new(backend, CID, PATIENCE).expect("descriptors");
        let events = Arc::new(Events::default());
        let driver = Driver::new(Box::new(device), io().handle(), events);
        Self {
            driver,
            path,
            peers,
            buffers: VecDeque::new(),
            sent: 0,
            heard: Vec::new(),
        }
    }

    fn start(&mut self, source: &mut Source<'_>) {
        let features = self.driver.offered() & !u64::from(source.pick(&[0_u8, 2]));
        self.driver.start(features, QUEUE_LEN);
        self.buffers.clear();
        for n in 0..u64::from(source.pick(&[16_u8, 1, 4])) {
            self.give(DATA + n * u64::from(BUFFER));
        }
    }

    fn give(&mut self, at: u64) {
        self.driver.queues[0].add(&[writable(at, BUFFER)]);
        self.buffers.push_back(at);
    }

    /// Looks at what the device has sent.
    fn receive(&mut self, intact: bool) {
        while let Some((_, written)) = self.driver.queues[0].pop_used() {
            if !intact {
                continue;
            }
            let at = self.buffers.pop_front().expect("no buffer is used twice");
            let mut raw = [0; HEADER_LEN as usize];
            let memory = Arc::clone(&self.driver.memory);
            memory
                .read_slice(&mut raw, GuestAddress(at))
                .expect("in memory");
            let header = Header::decode(&raw);
            assert_eq!(header.dst_cid, u64::from(CID));
            assert!(header.src_cid == HOST_CID || header.op == OP_RST);
            assert_eq!(written, HEADER_LEN + header.len);
            assert!((1..=7).contains(&header.op), "{header:?}");
            self.heard.push(header);
            self.give(at);
        }
        self.driver.notify(RX_QUEUE);
    }

    fn send(&mut self, source: &mut Source<'_>) {
        // Mostly about a connection that there is.
        let known = source.below(self.heard.len() + 1);
        let known = self.heard.get(known).copied();
        let ports = known.map_or((u32::from(source.u8() % 4), 1), |header| {
            (header.dst_port, header.src_port)
        });
        let len = match source.u8() % 4 {
            0 => 0,
            1 => u32::from(source.u8()),
            2 => 4096,
            _ => u32::from(source.u16()) * 4,
        };
        let header = Header {
            src_cid: source.mostly(CID.into()),
            dst_cid: source.mostly(HOST_CID),
            src_port: ports.0,
            dst_port: ports.1,
            len: if source.rarely(32) {
                source.edge() as u32
            } else {
                len
            },
            kind: source.pick(&[1, 1, 1, 2, 3]),
            op: source.pick(&[OP_REQUEST, 5, 5, 2, 4, 6, 7, 3, 5, 0]),
            flags: u32::from(source.u8() % 4),
            buf_alloc: source.mostly(0x1_0000) as u32,
            fwd_cnt: source.mostly(0) as u32,
        };
        let memory = Arc::clone(&self.driver.memory);
        memory
            .write_slice(&header.encode(), GuestAddress(SENT))
            .expect("in memory");
        let mut chain = vec![readable(SENT, HEADER_LEN)];
        if len > 0 {
            chain.push(readable(SENT + 64, len));
        }
        self.driver.queues[1].add(&chain);
        self.sent = self.sent.wrapping_add(1);
        self.driver.notify(TX_QUEUE);
        self.settle();
    }

    /// Waits until the device has taken all packets, or has stopped.
    fn settle(&mut self) {
        while self.driver.read(0x070) & 0x40 == 0 && self.driver.queues[1].used_idx() != self.sent {
            std::thread::yield_now();
        }
    }

    /// Takes the worker back and gives it out again.
    fn pause(&mut self) {
        let core = self.driver.transport.core_mut();
        core.pause().expect("the I/O thread lives");
        core.resume();
    }

    fn host_acts(&mut self, source: &mut Source<'_>) {
        let mut peers = self.peers.lock().expect("nobody panics with it");
        if peers.is_empty() || source.rarely(4) {
            let Ok(mut stream) = UnixStream::connect(&self.path) else {
                return;
            };
            stream.set_nonblocking(true).expect("a socket");
            let line = source.pick(&["CONNECT 7\n", "CONNECT 7", "CONNECT 8\nmore", "rubbish\n"]);
            drop(stream.write_all(line.as_bytes()));
            return peers.push(stream);
        }
        let which = source.below(peers.len());
        let peer = &mut peers[which];
        match source.u8() % 8 {
            0 => drop(peer.shutdown(Shutdown::Write)),
            1 => drop(peer.shutdown(Shutdown::Read)),
            2 => drop(peers.swap_remove(which)),
            3 | 4 => drop(peer.read(&mut [0; 4096])),
            _ => {
                let bytes = vec![0x5a; source.pick(&[1, 100, 5000, 60_000])];
                drop(peer.write(&bytes));
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

fn run(source: &mut Source<'_>) {
    let mut host = Host::new();
    host.start(source);
    let mut intact = true;
    for _ in 0..64 {
        if source.is_empty() {
            break;
        }
        match source.u8() % 8 {
            0..=3 => host.send(source),
            4 | 5 => host.host_acts(source),
            6 => host.receive(intact),
            _ if source.rarely(8) => {
                // From here on the receive queue has anything in it.
                intact = false;
                let queue = &mut host.driver.queues[0];
                queue.set_descriptor(source.below(16) as u16, any_descriptor(source));
                queue.publish(source.below(17) as u16);
                host.driver.notify(RX_QUEUE);
            }
            _ => host.pause(),
        }
    }
    host.receive(intact);
    let core = host.driver.transport.core_mut();
    core.pause().expect("the I/O thread lives");
    let stopped = host.driver.read(0x070) & 0x40 != 0;
    assert_eq!(host.driver.events.take().len(), usize::from(stopped));

    host.driver.write(0x070, 0);
    host.driver.start(1 << 32, QUEUE_LEN);
    let memory = Arc::clone(&host.driver.memory);
    memory
        .write_slice(&[0; HEADER_LEN as usize], GuestAddress(SENT))
        .expect("in memory");
    let head = host.driver.queues[1].add(&[readable(SENT, HEADER_LEN)]);
    assert_eq!(host.driver.run(TX_QUEUE), (head, 0));
    host.driver.write(0x070, 0);
    for mut peer in host.peers.lock().expect("nobody panics with it").drain(..) {
        // What is left to be read ends; those that wait to be accepted are told nothing yet.
        let mut rest = [0; 4096];
        while peer.read(&mut rest).is_ok_and(|count| count > 0) {}
    }
    assert_eq!(host.driver.events.take(), []);
}

fuzz_target!(|data: &[u8]| run(&mut Source::new(data)));
