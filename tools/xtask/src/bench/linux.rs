//! Linux from the launcher's start to its power-off: the microVM kernel beside Debian's, each of
//! them under thimble. `tests/benches/linux.rs` boots them in turn and prints a line for each life,
//! `KERNEL MILLISECONDS`; on a host without VMX or SVM inside the testbed.

use std::path::Path;

use super::Bench;
use super::sample::{Samples, row};
use crate::failure::Outcome;
use crate::fetch_guest;
use crate::process;
use crate::report;
use crate::test;
use crate::workspace::Workspace;

/// Rounds for each of the bench's own: a life takes seconds in the testbed, and not two
/// milliseconds.
const PART: usize = 5;

/// The samples by kernel, in the order in which the kernels first come.
fn samples(output: &str) -> Vec<(&str, Samples)> {
    let mut kernels: Vec<(&str, Samples)> = Vec::new();
    for (name, value) in output.lines().filter_map(|line| line.split_once(' ')) {
        let Ok(value) = value.parse() else { continue };
        match kernels.iter_mut().find(|(other, _)| *other == name) {
            Some((_, samples)) => samples.push(value),
            None => {
                let mut samples = Samples::default();
                samples.push(value);
                kernels.push((name, samples));
            }
        }
    }
    kernels
}

pub(super) fn run(workspace: &Workspace, thimble: &Path, bench: &Bench) -> Outcome<()> {
    if !workspace.target.join("kernel/vmlinux").is_file() {
        report::note("skipped: linux: no microVM kernel; `cargo xtask kernel` builds it");
        return Ok(());
    }
    test::provide_linux(true)?;
    let guests = workspace.guest_dir();
    fetch_guest::fetch(&guests, false, true)?;
    let mut command = workspace.cargo(["bench", "--quiet", "-p", "tests", "--bench", "linux"]);
    command
        .args(["--", &bench.rounds.div_ceil(PART).to_string()])
        .env("THIMBLE", thimble)
        .env("THIMBLE_GUESTS", &guests);
    let output = process::capture(&mut command)?;
    let kernels = samples(&output);
    let ours = kernels.first().map(|(_, samples)| samples.median());
    for (name, samples) in &kernels {
        row("Linux, start to power-off", name, samples, "ms", ours);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_sorted_by_kernel() {
        let found = samples("microvm 2.0\nother line\ndebian-6.1 4.0\nmicrovm 3.0\n");
        let medians: Vec<_> = found.iter().map(|(name, s)| (*name, s.median())).collect();
        assert_eq!(medians, [("microvm", 2.5), ("debian-6.1", 4.0)]);
    }
}
