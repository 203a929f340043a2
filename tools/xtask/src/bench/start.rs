//! Spawn → the guest's first serial byte, and → the process is reaped.

use std::io::Read;
use std::time::{Duration, Instant};

use super::Bench;
use super::peer::{Launch, Peer};
use super::sample::{Samples, row};
use crate::failure::{Context, Outcome};

/// The first byte of the bench guest.
const GUEST_SAYS: [u8; 1] = *b"B";

/// One launch: until the first byte on standard output, and until the process has been waited for.
fn once(peer: &Peer, launch: &Launch<'_>) -> std::io::Result<(Duration, Duration)> {
    let mut command = peer.command(launch)?;
    let started = Instant::now();
    let mut child = command.spawn()?;
    let mut output = child
        .stdout
        .take()
        .ok_or_else(|| std::io::Error::other("no output pipe"))?;
    let mut first = [0];
    let got = output.read(&mut first)?;
    let first_byte = started.elapsed();
    let mut rest = Vec::new();
    output.read_to_end(&mut rest)?;
    let status = child.wait()?;
    let whole = started.elapsed();
    if got == 0 || first != GUEST_SAYS {
        let seen = String::from_utf8_lossy(&first);
        return Err(std::io::Error::other(format!(
            "what comes first is not the guest's: {seen:?}, {status}"
        )));
    }
    Ok((first_byte, whole))
}

pub(super) fn run(bench: &Bench) -> Outcome<()> {
    let launch = Launch {
        kernel: &bench.boot_exit,
        disk: None,
        vsock: None,
        control: None,
        scratch: &bench.scratch,
    };
    let mut figures: Vec<(Samples, Samples)> = Vec::new();
    figures.resize_with(bench.peers.len(), Default::default);
    // The first round warms the page cache and is not counted.
    for round in 0..=bench.rounds {
        for (peer, (first, whole)) in bench.peers.iter().zip(&mut figures) {
            let (first_byte, life) = once(peer, &launch).context(peer)?;
            if round > 0 {
                first.push_ms(first_byte);
                whole.push_ms(life);
            }
        }
    }
    let ours = figures
        .first()
        .map(|(first, whole)| (first.median(), whole.median()));
    for (peer, (first, _)) in bench.peers.iter().zip(&figures) {
        row(
            "spawn to first guest byte",
            &peer.to_string(),
            first,
            "ms",
            ours.map(|o| o.0),
        );
    }
    for (peer, (_, whole)) in bench.peers.iter().zip(&figures) {
        row(
            "whole life",
            &peer.to_string(),
            whole,
            "ms",
            ours.map(|o| o.1),
        );
    }
    Ok(())
}
