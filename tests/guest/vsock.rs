//! Test guest: services on sockets, for programs of the host to try, and a client of the host's.
//!
//! It prints `VSOCK ready cid=N` and serves these ports, streams and sequences of messages alike:
//!
//! ```text
//! 7   sends back what it gets, and ends when the peer has ended
//! 9   takes all; at the end sends count and FNV-1a hash, 8 bytes each, and closes
//! 10  gets a length of 8 bytes, takes so many, sends the count of all, 8 bytes, and closes
//! 18  gets a length of 8 bytes, sends so many of anything, and closes
//! 19  the same with `pattern`
//! 20  gets port, connections, bytes and socket type, 4 bytes each, and closes; connects so often to
//!     that port of the host, sends so many bytes, ends sending, and wants them back
//! 99  the end
//! ```
//!
//! When all connections of port 20 are over it prints `VSOCK dialled ok=N refused=N wrong=N`.
//! Command line: `conns=N`, most connections at a time (default 320).
#![no_std]
#![no_main]

use rt::memory::Region;
use rt::virtio::vsock::{
    CREDIT_REQUEST, CREDIT_UPDATE, F_SEQPACKET, HOST_CID, Header, RECEIVE, REQUEST, RESPONSE, RST,
    RW, Received, SEND, SHUTDOWN, TX_DATA, Vsock,
};
use rt::virtio::{self, DEVICE_VSOCK, NEEDS_RESET};
use rt::{boot_info, println, test, test_report};

rt::entry!(main, "vsock\n");

const ECHO: u32 = 7;
const SINK: u32 = 9;
const DISCARD: u32 = 10;
const SOURCE: u32 = 18;
const PATTERN: u32 = 19;
const DIAL: u32 = 20;
const QUIT: u32 = 99;
/// Ports of connections we begin count up from here; so they are no service's.
const FIRST_PORT: u32 = 10_000;

/// What an echo keeps until it may send it.
const ECHO_ROOM: u32 = 8 << 10;
/// What the others claim to have: they take everything at once.
const ROOM: u32 = 256 << 10;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x100_0000_01b3;

/// The byte at a place of known data.
fn pattern(at: u64) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)) as u8
}

/// One connection. All zeroes is one that is free.
#[derive(Clone, Copy, Default)]
struct Conn {
    used: bool,
    established: bool,
    kind: u16,
    local: u32,
    peer: u32,
    fwd: u32,
    told: u32,
    sent: u32,
    peer_alloc: u32,
    peer_fwd: u32,
    peer_ended: u32,
    ended: bool,
    /// Both directions are ended; the peer's reset is waited for.
    closed: bool,
    got: u64,
    hash: u64,
    wrong: bool,
    /// The request of those services that get one.
    words: [u8; 16],
    /// Bytes to send, and where the pattern is.
    left: u64,
    at: u64,
    /// What an echo keeps: where it begins in its room, and how much.
    kept_at: u32,
    kept: u32,
}

impl Conn {
    fn room(&self) -> u32 {
        if self.local == ECHO { ECHO_ROOM } else { ROOM }
    }

    fn credit(&self) -> u32 {
        self.peer_alloc
            .saturating_sub(self.sent.wrapping_sub(self.peer_fwd))
    }

    fn header(&mut self, cid: u64, op: u16, flags: u32, len: u32) -> Header {
        self.told = self.fwd;
        self.sent = self.sent.wrapping_add(len);
        Header {
            src_cid: cid,
            dst_cid: HOST_CID,
            src_port: self.local,
            dst_port: self.peer,
            len,
            kind: self.kind,
            op,
            flags,
            buf_alloc: self.room(),
            fwd_cnt: self.fwd,
        }
    }

    /// The length that the peer named, once it has.
    fn length(&self) -> u64 {
        u64::from(self.word(1)) << 32 | u64::from(self.word(0))
    }

    fn word(&self, index: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.words[index * 4..index * 4 + 4]);
        u32::from_le_bytes(bytes)
    }
}

/// Connections to the host that are being made.
#[derive(Default)]
struct Dialling {
    active: bool,
    port: u32,
    todo: u32,
    open: u32,
    bytes: u32,
    kind: u16,
    ok: u32,
    refused: u32,
    wrong: u32,
}

struct Guest {
    device: Vsock,
    conns: &'static mut [Conn],
    echo: Region,
    dialling: Dialling,
    next_port: u32,
    quit: bool,
}

fn main() {
    run();
    test_report::done();
}

fn run() {
    let Some(transport) = virtio::find(DEVICE_VSOCK) else {
        return test!("find", false, "no socket device");
    };
    let device = match Vsock::new(transport) {
        Ok(device) => device,
        Err(error) => return test!("set_up", false, "{error:?}"),
    };
    let count = boot_info::number("conns").unwrap_or(320).clamp(1, 4096);
    let memory = Region::allocate(count * size_of::<Conn>() as u64);
    // SAFETY: the region is zeroes, which is a `Conn`, holds that many, and is nobody else's.
    let conns = unsafe {
        core::slice::from_raw_parts_mut(memory.address() as *mut Conn, count as usize)
    };
    let seqpacket = device.features() & F_SEQPACKET != 0;
    println!("VSOCK ready cid={} seqpacket={seqpacket}", device.cid());
    let mut guest = Guest {
        device,
        conns,
        echo: Region::allocate(count * u64::from(ECHO_ROOM)),
        dialling: Dialling::default(),
        next_port: FIRST_PORT,
        quit: false,
    };
    while !guest.quit {
        guest.step();
    }
    let status = transport.status();
    test!("status", status & NEEDS_RESET == 0, "{status:#x}");
    transport.reset();
}

impl Guest {
    fn step(&mut self) {
        let mut budget = 64;
        while budget > 0
            && let Some(packet) = self.device.poll()
        {
            self.packet(&packet);
            self.device.recycle(packet);
            budget -= 1;
        }
        for index in 0..self.conns.len() {
            if self.conns[index].used {
                self.advance(index);
            }
        }
        self.dial();
    }

    fn packet(&mut self, packet: &Received) {
        let header = packet.header;
        let known = self.conns.iter().position(|conn| {
            conn.used && conn.local == header.dst_port && conn.peer == header.src_port
        });
        let Some(index) = known.or_else(|| self.accept(&header)) else {
            if header.op != RST {
                self.refuse(&header);
            }
            return;
        };
        let conn = &mut self.conns[index];
        conn.peer_alloc = header.buf_alloc;
        conn.peer_fwd = header.fwd_cnt;
        match header.op {
            RST => return self.over(index),
            RESPONSE => {
                conn.established = true;
                conn.left = u64::from(self.dialling.bytes);
            }
            SHUTDOWN => conn.peer_ended |= header.flags,
            CREDIT_REQUEST => self.send(index, CREDIT_UPDATE, 0),
            RW => self.data(index, packet.data),
            _ => {}
        }
    }

    fn accept(&mut self, header: &Header) -> Option<usize> {
        if header.op != REQUEST {
            return None;
        }
        match header.dst_port {
            ECHO | SINK | DISCARD | SOURCE | PATTERN | DIAL => {}
            QUIT => {
                self.quit = true;
                return None;
            }
            _ => return None,
        }
        let index = self.conns.iter().position(|conn| !conn.used)?;
        self.conns[index] = Conn {
            used: true,
            established: true,
            kind: header.kind,
            local: header.dst_port,
            peer: header.src_port,
            peer_alloc: header.buf_alloc,
            hash: FNV_OFFSET,
            ..Conn::default()
        };
        self.send(index, RESPONSE, 0);
        Some(index)
    }

    fn refuse(&mut self, header: &Header) {
        let reset = Header {
            src_cid: header.dst_cid,
            dst_cid: header.src_cid,
            src_port: header.dst_port,
            dst_port: header.src_port,
            kind: header.kind,
            op: RST,
            ..Header::default()
        };
        self.device.send(&reset, |_| {});
    }

    fn send(&mut self, index: usize, op: u16, flags: u32) {
        let header = self.conns[index].header(self.device.cid(), op, flags, 0);
        self.device.send(&header, |_| {});
    }

    fn data(&mut self, index: usize, data: &[u8]) {
        let conn = &mut self.conns[index];
        let start = conn.got;
        conn.got += data.len() as u64;
        match conn.local {
            ECHO => {
                assert!(conn.kept as usize + data.len() <= ECHO_ROOM as usize);
                let base = index as u64 * u64::from(ECHO_ROOM);
                for (place, byte) in (conn.kept_at + conn.kept..).zip(data) {
                    self.echo.write8(base + u64::from(place % ECHO_ROOM), *byte);
                }
                conn.kept += data.len() as u32;
                return;
            }
            SINK => {
                for byte in data {
                    conn.hash = (conn.hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
                }
            }
            DISCARD | SOURCE | PATTERN | DIAL => {
                for (at, byte) in (start as usize..conn.words.len()).zip(data) {
                    conn.words[at] = *byte;
                }
                if matches!(conn.local, SOURCE | PATTERN) && start < 8 && conn.got >= 8 {
                    conn.left = conn.length();
                }
            }
            _ => {
                let right = |(at, byte): (u64, &u8)| *byte == pattern(at);
                conn.wrong |= !(start..).zip(data).all(right);
            }
        }
        conn.fwd = conn.fwd.wrapping_add(data.len() as u32);
    }

    /// Does what can be done for a connection by now.
    fn advance(&mut self, index: usize) {
        let conn = self.conns[index];
        if !conn.established || conn.closed {
            if conn.closed && conn.peer_ended == RECEIVE | SEND {
                self.send(index, RST, 0);
                self.over(index);
            }
            return;
        }
        if conn.kept > 0 {
            self.echo_back(index);
        }
        if conn.left > 0 {
            self.send_pattern(index);
        }
        let conn = self.conns[index];
        let unseen = conn.fwd.wrapping_sub(conn.told);
        if unseen >= conn.room() / 2 || (unseen > 0 && conn.kind != 1) {
            self.send(index, CREDIT_UPDATE, 0);
        }
        if conn.kept > 0 || conn.left > 0 {
            return;
        }
        let peer_has_ended = conn.peer_ended & SEND != 0;
        match conn.local {
            ECHO if peer_has_ended => self.close(index),
            SINK if peer_has_ended => self.answer(index),
            DISCARD if conn.got >= 8 && conn.got - 8 >= conn.length() => self.answer(index),
            SOURCE | PATTERN if conn.got >= 8 => self.close(index),
            DIAL if conn.got >= 16 => {
                self.dialling = Dialling {
                    active: true,
                    port: conn.word(0),
                    todo: conn.word(1),
                    bytes: conn.word(2),
                    kind: conn.word(3) as u16,
                    ..Dialling::default()
                };
                self.close(index);
            }
            FIRST_PORT.. if !conn.ended => {
                self.conns[index].ended = true;
                self.send(index, SHUTDOWN, SEND);
            }
            FIRST_PORT.. if peer_has_ended => self.close(index),
            _ => {}
        }
    }

    fn echo_back(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        let len = conn.kept.min(conn.credit());
        if len == 0 {
            return;
        }
        let base = index as u64 * u64::from(ECHO_ROOM);
        let from = conn.kept_at;
        conn.kept_at = (from + len) % ECHO_ROOM;
        conn.kept -= len;
        conn.fwd = conn.fwd.wrapping_add(len);
        // Messages come in one packet here, so that each goes back as one.
        let header = conn.header(self.device.cid(), RW, 1, len);
        let echo = self.echo;
        self.device.send(&header, |bytes| {
            for (place, byte) in (from..).zip(bytes) {
                *byte = echo.read8(base + u64::from(place % ECHO_ROOM));
            }
        });
    }

    fn send_pattern(&mut self, index: usize) {
        // A few packets, then the others' turn.
        for _ in 0..8 {
            let conn = &mut self.conns[index];
            let len = conn.left.min(u64::from(conn.credit())).min(TX_DATA);
            if len == 0 || !self.device.can_send() {
                return;
            }
            let at = conn.at;
            conn.at += len;
            conn.left -= len;
            let fill = conn.local != SOURCE;
            let header = conn.header(self.device.cid(), RW, 1, len as u32);
            self.device.send(&header, |bytes| {
                if fill {
                    let known = (at..).map(pattern);
                    bytes.iter_mut().zip(known).for_each(|(to, from)| *to = from);
                }
            });
        }
    }

    fn answer(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        let words = [conn.got, conn.hash];
        let len = if conn.local == SINK { 16 } else { 8 };
        let header = conn.header(self.device.cid(), RW, 1, len);
        self.device.send(&header, |bytes| {
            let known = words.into_iter().flat_map(u64::to_le_bytes);
            bytes.iter_mut().zip(known).for_each(|(to, from)| *to = from);
        });
        self.close(index);
    }

    fn close(&mut self, index: usize) {
        self.conns[index].closed = true;
        self.send(index, SHUTDOWN, RECEIVE | SEND);
    }

    /// A connection is no longer there.
    fn over(&mut self, index: usize) {
        let conn = core::mem::take(&mut self.conns[index]);
        if conn.local < FIRST_PORT {
            return;
        }
        let dialling = &mut self.dialling;
        dialling.open -= 1;
        if !conn.established {
            dialling.refused += 1;
        } else if conn.wrong || conn.got != u64::from(dialling.bytes) {
            dialling.wrong += 1;
        } else {
            dialling.ok += 1;
        }
    }

    /// Begins as many connections to the host as there is room for.
    fn dial(&mut self) {
        while self.dialling.todo > 0 {
            let Some(index) = self.conns.iter().position(|conn| !conn.used) else {
                return;
            };
            self.conns[index] = Conn {
                used: true,
                kind: self.dialling.kind,
                local: self.next_port,
                peer: self.dialling.port,
                ..Conn::default()
            };
            self.next_port += 1;
            self.dialling.todo -= 1;
            self.dialling.open += 1;
            self.send(index, REQUEST, 0);
        }
        let Dialling {
            ok, refused, wrong, ..
        } = self.dialling;
        if self.dialling.active && self.dialling.open == 0 {
            self.dialling.active = false;
            println!("VSOCK dialled ok={ok} refused={refused} wrong={wrong}");
        }
    }
}
