//! The socket device driven by a fake driver, with real Unix sockets on the host's side.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::OnceLock;

use rustix::net::{
    self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

use super::packet::*;
use super::*;
use crate::events::GuestEvent;
use crate::io_thread::IoThread;
use crate::virtio::fake_driver::{DATA, Driver, Events, readable, writable};
use crate::virtio::spec::F_VERSION_1;
use crate::vsock::directory::DirectoryConnector;

const CID: u64 = 42;
/// What the guest says it has room for.
const ROOM: u32 = 64 << 10;
/// The guest's port in tests where one is enough.
const PORT: u32 = 7;
/// Where the guest puts what it sends; receive buffers are at `DATA`.
const SENT: u64 = DATA + 0x10_0000;

/// For tests in which nobody is to be given up.
const LONG: Duration = Duration::from_secs(3600);
/// For tests in which somebody is.
const SHORT: Duration = Duration::from_millis(40);

fn io() -> &'static IoThread {
    static IO: OnceLock<IoThread> = OnceLock::new();
    IO.get_or_init(|| IoThread::spawn(|| {}).unwrap())
}

/// A device with the host's sockets in a directory of its own.
fn device(directory: &TempDir, patience: Duration) -> VirtioVsock {
    let path = directory.path().join("v");
    // A restored device listens where the one before did.
    drop(std::fs::remove_file(&path));
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let backend = VsockBackend {
        listener: listener.into(),
        connector: Box::new(DirectoryConnector::open(&path).unwrap()),
    };
    VirtioVsock::new(backend, 42, patience).unwrap()
}

/// A guest's driver that has its receive queue full.
struct Guest {
    driver: Driver,
    stats: Arc<VsockStats>,
    directory: TempDir,
    /// Bytes of a receive buffer.
    buffer: u32,
    /// Received packets that nobody has asked for yet.
    inbox: VecDeque<(Header, Vec<u8>)>,
    /// Where each buffer of the receive queue is, in order.
    buffers: VecDeque<u64>,
}

impl Guest {
    fn new() -> Self {
        Self::with(LONG, 16, 4096)
    }

    /// A guest with so many receive buffers of so many bytes.
    fn with(patience: Duration, buffers: u64, buffer: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = device(&directory, patience);
        let stats = device.stats();
        let events = Arc::new(Events::default());
        let driver = Driver::new(Box::new(device), io().handle(), events);
        let mut guest = Self {
            driver,
            stats,
            directory,
            buffer,
            inbox: VecDeque::new(),
            buffers: VecDeque::new(),
        };
        guest.start(buffers);
        guest
    }

    fn start(&mut self, buffers: u64) {
        self.driver.start(F_VERSION_1 | F_STREAM | F_SEQPACKET, 16);
        self.buffers.clear();
        for n in 0..buffers {
            self.give(DATA + n * u64::from(self.buffer));
        }
        self.driver.notify(RX_QUEUE);
    }

    fn give(&mut self, at: u64) {
        self.driver.queues[0].add(&[writable(at, self.buffer)]);
        self.buffers.push_back(at);
    }

    fn counter(&self, name: &str) -> u64 {
        let mut all = self.stats.each().into_iter();
        all.find(|counter| counter.0 == name).unwrap().1
    }

    fn path(&self, port: Option<u32>) -> std::path::PathBuf {
        match port {
            None => self.directory.path().join("v"),
            Some(port) => self.directory.path().join(format!("v_{port}")),
        }
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(Some(port))).unwrap()
    }

    /// A packet from `guest` port to `host` port.
    fn header(op: u16, guest: u32, host: u32) -> Header {
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: guest,
            dst_port: host,
            kind: TYPE_STREAM,
            op,
            buf_alloc: ROOM,
            ..Header::default()
        }
    }

    /// Sends a packet and waits until the device has taken it.
    fn send_header(&mut self, header: Header, data: &[u8]) {
        let memory = self.driver.memory.clone();
        memory
            .write_slice(&header.encode(), GuestAddress(SENT))
            .unwrap();
        memory.write_slice(data, GuestAddress(SENT + 64)).unwrap();
        let mut chain = vec![readable(SENT, HEADER_LEN)];
        if !data.is_empty() {
            let len = u32::try_from(data.len()).unwrap();
            chain.push(readable(SENT + 64, len));
        }
        let head = self.driver.queues[1].add(&chain);
        assert_eq!(self.driver.run(TX_QUEUE), (head, 0));
    }

    fn send(&mut self, op: u16, guest: u32, host: u32, flags: u32, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        let header = Header {
            flags,
            len,
            ..Self::header(op, guest, host)
        };
        self.send_header(header, data);
    }

    /// The next packet to the guest, whose buffer is given back.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        if let Some(packet) = self.inbox.pop_front() {
            return packet;
        }
        let (_, written) = self.driver.next_used(RX_QUEUE);
        let packet = self.take(written);
        self.driver.notify(RX_QUEUE);
        packet
    }

    fn take(&mut self, written: u32) -> (Header, Vec<u8>) {
        let at = self.buffers.pop_front().unwrap();
        let mut bytes = vec![0; usize::try_from(written).unwrap()];
        self.driver
            .memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        self.give(at);
        let (header, data) = bytes.split_first_chunk().unwrap();
        let header = Header::decode(header);
        assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
        assert_eq!(usize::try_from(header.len).unwrap(), data.len());
        (header, data.to_vec())
    }

    /// What is there already, without waiting.
    fn try_receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let (_, written) = self.driver.queues[0].pop_used()?;
        Some(self.take(written))
    }

    /// The next packet, which is a notice of this kind.
    #[track_caller]
    fn expect(&mut self, op: u16) -> Header {
        let (header, data) = self.receive();
        assert_eq!((header.op, data.len()), (op, 0), "{header:?}");
        header
    }

    /// A connection of the guest's to `port` of the host, and its other end.
    fn connect(&mut self, listener: &UnixListener, port: u32) -> UnixStream {
        self.send(OP_REQUEST, PORT, port, 0, &[]);
        let response = self.expect(OP_RESPONSE);
        assert_eq!((response.src_port, response.dst_port), (port, PORT));
        listener.accept().unwrap().0
    }

    /// A connection of the host's to the guest's [`PORT`], and the host's port.
    fn accept(&mut self) -> (UnixStream, u32) {
        let mut stream = UnixStream::connect(self.path(None)).unwrap();
        writeln!(stream, "CONNECT {PORT}").unwrap();
        let request = self.expect(OP_REQUEST);
        assert_eq!(request.dst_port, PORT);
        self.send(OP_RESPONSE, PORT, request.src_port, 0, &[]);
        assert_eq!(line(&stream), format!("OK {}\n", request.src_port));
        (stream, request.src_port)
    }

    /// Whether the device has told its owner, once, that it has stopped. The worker is taken back
    /// first: the driver may see it before the owner.
    fn has_told_that_it_stopped(&mut self) -> bool {
        self.driver.transport.core_mut().pause().unwrap();
        let events = self.driver.events.take();
        matches!(&events[..], [GuestEvent::DeviceNeedsReset { .. }])
    }

    /// Lets the device do all that it can do now: what the host did was before our first packet,
    /// and is seen no later than that; what follows from it is done when the next ones are taken.
    fn settle(&mut self) {
        for _ in 0..3 {
            // Of nobody's, so it is dropped.
            self.send_header(Header::default(), &[]);
        }
    }
}

impl Drop for Guest {
    /// The I/O thread is every test's: no worker, with its descriptors, stays behind in it.
    fn drop(&mut self) {
        drop(self.driver.transport.core_mut().pause());
    }
}

/// A line, and not a byte more.
fn line(stream: &UnixStream) -> String {
    let mut line = Vec::new();
    let mut reader = BufReader::with_capacity(1, stream);
    reader.read_until(b'\n', &mut line).unwrap();
    String::from_utf8(line).unwrap()
}

fn read(stream: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// No two parts of it are alike.
fn pattern(count: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_le_bytes).take(count).collect()
}

#[test]
fn the_host_begins_a_connection_and_data_goes_both_ways() {
    let mut guest = Guest::new();
    let mut stream = UnixStream::connect(guest.path(None)).unwrap();
    // What follows the line at once is the guest's.
    stream.write_all(b"CONNECT 7\nearly").unwrap();
    let request = guest.expect(OP_REQUEST);
    assert_eq!((request.dst_port, request.kind), (PORT, TYPE_STREAM));
    assert!(request.src_port >= 1 << 30 && request.buf_alloc == 256 << 10);
    let port = request.src_port;
    guest.send(OP_RESPONSE, PORT, port, 0, &[]);
    assert_eq!(line(&stream), format!("OK {port}\n"));
    let (header, data) = guest.receive();
    assert_eq!(
        (header.op, header.src_port, &data[..]),
        (OP_RW, port, &b"early"[..])
    );
    guest.send(OP_RW, PORT, port, 0, b"answer");
    assert_eq!(read(&mut stream, 6), b"answer");
    stream.write_all(b"more").unwrap();
    let (header, data) = guest.receive();
    assert_eq!((header.fwd_cnt, &data[..]), (6, &b"more"[..]));
    let counted = ["connections", "accepted-by-guest", "bytes-to-guest"];
    assert_eq!(counted.map(|name| guest.counter(name)), [1, 1, 9]);
    guest.send(OP_RST, PORT, port, 0, &[]);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(guest.counter("connections"), 0);
}

#[test]
fn a_guest_that_refuses_or_never_answers_is_hung_up_on() {
    let mut guest = Guest::with(SHORT, 16, 4096);
    let mut stream = UnixStream::connect(guest.path(None)).unwrap();
    stream.write_all(b"CONNECT 7\n").unwrap();
    let port = guest.expect(OP_REQUEST).src_port;
    guest.send(OP_RST, PORT, port, 0, &[]);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);

    let mut stream = UnixStream::connect(guest.path(None)).unwrap();
    stream.write_all(b"CONNECT 7\n").unwrap();
    let port = guest.expect(OP_REQUEST).src_port;
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(guest.expect(OP_RST).src_port, port);
    // Its answer is too late.
    guest.send(OP_RESPONSE, PORT, port, 0, &[]);
    guest.expect(OP_RST);
}

#[test]
fn host_peers_that_say_rubbish_or_nothing_are_hung_up_on() {
    let guest = Guest::with(SHORT, 16, 4096);
    for rubbish in [&b"GET / HTTP/1.1\r\n"[..], &[0xff; 40], b"CONNECT x\n", b""] {
        let mut stream = UnixStream::connect(guest.path(None)).unwrap();
        stream.write_all(rubbish).unwrap();
        // One that was hung up on with its data unread hears of a reset.
        let end = stream.read(&mut [0]);
        assert!(end.is_err() || end.is_ok_and(|count| count == 0));
    }
    // The end of what it says comes before the end of the line.
    let mut stream = UnixStream::connect(guest.path(None)).unwrap();
    stream.write_all(b"CONNECT 7").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    drop(stream.read(&mut [0]));
    assert_eq!(guest.counter("refused"), 5);
    // A byte at a time is no rubbish.
    let mut guest = Guest::new();
    let mut stream = UnixStream::connect(guest.path(None)).unwrap();
    for byte in b"CONNECT 7\r\n" {
        stream.write_all(&[*byte]).unwrap();
        guest.settle();
    }
    assert_eq!(guest.expect(OP_REQUEST).dst_port, PORT);
}

#[test]
fn silent_host_peers_give_way_to_new_ones() {
    let mut guest = Guest::new();
    let mut silent: Vec<_> = (0..128)
        .map(|_| {
            let stream = UnixStream::connect(guest.path(None)).unwrap();
            guest.settle();
            stream
        })
        .collect();
    assert_eq!(guest.counter("connections"), 128);
    let (_stream, _port) = guest.accept();
    assert_eq!(silent[0].read(&mut [0]).unwrap(), 0);
    assert_eq!(guest.counter("connections"), 128);
}

#[test]
fn the_guest_begins_connections_to_those_who_listen() {
    let mut guest = Guest::new();
    let listener = guest.listen(52);
    let mut stream = guest.connect(&listener, 52);
    guest.send(OP_RW, PORT, 52, 0, b"hello");
    assert_eq!(read(&mut stream, 5), b"hello");
    // Nobody there; the wrong kind; another address; no such type.
    for (port, kind, cid) in [
        (53, TYPE_STREAM, HOST_CID),
        (52, TYPE_SEQPACKET, HOST_CID),
        (52, TYPE_STREAM, 9),
        (52, 77, HOST_CID),
    ] {
        let header = Header {
            kind,
            dst_cid: cid,
            ..Guest::header(OP_REQUEST, 8, port)
        };
        guest.send_header(header, &[]);
        let (_, written) = guest.driver.next_used(RX_QUEUE);
        let mut raw = [0; 44];
        let at = guest.buffers.pop_front().unwrap();
        let memory = guest.driver.memory.clone();
        memory.read_slice(&mut raw, GuestAddress(at)).unwrap();
        guest.give(at);
        let reset = Header::decode(&raw);
        assert_eq!((written, reset.op, reset.src_cid), (44, OP_RST, cid));
        assert_eq!(
            (reset.src_port, reset.dst_port, reset.kind),
            (port, 8, kind)
        );
    }
    assert_eq!(guest.counter("refused"), 4);
    // One that claims to be somebody else is not even answered.
    let mut header = Guest::header(OP_REQUEST, 8, 53);
    header.src_cid = 43;
    guest.send_header(header, &[]);
    assert_eq!(guest.counter("dropped"), 1);
    assert!(guest.try_receive().is_none());
}

#[test]
fn what_breaks_the_protocol_resets_its_connection_and_no_other() {
    let mut guest = Guest::new();
    let listener = guest.listen(52);
    let mut good = guest.connect(&listener, 52);
    let bad = |op, flags, len| (op, flags, vec![0; len]);
    for (op, flags, data) in [
        bad(OP_REQUEST, 0, 0),
        bad(OP_RESPONSE, 0, 0),
        bad(0, 0, 0),
        bad(99, 0, 0),
        bad(OP_RW, 0, (256 << 10) + 1),
    ] {
        guest.send(OP_REQUEST, 9, 52, 0, &[]);
        guest.expect(OP_RESPONSE);
        let (mut other, _) = listener.accept().unwrap();
        guest.send(op, 9, 52, flags, &data);
        assert_eq!(guest.expect(OP_RST).dst_port, 9);
        assert_eq!(other.read(&mut [0]).unwrap(), 0);
    }
    assert_eq!(guest.counter("violations"), 5);
    // Answers to nothing.
    for op in [OP_RESPONSE, OP_RW, OP_SHUTDOWN, OP_CREDIT_UPDATE, 77] {
        guest.send(op, 1000, 2000, 3, &[]);
        guest.expect(OP_RST);
    }
    guest.send(OP_RST, 1000, 2000, 0, &[]);
    guest.send(OP_RW, PORT, 52, 0, b"still here");
    assert_eq!(read(&mut good, 10), b"still here");
    assert!(guest.try_receive().is_none());
}

#[test]
fn packets_that_are_none_stop_the_device() {
    for (len, chain) in [(1, 44), (0, 43), (u32::MAX, 60)] {
        let mut guest = Guest::new();
        let header = Header {
            len,
            ..Guest::header(OP_RW, 1, 2)
        };
        let memory = guest.driver.memory.clone();
        memory
            .write_slice(&header.encode(), GuestAddress(SENT))
            .unwrap();
        guest.driver.queues[1].add(&[readable(SENT, chain)]);
        guest.driver.notify(TX_QUEUE);
        while guest.driver.read(0x070) & 0x40 == 0 {
            guest.driver.wait_interrupt();
        }
        assert!(guest.has_told_that_it_stopped());
    }
}

#[test]
fn a_slow_host_holds_the_guest_to_its_credit() {
    let mut guest = Guest::new();
    let listener = guest.listen(52);
    let mut stream = guest.connect(&listener, 52);
    // More than the socket takes: the rest waits, up to what was promised.
    let data = pattern(32 << 10);
    let mut sent = Vec::new();
    let mut told = 0_u32;
    let mut updates = 0;
    loop {
        while let Some((header, _)) = guest.try_receive() {
            assert_eq!(header.op, OP_CREDIT_UPDATE);
            told = header.fwd_cnt;
            updates += 1;
        }
        let under_way = u32::try_from(sent.len()).unwrap() - told;
        if under_way + (32 << 10) > 256 << 10 {
            break;
        }
        guest.send(OP_RW, PORT, 52, 0, &data);
        sent.extend_from_slice(&data);
    }
    assert!(updates <= 4, "{updates} updates");
    // As the host reads, the guest hears of it, now and then.
    let mut seen = Vec::new();
    while seen.len() < sent.len() {
        seen.extend(read(&mut stream, 4 << 10));
    }
    assert!(seen == sent);
    guest.settle();
    let mut updates = 0;
    while let Some((header, _)) = guest.try_receive() {
        assert_eq!(header.op, OP_CREDIT_UPDATE);
        updates += 1;
    }
    assert!((1..=4).contains(&updates), "{updates} updates");
    // And at once when it asks.
    guest.send(OP_CREDIT_REQUEST, PORT, 52, 0, &[]);
    let update = guest.expect(OP_CREDIT_UPDATE);
    assert_eq!(update.fwd_cnt, u32::try_from(sent.len()).unwrap());
    assert_eq!(guest.counter("violations"), 0);
}

#[test]
fn the_guests_credit_is_kept_to_and_asked_for_once() {
    let mut guest = Guest::new();
    let (mut stream, port) = guest.accept();
    let data = pattern(100 << 10);
    stream.write_all(&data).unwrap();
    let mut seen = Vec::new();
    while seen.len() < ROOM as usize {
        let (header, data) = guest.receive();
        assert_eq!(header.op, OP_RW);
        seen.extend(data);
    }
    assert_eq!(seen.len(), ROOM as usize);
    guest.expect(OP_CREDIT_REQUEST);
    // None to give yet.
    guest.send(OP_CREDIT_UPDATE, PORT, port, 0, &[]);
    guest.settle();
    assert!(guest.try_receive().is_none());
    let update = Header {
        fwd_cnt: ROOM,
        ..Guest::header(OP_CREDIT_UPDATE, PORT, port)
    };
    guest.send_header(update, &[]);
    while seen.len() < data.len() {
        seen.extend(guest.receive().1);
    }
    assert!(seen == data);
}

#[test]
fn data_fills_buffers_however_they_are_cut() {
    // A header over three descriptors, data over two, in tiny and in large buffers.
    let mut guest = Guest::with(LONG, 0, 0);
    let shapes: [&[u32]; 3] = [&[10, 30, 5, 100], &[45], &[43, 1, 2000]];
    let mut places = Vec::new();
    let mut at = DATA;
    for shape in shapes {
        let mut buffers = Vec::new();
        for len in shape {
            buffers.push(writable(at, *len));
            at += u64::from(*len) + 16;
        }
        guest.driver.queues[0].add(&buffers);
        places.push(buffers);
    }
    guest.driver.notify(RX_QUEUE);
    let mut stream = UnixStream::connect(guest.path(None)).unwrap();
    writeln!(stream, "CONNECT {PORT}").unwrap();
    let memory = guest.driver.memory.clone();
    let gather = |index: usize, written: u32| {
        let mut bytes = Vec::new();
        for buffer in &places[index] {
            let mut part = vec![0; buffer.len as usize];
            memory
                .read_slice(&mut part, GuestAddress(buffer.address))
                .unwrap();
            bytes.extend(part);
        }
        bytes.truncate(written as usize);
        let (header, data) = bytes.split_first_chunk().unwrap();
        (Header::decode(header), data.to_vec())
    };
    let (_, written) = guest.driver.next_used(RX_QUEUE);
    let (request, _) = gather(0, written);
    assert_eq!((request.op, written), (OP_REQUEST, 44));
    guest.send(OP_RESPONSE, PORT, request.src_port, 0, &[]);
    line(&stream);
    stream.write_all(&pattern(500)).unwrap();
    let mut seen = Vec::new();
    for index in [1, 2] {
        let (_, written) = guest.driver.next_used(RX_QUEUE);
        let (header, data) = gather(index, written);
        assert_eq!((header.op, header.len as usize), (OP_RW, data.len()));
        seen.extend(data);
    }
    assert_eq!(seen, pattern(500));
}

#[test]
fn a_receive_buffer_without_room_stops_the_device() {
    let mut guest = Guest::with(LONG, 1, 44);
    let mut stream = UnixStream::connect(guest.path(None)).unwrap();
    stream.write_all(b"CONNECT 7\n").unwrap();
    while guest.driver.read(0x070) & 0x40 == 0 {
        guest.driver.wait_interrupt();
    }
    assert!(guest.has_told_that_it_stopped());
    // A reset cures it, and closes what there was.
    guest.buffer = 4096;
    guest.start(16);
    drop(stream.read(&mut [0]));
    guest.accept();
}

#[test]
fn the_guest_ends_one_direction_and_the_other_goes_on() {
    let mut guest = Guest::new();
    let listener = guest.listen(52);
    let mut stream = guest.connect(&listener, 52);
    guest.send(OP_RW, PORT, 52, 0, b"last");
    guest.send(OP_SHUTDOWN, PORT, 52, SHUTDOWN_SEND, &[]);
    let mut seen = String::new();
    stream.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "last");
    stream.write_all(b"reply").unwrap();
    assert_eq!(guest.receive().1, b"reply");
    stream.shutdown(Shutdown::Write).unwrap();
    // Both have ended what they send: nothing can go either way.
    assert_eq!(guest.expect(OP_SHUTDOWN).flags, SHUTDOWN_BOTH);
    guest.send(OP_SHUTDOWN, PORT, 52, SHUTDOWN_BOTH, &[]);
    guest.settle();
    let mut last = None;
    while let Some((header, _)) = guest.try_receive() {
        last = Some(header.op);
    }
    assert_eq!(last, Some(OP_RST));
    assert_eq!(guest.counter("connections"), 0);
}

#[test]
fn a_guest_that_receives_no_more_makes_the_host_stop() {
    let mut guest = Guest::new();
    let listener = guest.listen(52);
    let mut stream = guest.connect(&listener, 52);
    guest.send(OP_SHUTDOWN, PORT, 52, SHUTDOWN_RECEIVE, &[]);
    assert_eq!(
        stream.write(b"x").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    guest.send(OP_RW, PORT, 52, 0, b"still");
    assert_eq!(read(&mut stream, 5), b"still");
}

#[test]
fn the_host_ends_one_direction_or_goes_altogether() {
    let mut guest = Guest::new();
    let (mut stream, port) = guest.accept();
    stream.write_all(b"last").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.receive().1, b"last");
    assert_eq!(guest.expect(OP_SHUTDOWN).flags, SHUTDOWN_SEND);
    guest.send(OP_RW, PORT, port, 0, b"reply");
    assert_eq!(read(&mut stream, 5), b"reply");
    drop(stream);
    assert_eq!(guest.expect(OP_SHUTDOWN).flags, SHUTDOWN_BOTH);
    // What it sends meanwhile goes nowhere, and is no offence.
    guest.send(OP_RW, PORT, port, 0, b"too late");
    guest.send(OP_RST, PORT, port, 0, &[]);
    assert_eq!(guest.counter("connections"), 0);
    assert_eq!(guest.counter("violations"), 0);
}

#[test]
fn a_guest_that_never_confirms_the_end_is_told_that_it_has_come() {
    let mut guest = Guest::with(SHORT, 16, 4096);
    let (stream, port) = guest.accept();
    drop(stream);
    assert_eq!(guest.expect(OP_SHUTDOWN).flags, SHUTDOWN_BOTH);
    assert_eq!(guest.expect(OP_RST).src_port, port);
    assert_eq!(guest.counter("connections"), 0);
}

#[test]
fn what_a_guest_sent_before_it_closed_still_arrives() {
    let mut guest = Guest::new();
    let listener = guest.listen(52);
    let mut stream = guest.connect(&listener, 52);
    let data = pattern(200 << 10);
    guest.send(OP_RW, PORT, 52, 0, &data);
    guest.send(OP_RW, PORT, 52, 0, &data[..40 << 10]);
    guest.send(OP_SHUTDOWN, PORT, 52, SHUTDOWN_BOTH, &[]);
    loop {
        match guest.receive().0.op {
            OP_CREDIT_UPDATE => {}
            OP_RST => break,
            op => panic!("{op}"),
        }
    }
    // The ports are free again meanwhile.
    let mut other = guest.connect(&listener, 52);
    guest.send(OP_RW, PORT, 52, 0, b"new");
    assert_eq!(read(&mut other, 3), b"new");
    let mut seen = Vec::new();
    stream.read_to_end(&mut seen).unwrap();
    assert_eq!(seen.len(), data.len() + (40 << 10));
    assert!(seen[..data.len()] == data);
    guest.settle();
    assert_eq!(guest.counter("connections"), 1);
}

#[test]
fn busy_hosts_take_turns() {
    // Room for a few packets only: who is first does not get all of it.
    let mut guest = Guest::with(LONG, 4, 4096);
    let (mut one, one_port) = guest.accept();
    let (mut two, two_port) = {
        let stream = UnixStream::connect(guest.path(None)).unwrap();
        writeln!(&stream, "CONNECT 8").unwrap();
        let port = guest.expect(OP_REQUEST).src_port;
        guest.send(OP_RESPONSE, 8, port, 0, &[]);
        line(&stream);
        (stream, port)
    };
    let data = pattern(60 << 10);
    guest.driver.transport.core_mut().pause().unwrap();
    one.write_all(&data).unwrap();
    two.write_all(&data).unwrap();
    guest.driver.transport.core_mut().resume();
    let mut order = Vec::new();
    let mut counts = [0; 2];
    while counts != [60 << 10; 2] {
        let (header, data) = guest.receive();
        let which = usize::from(header.src_port == two_port);
        assert!(which == 1 || header.src_port == one_port);
        counts[which] += data.len();
        order.push(which);
    }
    let changes = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes >= 4, "{order:?}");
}

#[test]
fn resets_for_nothing_are_bounded() {
    let mut guest = Guest::with(LONG, 0, 4096);
    for _ in 0..1100 {
        guest.send(OP_RW, 1, 2, 0, &[]);
    }
    assert_eq!(guest.counter("dropped"), 1100 - 1024);
    for n in 0..16 {
        guest.give(DATA + n * 4096);
    }
    guest.driver.notify(RX_QUEUE);
    for _ in 0..1024 {
        guest.expect(OP_RST);
    }
    let listener = guest.listen(52);
    guest.connect(&listener, 52);
}

#[test]
fn connections_outlive_a_pause_and_end_with_a_reset() {
    let mut guest = Guest::new();
    let (mut stream, port) = guest.accept();
    guest.driver.transport.core_mut().pause().unwrap();
    stream.write_all(b"meanwhile").unwrap();
    guest.driver.transport.core_mut().resume();
    assert_eq!(guest.receive().1, b"meanwhile");
    guest.send(OP_RW, PORT, port, 0, b"after");
    assert_eq!(read(&mut stream, 5), b"after");
    guest.driver.write(0x070, 0);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(guest.counter("connections"), 0);
    // Who comes while there is no driver waits for one.
    let mut stream = UnixStream::connect(guest.path(None)).unwrap();
    stream.write_all(b"CONNECT 7\n").unwrap();
    guest.start(16);
    guest.expect(OP_REQUEST);
}

#[test]
fn a_restored_guest_is_told_that_its_connections_are_gone() {
    let mut guest = Guest::new();
    guest.accept();
    guest.driver.queues[2].add(&[writable(DATA + 0x8_0000, 4)]);
    guest.driver.notify(EVENT_QUEUE);
    guest.settle();
    assert_eq!(guest.driver.queues[2].used_idx(), 0);
    guest.driver.transport.core_mut().pause().unwrap();
    let state = crate::saved::Saved::save(&guest.driver.transport);

    let directory = tempfile::tempdir().unwrap();
    let device = device(&directory, LONG);
    let memory = guest.driver.memory.clone();
    memory
        .write_slice(&[0xff; 4], GuestAddress(DATA + 0x8_0000))
        .unwrap();
    let events = Arc::new(Events::default());
    let mut target = Driver::with_memory(Box::new(device), io().handle(), events, memory);
    crate::saved::Saved::restore(&mut target.transport, &state).unwrap();
    target.queues = std::mem::take(&mut guest.driver.queues);
    target.transport.core_mut().resume();
    assert_eq!(target.next_used(EVENT_QUEUE).1, 4);
    let event: u32 = target
        .memory
        .read_obj(GuestAddress(DATA + 0x8_0000))
        .unwrap();
    assert_eq!(event, EVENT_TRANSPORT_RESET);
    // Once.
    target.queues[2].add(&[writable(DATA + 0x8_0000, 4)]);
    target.notify(EVENT_QUEUE);
    target.transport.core_mut().pause().unwrap();
    target.transport.core_mut().resume();
    target.transport.core_mut().pause().unwrap();
    assert_eq!(target.queues[2].used_idx(), 1);
}

/// A socket of messages that listens on `port` of the host's.
fn listen_for_messages(guest: &Guest, port: u32) -> OwnedFd {
    let address = SocketAddrUnix::new(guest.path(Some(port))).unwrap();
    let flags = SocketFlags::CLOEXEC;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    net::bind(&socket, &address).unwrap();
    net::listen(&socket, 8).unwrap();
    socket
}

fn message(socket: impl AsFd) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let (_, count) = net::recv(socket, &mut bytes[..], RecvFlags::empty()).unwrap();
    bytes.truncate(count);
    bytes
}

#[test]
fn messages_keep_their_ends_both_ways() {
    let mut guest = Guest::with(LONG, 4, 4096);
    let listener = listen_for_messages(&guest, 52);
    let seq = |op, flags, len| Header {
        kind: TYPE_SEQPACKET,
        flags,
        len,
        ..Guest::header(op, PORT, 52)
    };
    guest.send_header(seq(OP_REQUEST, 0, 0), &[]);
    let response = guest.expect(OP_RESPONSE);
    assert_eq!(response.kind, TYPE_SEQPACKET);
    let socket = net::accept(&listener).unwrap();

    guest.send_header(seq(OP_RW, 0, 3), b"in ");
    guest.send_header(seq(OP_RW, SEQ_END_OF_MESSAGE, 5), b"parts");
    guest.send_header(seq(OP_RW, SEQ_END_OF_MESSAGE, 3), b"one");
    // A message without bytes is none.
    guest.send_header(seq(OP_RW, SEQ_END_OF_MESSAGE, 0), b"");
    guest.send_header(seq(OP_RW, SEQ_END_OF_MESSAGE, 3), b"two");
    assert_eq!(message(&socket), b"in parts");
    assert_eq!(message(&socket), b"one");
    assert_eq!(message(&socket), b"two");
    guest.settle();
    // Each was worth telling, once the guest was at rest.
    let mut told = 0;
    while let Some((header, _)) = guest.try_receive() {
        assert_eq!(header.op, OP_CREDIT_UPDATE);
        told = header.fwd_cnt;
    }
    assert_eq!(told, 14);

    // Longer than all receive buffers together, and a short one behind it.
    let long = pattern(50_000);
    net::send(&socket, &long, SendFlags::empty()).unwrap();
    net::send(&socket, b"short", SendFlags::empty()).unwrap();
    for expected in [&long[..], b"short"] {
        let mut seen = Vec::new();
        loop {
            let (header, data) = guest.receive();
            assert_eq!((header.op, header.kind), (OP_RW, TYPE_SEQPACKET));
            seen.extend(data);
            if header.flags & SEQ_END_OF_MESSAGE != 0 {
                break;
            }
        }
        assert_eq!(seen, expected);
    }
    // Longer than the guest's room: it can never be carried.
    net::send(&socket, &pattern(100_000), SendFlags::empty()).unwrap();
    guest.expect(OP_RST);
}

#[test]
fn messages_wait_for_credit_and_for_slow_hosts() {
    let mut guest = Guest::new();
    let listener = listen_for_messages(&guest, 52);
    let seq = |op, flags, len, fwd_cnt| Header {
        kind: TYPE_SEQPACKET,
        flags,
        len,
        fwd_cnt,
        ..Guest::header(op, PORT, 52)
    };
    guest.send_header(seq(OP_REQUEST, 0, 0, 0), &[]);
    guest.expect(OP_RESPONSE);
    let socket = net::accept(&listener).unwrap();
    for _ in 0..2 {
        net::send(&socket, &pattern(40_000), SendFlags::empty()).unwrap();
    }
    let mut count = 0;
    while count < 40_000 {
        count += guest.receive().1.len();
    }
    guest.settle();
    assert!(guest.try_receive().is_none());
    guest.send_header(seq(OP_CREDIT_UPDATE, 0, 0, 40_000), &[]);
    while count < 80_000 {
        count += guest.receive().1.len();
    }
    // To a host that does not read: all of the guest's credit, then as it was sent.
    let mut sent = Vec::new();
    for n in 0..25_u8 {
        let data = vec![n; 10_000];
        guest.send_header(seq(OP_RW, SEQ_END_OF_MESSAGE, 10_000, 80_000), &data);
        while guest.try_receive().is_some() {}
        sent.push(data);
    }
    for data in sent {
        assert!(message(&socket) == data);
    }
    assert_eq!(guest.counter("violations"), 0);
}
