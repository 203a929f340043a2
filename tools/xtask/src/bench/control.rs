//! Spawn → the control socket answers a command, and the round trip on an open connection.
//! Only VMMs that speak QMP take part.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use super::Bench;
use super::peer::{Kind, Launch, Peer};
use super::sample::{Samples, row};
use crate::failure::{Context, Outcome};

/// Round trips measured per connection.
const ROUND_TRIPS: usize = 2000;

/// How long a VMM may take until its socket answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// A negotiated connection.
struct Connection {
    reader: BufReader<UnixStream>,
    line: String,
}

impl Connection {
    /// Tries to connect, without pause, until there is someone to connect to.
    fn open(socket: &Path) -> std::io::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::yield_now(),
            }
        };
        let mut connection = Self {
            reader: BufReader::new(stream),
            line: String::new(),
        };
        connection.receive()?;
        connection.ask("{\"execute\":\"qmp_capabilities\"}")?;
        Ok(connection)
    }

    fn receive(&mut self) -> std::io::Result<()> {
        self.line.clear();
        match self.reader.read_line(&mut self.line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn ask(&mut self, command: &str) -> std::io::Result<()> {
        self.reader.get_mut().write_all(command.as_bytes())?;
        loop {
            self.receive()?;
            if self.line.starts_with("{\"return\"") {
                return Ok(());
            }
            if self.line.starts_with("{\"error\"") {
                return Err(std::io::Error::other(self.line.clone()));
            }
        }
    }
}

fn spawn(peer: &Peer, bench: &Bench, socket: &Path) -> std::io::Result<Child> {
    // A guest that ends at once must not take the socket away: the machine waits for `cont`.
    let launch = Launch {
        kernel: &bench.boot_exit,
        disk: None,
        vsock: None,
        control: Some(socket),
        scratch: &bench.scratch,
    };
    let mut command = peer.command(&launch)?;
    command.arg(if peer.kind == Kind::Qemu {
        "-S"
    } else {
        "--paused"
    });
    command.spawn()
}

pub(super) fn run(bench: &Bench) -> Outcome<()> {
    let peers: Vec<&Peer> = bench
        .peers
        .iter()
        .filter(|p| matches!(p.kind, Kind::Thimble | Kind::Qemu))
        .collect();
    let socket = bench.scratch.join("control.sock");
    let mut figures: Vec<(Samples, Samples)> = Vec::new();
    figures.resize_with(peers.len(), Default::default);
    for round in 0..=bench.rounds {
        for (peer, (answers, trips)) in peers.iter().zip(&mut figures) {
            let started = Instant::now();
            let mut child = spawn(peer, bench, &socket).context(peer)?;
            let mut connection = Connection::open(&socket).context(peer)?;
            let answered = started.elapsed();
            if round > 0 {
                answers.push_ms(answered);
                for _ in 0..ROUND_TRIPS / bench.rounds.max(1) {
                    let asked = Instant::now();
                    connection
                        .ask("{\"execute\":\"query-status\"}")
                        .context(peer)?;
                    trips.push(asked.elapsed().as_secs_f64() * 1e6);
                }
            }
            connection.ask("{\"execute\":\"quit\"}").context(peer)?;
            child.wait().context(peer)?;
            // QEMU leaves its socket file behind.
            drop(std::fs::remove_file(&socket));
        }
    }
    let ours = figures
        .first()
        .map(|(answers, trips)| (answers.median(), trips.median()));
    for (peer, (answers, _)) in peers.iter().zip(&figures) {
        row(
            "spawn to control answer",
            &peer.to_string(),
            answers,
            "ms",
            ours.map(|o| o.0),
        );
    }
    for (peer, (_, trips)) in peers.iter().zip(&figures) {
        row(
            "control round trip",
            &peer.to_string(),
            trips,
            "us",
            ours.map(|o| o.1),
        );
    }
    Ok(())
}
