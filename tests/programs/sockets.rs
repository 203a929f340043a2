//! A program for Linux: both ends of the socket tests, in the guest (AF_VSOCK) and on the host
//! (AF_UNIX). Compiled by tests/build.rs, static, without any crate.
//!
//! ```text
//! sockets serve stream|seqpacket vsock:PORT|unix:PATH     prints SERVING ADDRESS, accepts one,
//!                                                         sends back what it gets until the end
//! sockets dial stream|seqpacket vsock:PORT|unix:PATH|hybrid:PATH:PORT BYTES
//!                                                         sends so many, ends sending, wants them
//!                                                         back, prints DIALLED ADDRESS ok
//! ```
//! `vsock:` dials the host; `hybrid:` the guest, by way of a `CONNECT` line.

use std::ffi::{c_int, c_void};
use std::io::{Error, Read, Result, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

const AF_UNIX: u16 = 1;
const AF_VSOCK: u16 = 40;
const SOCK_STREAM: c_int = 1;
const SOCK_SEQPACKET: c_int = 5;
const CID_ANY: u32 = u32::MAX;
const CID_HOST: u32 = 2;

/// Bytes of a message, and of a write to a stream.
const PART: usize = 20_000;

/// Any address that we need: the kernel is told how much of it counts.
#[repr(C, align(8))]
struct Address {
    family: u16,
    rest: [u8; 126],
    length: u32,
}

unsafe extern "C" {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn bind(fd: c_int, address: *const c_void, length: u32) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn accept(fd: c_int, address: *mut c_void, length: *mut u32) -> c_int;
    fn connect(fd: c_int, address: *const c_void, length: u32) -> c_int;
}

fn check(answer: c_int, what: &str) -> Result<c_int> {
    if answer < 0 {
        let error = Error::last_os_error();
        return Err(Error::new(error.kind(), format!("{what}: {error}")));
    }
    Ok(answer)
}

impl Address {
    /// `struct sockaddr_vm`: two bytes reserved, then port and address.
    fn vsock(cid: u32, port: u32) -> Self {
        let mut rest = [0; 126];
        rest[2..6].copy_from_slice(&port.to_ne_bytes());
        rest[6..10].copy_from_slice(&cid.to_ne_bytes());
        Self {
            family: AF_VSOCK,
            rest,
            length: 16,
        }
    }

    /// `struct sockaddr_un`.
    fn unix(path: &str) -> Self {
        let bytes = Path::new(path).as_os_str().as_bytes();
        let mut rest = [0; 126];
        rest[..bytes.len()].copy_from_slice(bytes);
        Self {
            family: AF_UNIX,
            rest,
            length: 110,
        }
    }

    fn parse(text: &str, cid: u32) -> Self {
        match text.split_once(':') {
            Some(("vsock", port)) => Self::vsock(cid, port.parse().expect("a port")),
            Some(("unix", path)) => Self::unix(path),
            _ => panic!("{text}: not an address"),
        }
    }

    fn pointer(&self) -> *const c_void {
        std::ptr::from_ref(self).cast()
    }

    fn socket(&self, kind: c_int) -> Result<c_int> {
        // SAFETY: no pointer is passed.
        check(unsafe { socket(self.family.into(), kind, 0) }, "socket")
    }
}

/// A connected socket as a file of bytes: the standard library only calls read and write on it.
fn stream(fd: c_int) -> UnixStream {
    // SAFETY: a descriptor that was just made and is nobody else's.
    UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn serve(kind: c_int, text: &str) -> Result<()> {
    let address = Address::parse(text, CID_ANY);
    let fd = address.socket(kind)?;
    // SAFETY: the address is one of its length, and lives; no address is wanted from accept.
    let accepted = unsafe {
        check(bind(fd, address.pointer(), address.length), "bind")?;
        check(listen(fd, 8), "listen")?;
        println!("SERVING {text}");
        check(
            accept(fd, std::ptr::null_mut(), std::ptr::null_mut()),
            "accept",
        )?
    };
    let mut peer = stream(accepted);
    let mut buffer = vec![0; 1 << 18];
    let mut total = 0;
    loop {
        let count = peer.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        total += count;
        peer.write_all(&buffer[..count])?;
    }
    println!("SERVED {text} {total}");
    Ok(())
}

/// Connects to a port of the guest's, again while nobody listens there.
fn hybrid(path: &str, port: &str) -> Result<UnixStream> {
    loop {
        let mut peer = UnixStream::connect(path)?;
        writeln!(peer, "CONNECT {port}")?;
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\n") && peer.read(&mut byte)? == 1 {
            line.push(byte[0]);
        }
        if line.starts_with(b"OK ") {
            return Ok(peer);
        }
    }
}

fn dial(kind: c_int, text: &str, bytes: usize) -> Result<()> {
    let mut peer = match text.strip_prefix("hybrid:") {
        Some(rest) => {
            let (path, port) = rest.rsplit_once(':').expect("a path and a port");
            hybrid(path, port)?
        }
        None => {
            let address = Address::parse(text, CID_HOST);
            let fd = address.socket(kind)?;
            // SAFETY: the address is one of its length, and lives.
            check(
                unsafe { connect(fd, address.pointer(), address.length) },
                "connect",
            )?;
            stream(fd)
        }
    };
    let data: Vec<u8> = (0_u32..).flat_map(u32::to_le_bytes).take(bytes).collect();
    let mut writer = peer.try_clone()?;
    let sent = data.clone();
    let writing = std::thread::spawn(move || -> Result<()> {
        for part in sent.chunks(PART) {
            writer.write_all(part)?;
        }
        writer.shutdown(std::net::Shutdown::Write)
    });
    let mut seen = Vec::new();
    let mut buffer = vec![0; 1 << 18];
    let mut reads = Vec::new();
    loop {
        let count = peer.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        reads.push(count);
        seen.extend_from_slice(&buffer[..count]);
    }
    writing.join().expect("no panic")?;
    let whole = kind == SOCK_STREAM || reads.iter().all(|&count| count == PART);
    let right = seen == data && whole;
    println!("DIALLED {text} {}", if right { "ok" } else { "WRONG" });
    Ok(())
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let kind = match words.get(2) {
        Some(&"stream") => SOCK_STREAM,
        Some(&"seqpacket") => SOCK_SEQPACKET,
        _ => panic!("stream or seqpacket?"),
    };
    match words[..] {
        [_, "serve", _, address] => serve(kind, address),
        [_, "dial", _, address, bytes] => dial(kind, address, bytes.parse().expect("a number")),
        _ => panic!("serve or dial?"),
    }
}
