//! The block path: the same guest program, driving virtio-blk itself, under every VMM.
//!
//! The guest prints a line `BENCH blk key=value…` per queue depth; taken from it are requests per
//! second (higher is better) and the median latency in nanoseconds (lower is better). Once past the
//! host's page cache and once through it, because not every VMM can do both.

use super::Bench;
use super::peer::{Image, Launch};
use super::sample::{Samples, row};
use crate::failure::{Context, Outcome};

/// Size of the test image. Allocated in full beforehand, so that nobody measures allocation.
const DISK_BYTES: usize = 64 << 20;

/// One figure a guest prints.
struct Figure {
    /// What was measured, queue depth included.
    name: String,
    unit: &'static str,
    value: f64,
}

/// The figures in a guest's output.
fn figures(output: &str) -> Vec<Figure> {
    let lines = output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("BENCH blk "));
    lines.flat_map(figures_of_line).collect()
}

fn figures_of_line(line: &str) -> Vec<Figure> {
    let value = |key: &str| {
        line.split_ascii_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    };
    let [Some(op), Some(bytes), Some(depth)] = ["op", "bytes", "depth"].map(value) else {
        return Vec::new();
    };
    let what = format!("{op} {bytes} B, depth {depth}");
    [("per_second", "req/s"), ("p50_ns", "ns")]
        .into_iter()
        .filter_map(|(key, unit)| {
            let value = value(key)?.parse().ok()?;
            Some(Figure {
                name: what.clone(),
                unit,
                value,
            })
        })
        .collect()
}

pub(super) fn run(bench: &Bench) -> Outcome<()> {
    let disk = bench.images.join("block.raw");
    std::fs::write(&disk, vec![0x5a; DISK_BYTES]).context(disk.display())?;
    // A row of samples per figure, in the order of first appearance; a column per VMM.
    let mut table: Vec<(String, &str, Vec<Samples>)> = Vec::new();
    let ways = [("past the page cache", true), ("page cache", false)];
    for (way, direct) in std::iter::repeat_n(ways, bench.rounds.min(5)).flatten() {
        let launch = Launch {
            kernel: &bench.blk_bench,
            disk: Some(Image {
                path: &disk,
                direct,
            }),
            vsock: None,
            control: None,
            scratch: &bench.scratch,
        };
        for (who, peer) in bench.peers.iter().enumerate() {
            if !peer.can(&launch) {
                continue;
            }
            let mut command = peer.command(&launch).context(peer)?;
            let output = command.output().context(peer)?;
            for Figure { name, unit, value } in figures(&String::from_utf8_lossy(&output.stdout)) {
                let name = format!("{name}, {way}");
                let known = table.iter().position(|(n, u, _)| *n == name && *u == unit);
                let at = known.unwrap_or_else(|| {
                    let mut columns = Vec::new();
                    columns.resize_with(bench.peers.len(), Samples::default);
                    table.push((name, unit, columns));
                    table.len() - 1
                });
                if let Some(samples) = table.get_mut(at).and_then(|row| row.2.get_mut(who)) {
                    samples.push(value);
                }
            }
        }
    }
    for (name, unit, columns) in &table {
        let ours = columns.first().map(Samples::median);
        for (peer, samples) in bench.peers.iter().zip(columns) {
            row(name, &peer.to_string(), samples, unit, ours);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bench_lines_count() {
        let output = "blk_bench\r\nBENCH blk FAIL no block device\r\n\
                      BENCH blk op=read bytes=4096 depth=32 per_second=67920 p50_ns=80110\r\n";
        let found = figures(output);
        let seen: Vec<_> = found
            .iter()
            .map(|f| (f.name.as_str(), f.unit, f.value))
            .collect();
        let name = "read 4096 B, depth 32";
        assert_eq!(seen, [(name, "req/s", 67920.0), (name, "ns", 80110.0)]);
    }
}
