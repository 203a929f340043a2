//! Resident memory of the VMM process outside guest RAM, once the guest runs.
//!
//! Every mapping of the size of guest RAM or more counts as guest RAM; what is left is the VMM's
//! own (`/proc/PID/smaps`, Rss). The proportional figure (Pss) counts shared pages once.

use std::io::Read;

use super::Bench;
use super::peer::{Image, Launch, MEMORY_MIB, Peer};
use super::sample::{Samples, row};
use crate::failure::{Context, Outcome};

/// What the bench guest says first; after it, it drives its disk.
const BANNER: &[u8] = b"blk_bench";

/// Rss and Pss in MiB of everything in `smaps` that is smaller than guest RAM.
fn own_memory(smaps: &str) -> (f64, f64) {
    let (mut rss, mut pss) = (0.0, 0.0);
    let mut is_ram = false;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else {
            continue;
        };
        let Ok(kib) = value.parse::<f64>() else {
            continue;
        };
        match key {
            "Size:" => is_ram = kib >= (MEMORY_MIB * 1024) as f64,
            "Rss:" if !is_ram => rss += kib / 1024.0,
            "Pss:" if !is_ram => pss += kib / 1024.0,
            _ => {}
        }
    }
    (rss, pss)
}

/// The mappings of a VMM whose guest has begun to use its disk.
fn smaps_of(peer: &Peer, launch: &Launch<'_>) -> std::io::Result<String> {
    let mut child = peer.command(launch)?.spawn()?;
    let mut output = child
        .stdout
        .take()
        .ok_or_else(|| std::io::Error::other("no output pipe"))?;
    let mut banner = [0; BANNER.len()];
    let seen = output.read_exact(&mut banner);
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", child.id()));
    child.kill()?;
    child.wait()?;
    seen.and(smaps)
}

pub(super) fn run(bench: &Bench) -> Outcome<()> {
    let disk = bench.images.join("memory.raw");
    let image = std::fs::File::create(&disk).context(disk.display())?;
    image.set_len(64 << 20).context(disk.display())?;
    // The disk bench's guest: it uses its disk for a while after its first line.
    let launch = Launch {
        kernel: &bench.blk_bench,
        disk: Some(Image {
            path: &disk,
            direct: true,
        }),
        vsock: None,
        control: None,
        scratch: &bench.scratch,
    };
    let mut figures: Vec<(Samples, Samples)> = Vec::new();
    figures.resize_with(bench.peers.len(), Default::default);
    for _ in 0..bench.rounds.min(5) {
        for (peer, (rss, pss)) in bench.peers.iter().zip(&mut figures) {
            let (own_rss, own_pss) = own_memory(&smaps_of(peer, &launch).context(peer)?);
            rss.push(own_rss);
            pss.push(own_pss);
        }
    }
    let ours = figures
        .first()
        .map(|(rss, pss)| (rss.median(), pss.median()));
    for (peer, (rss, _)) in bench.peers.iter().zip(&figures) {
        row(
            "resident, 1 vCPU + disk",
            &peer.to_string(),
            rss,
            "MiB",
            ours.map(|o| o.0),
        );
    }
    for (peer, (_, pss)) in bench.peers.iter().zip(&figures) {
        row(
            "proportional share of it",
            &peer.to_string(),
            pss,
            "MiB",
            ours.map(|o| o.1),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_ram_is_left_out() {
        let smaps = "\
            1000-2000 r-xp 00000000 00:00 0 /thimble\n\
            Size:               2048 kB\nRss:                1024 kB\nPss:                 512 kB\n\
            3000-4000 rw-s 00000000 00:01 9 /memfd:thimble-ram (deleted)\n\
            Size:             131072 kB\nRss:               65536 kB\nPss:               65536 kB\n";
        assert_eq!(own_memory(smaps), (1.0, 0.5));
    }
}
