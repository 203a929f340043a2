//! Sockets between guest and host: the same guest program, driving virtio-vsock itself, under every
//! VMM that has the Unix-socket protocol on memory-mapped virtio.
//!
//! All figures are taken on the host: megabytes per second of one stream each way, connections per
//! second one after the other, and the median time of a byte there and back.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout};
use std::time::{Duration, Instant};

use super::Bench;
use super::peer::{Kind, Launch, Peer};
use super::sample::{Samples, row};
use crate::failure::{Context, Failure, Outcome};

/// The guest's services; tests/guest/vsock.rs.
const ECHO: u32 = 7;
const DISCARD: u32 = 10;
const SOURCE: u32 = 18;

/// Bytes of one stream.
const STREAM_BYTES: u64 = 256 << 20;
/// What one write to a stream has.
const PART: usize = 64 << 10;
const CONNECTIONS: u32 = 300;
const ROUND_TRIPS: usize = 1000;
/// How long anything may take before the guest counts as stuck.
const LIMIT: Duration = Duration::from_secs(60);

/// What is measured, and whether more is better is said by the unit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Figure {
    ToGuest,
    FromGuest,
    Connections,
    RoundTrip,
}

const FIGURES: [Figure; 4] = [
    Figure::ToGuest,
    Figure::FromGuest,
    Figure::Connections,
    Figure::RoundTrip,
];

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ToGuest => "vsock host to guest",
            Self::FromGuest => "vsock guest to host",
            Self::Connections => "vsock connect",
            Self::RoundTrip => "vsock round trip",
        })
    }
}

impl Figure {
    fn unit(self) -> &'static str {
        match self {
            Self::ToGuest | Self::FromGuest => "MB/s",
            Self::Connections => "conn/s",
            Self::RoundTrip => "us",
        }
    }

    fn measure(self, path: &Path) -> io::Result<f64> {
        match self {
            Self::ToGuest => to_guest(path),
            Self::FromGuest => from_guest(path),
            Self::Connections => connections(path),
            Self::RoundTrip => round_trip(path),
        }
    }
}

pub(super) fn run(bench: &Bench) -> Outcome<()> {
    let path = bench.scratch.join("vsock");
    let launch = Launch {
        kernel: &bench.vsock,
        disk: None,
        vsock: Some(&path),
        control: None,
        scratch: &bench.scratch,
    };
    let able = |peer: &&Peer| matches!(peer.kind, Kind::Thimble | Kind::Firecracker);
    let peers: Vec<&Peer> = bench.peers.iter().filter(able).collect();
    let mut table: Vec<[Samples; FIGURES.len()]> = Vec::new();
    table.resize_with(peers.len(), Default::default);
    for _ in 0..bench.rounds.min(5) {
        for (peer, samples) in peers.iter().zip(&mut table) {
            // Firecracker leaves its socket behind.
            drop(std::fs::remove_file(&path));
            let mut child = peer.command(&launch).context(peer)?.spawn().context(peer)?;
            let result = wait_until_ready(&mut child).and_then(|_output| {
                for (figure, samples) in FIGURES.iter().zip(samples) {
                    samples.push(figure.measure(&path).context(figure)?);
                }
                Ok(())
            });
            child.kill().context(peer)?;
            child.wait().context(peer)?;
            result.context(peer)?;
        }
    }
    for (index, figure) in FIGURES.iter().enumerate() {
        let of = |samples: &[Samples; FIGURES.len()]| samples.get(index).map(Samples::median);
        let ours = table.first().and_then(of);
        for (peer, samples) in peers.iter().zip(&table) {
            if let Some(samples) = samples.get(index) {
                let name = figure.to_string();
                row(&name, &peer.to_string(), samples, figure.unit(), ours);
            }
        }
    }
    Ok(())
}

fn wait_until_ready(child: &mut Child) -> Outcome<BufReader<ChildStdout>> {
    let stdout = child.stdout.take();
    let stdout = stdout.ok_or_else(|| Failure::new("its output is not piped"))?;
    let mut output = BufReader::new(stdout);
    let mut line = String::new();
    while output.read_line(&mut line).context("its output")? > 0 {
        if line.contains("VSOCK ready") {
            return Ok(output);
        }
        line.clear();
    }
    Err(Failure::new("its guest does not serve sockets"))
}

fn connect(path: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    // In one piece: Firecracker does not wait for the rest of a line.
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut line = Vec::new();
    BufReader::with_capacity(1, &stream).read_until(b'\n', &mut line)?;
    if line.starts_with(b"OK ") {
        Ok(stream)
    } else {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

fn rate(amount: f64, since: Instant) -> f64 {
    amount / since.elapsed().as_secs_f64()
}

/// Bytes of one stream, in millions.
fn megabytes() -> f64 {
    Duration::from_micros(STREAM_BYTES).as_secs_f64()
}

fn to_guest(path: &Path) -> io::Result<f64> {
    let mut stream = connect(path, DISCARD)?;
    let part = vec![0x5a; PART];
    let begun = Instant::now();
    stream.write_all(&STREAM_BYTES.to_le_bytes())?;
    let mut left = STREAM_BYTES;
    while left > 0 {
        stream.write_all(&part)?;
        left = left.saturating_sub(PART as u64);
    }
    // The guest has all of it.
    stream.read_exact(&mut [0; 8])?;
    Ok(rate(megabytes(), begun))
}

fn from_guest(path: &Path) -> io::Result<f64> {
    let mut stream = connect(path, SOURCE)?;
    let mut part = vec![0; PART];
    let begun = Instant::now();
    stream.write_all(&STREAM_BYTES.to_le_bytes())?;
    let mut left = STREAM_BYTES;
    while left > 0 {
        let count = stream.read(&mut part)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(count as u64);
    }
    Ok(rate(megabytes(), begun))
}

fn connections(path: &Path) -> io::Result<f64> {
    let begun = Instant::now();
    for _ in 0..CONNECTIONS {
        connect(path, ECHO)?;
    }
    Ok(rate(f64::from(CONNECTIONS), begun))
}

fn round_trip(path: &Path) -> io::Result<f64> {
    let mut stream = connect(path, ECHO)?;
    let mut times = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let begun = Instant::now();
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    Ok(median.as_secs_f64() * 1e6)
}
