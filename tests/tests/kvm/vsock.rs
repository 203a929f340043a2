//! Sockets between host and guest, both ways.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use harness::guest::{Guest, LIMIT, Launch, status};
use harness::{guests, skip};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::Value;

const ECHO: u32 = 7;
const SINK: u32 = 9;
const PATTERN: u32 = 19;
const DIAL: u32 = 20;
const QUIT: u32 = 99;
const NOBODY: u32 = 1234;

/// The guest that serves sockets, once it does.
#[track_caller]
fn serving() -> Guest {
    serving_with("")
}

/// The same with words on its command line.
#[track_caller]
fn serving_with(cmdline: &str) -> Guest {
    let launch = Launch::new()
        .control()
        .kernel(guests::VSOCK, cmdline)
        .args(["--vsock", "cid=42,path=v.sock"]);
    let mut guest = launch.start();
    guest.expect("VSOCK ready cid=42 seqpacket=true");
    guest
}

/// A connection to a port of the guest's, or what was said instead.
fn try_connect(guest: &Guest, port: u32) -> Result<UnixStream, String> {
    let socket = UnixStream::connect(guest.path("v.sock")).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.set_write_timeout(Some(LIMIT)).unwrap();
    writeln!(&socket, "CONNECT {port}").unwrap();
    // Byte by byte: what comes after the line is the guest's.
    let mut line = Vec::new();
    BufReader::with_capacity(1, &socket)
        .read_until(b'\n', &mut line)
        .unwrap();
    let line = String::from_utf8(line).unwrap();
    let assigned = line.strip_prefix("OK ").map(|port| port.trim().parse());
    match assigned {
        Some(Ok(port)) => {
            let _: u32 = port;
            Ok(socket)
        }
        _ => Err(line),
    }
}

#[track_caller]
fn connect(guest: &Guest, port: u32) -> UnixStream {
    match try_connect(guest, port) {
        Ok(socket) => socket,
        Err(line) => panic!("port {port}: {line:?}"),
    }
}

#[track_caller]
fn end(guest: &mut Guest) {
    // Port 99 accepts nobody; it ends the guest.
    assert!(try_connect(guest, QUIT).is_err());
    let said = guest.expect_exit(status::CLEAN);
    assert!(said.contains("TESTS DONE passed=1 failed=0"), "{said}");
    assert!(!guest.path("v.sock").exists());
}

fn pattern(length: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap();
    (0..length).map(byte).collect()
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// The vsock device's counters.
#[track_caller]
fn counter(guest: &mut Guest, name: &str) -> u64 {
    let groups = guest
        .client()
        .execute("x-thimble-query-counters", Value::Null);
    let group = groups.as_array().unwrap().iter();
    let group = group.filter(|group| group["id"] == "vsock0");
    let mut counters = group.flat_map(|group| group["counters"].as_array().unwrap());
    let found = counters.find(|counter| counter["name"] == name);
    found.unwrap()["value"].as_u64().unwrap()
}

#[test]
fn the_host_reaches_the_guest() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = serving();
    let socket = guest.path("v.sock");
    let mode = std::fs::metadata(socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut echo = connect(&guest, ECHO);
    let mut other = connect(&guest, ECHO);
    for (stream, text) in [(&mut echo, "hello"), (&mut other, "world")] {
        stream.write_all(text.as_bytes()).unwrap();
        let mut seen = [0; 5];
        stream.read_exact(&mut seen).unwrap();
        assert_eq!(seen, text.as_bytes());
    }
    assert!(try_connect(&guest, NOBODY).is_err());
    // The end of one direction is passed on, and the other goes on until it ends too.
    echo.write_all(b"last").unwrap();
    echo.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    echo.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "last");
    assert_eq!(counter(&mut guest, "accepted-by-guest"), 2);
    assert_eq!(counter(&mut guest, "violations"), 0);
    end(&mut guest);
}

#[test]
fn much_data_arrives_as_it_was_sent_both_ways() {
    const MUCH: usize = 24 << 20;
    if skip::without_kvm() {
        return;
    }
    let mut guest = serving();
    let data = pattern(MUCH);
    let mut sink = connect(&guest, SINK);
    sink.write_all(&data).unwrap();
    sink.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    sink.read_to_end(&mut answer).unwrap();
    let expected = [MUCH as u64, fnv(&data)].map(u64::to_le_bytes).concat();
    assert_eq!(answer, expected);

    let mut source = connect(&guest, PATTERN);
    source.write_all(&(MUCH as u64).to_le_bytes()).unwrap();
    let mut seen = Vec::new();
    source.read_to_end(&mut seen).unwrap();
    assert!(seen == data, "{} bytes, or wrong ones", seen.len());
    assert_eq!(counter(&mut guest, "bytes-from-guest"), MUCH as u64 + 16);
    end(&mut guest);
}

#[test]
fn many_connections_at_once_stay_apart() {
    // More than the usual limit of descriptors: thimble raises its own, and we ours.
    const MANY: usize = 1500;
    if skip::without_kvm() {
        return;
    }
    let mut guest = serving_with("conns=1600");
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut streams: Vec<_> = (0..MANY).map(|_| connect(&guest, ECHO)).collect();
    assert_eq!(counter(&mut guest, "connections"), MANY as u64);
    for (n, stream) in streams.iter_mut().enumerate() {
        stream.write_all(format!("stream {n}").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for (n, mut stream) in streams.into_iter().enumerate() {
        let mut seen = String::new();
        stream.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, format!("stream {n}"));
    }
    end(&mut guest);
}

/// Serves `count` connections at a port of the host's by sending back what comes.
fn echo_server(path: PathBuf, count: u32) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let mut workers = Vec::new();
        for _ in 0..count {
            let (mut stream, _) = listener.accept().unwrap();
            workers.push(std::thread::spawn(move || {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                stream.write_all(&all).unwrap();
            }));
        }
        for worker in workers {
            worker.join().unwrap();
        }
    })
}

#[test]
fn the_guest_reaches_the_host() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = serving();
    for (port, count, bytes) in [(5000, 1, 100_000), (5001, 60, 3000)] {
        let server = echo_server(guest.path(&format!("v.sock_{port}")), count);
        let mut dial = connect(&guest, DIAL);
        dial.write_all(&words(&[port, count, bytes, 1])).unwrap();
        guest.expect(&format!("VSOCK dialled ok={count} refused=0 wrong=0"));
        server.join().unwrap();
    }
    let mut dial = connect(&guest, DIAL);
    dial.write_all(&words(&[NOBODY, 50, 1, 1])).unwrap();
    guest.expect("VSOCK dialled ok=0 refused=50 wrong=0");
    assert_eq!(counter(&mut guest, "refused"), 50);
    end(&mut guest);
}

#[test]
fn connections_outlive_a_pause_and_not_a_reset() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = serving();
    let mut echo = connect(&guest, ECHO);
    guest.client().execute("stop", Value::Null);
    echo.write_all(b"while paused").unwrap();
    guest.client().execute("cont", Value::Null);
    let mut seen = [0; 12];
    echo.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"while paused");
    guest.client().execute("system_reset", Value::Null);
    assert_eq!(echo.read(&mut seen).unwrap(), 0);
    guest.expect("VSOCK ready cid=42");
    connect(&guest, ECHO).write_all(b"again").unwrap();
    end(&mut guest);
}

#[test]
fn a_path_that_is_taken_is_refused_and_left_alone() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = serving();
    let path = guest.path("v.sock");
    let second = Launch::new().arg("--vsock").arg(&path).start();
    refused(second, "in use by another process");
    connect(&guest, ECHO);
    end(&mut guest);

    let launch = Launch::new().args(["--vsock", "nowhere/v.sock"]);
    refused(
        launch.start(),
        "vsock0: cannot open the directory of nowhere/v",
    );
    let launch = Launch::new().args(["--vsock", "file"]);
    let file = launch.path("file");
    std::fs::write(&file, "precious").unwrap();
    let mut guest = launch.start();
    guest.expect_exit(status::FAILED);
    guest.expect_stderr("exists and is not a socket");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[track_caller]
fn refused(mut guest: Guest, text: &str) {
    guest.expect_exit(status::FAILED);
    guest.expect_stderr(text);
}
