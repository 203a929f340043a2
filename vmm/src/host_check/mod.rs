//! `thimble check`: can this host run guests, and how well?
//!
//! What `virt-host-validate` does, by doing: opens the devices, asks KVM, runs a few real
//! instructions. Called by the binary on its main thread, before anything else exists. Three steps:
//! [`probe::gather`] collects facts and judges nothing, [`evaluate`] judges facts and touches
//! nothing, and [`text`] and [`json`] write the judgement. The meaning of each line is in
//! `docs/host-check.md`.

mod capabilities;
mod evaluate;
pub mod facts;
pub mod probe;
mod render;

pub use evaluate::evaluate;
pub use render::{json, text};

use std::io::{self, Write};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Guests run, but something will be slower, weaker or not there.
    Warn,
    /// Guests do not run.
    Fail,
}

/// What a check is about; the report's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// KVM itself.
    Kvm,
    /// Guest memory.
    Memory,
    /// Networks and sockets between guest and host.
    Net,
    /// Disk input and output.
    Io,
    /// What the sandbox is built of.
    Sandbox,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Stable identifier, for programs.
    pub id: String,
    /// What it is about.
    pub group: Group,
    /// What is checked; reads on from "Checking".
    pub what: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found, or what is missing and what to do about it. Empty when there is nothing to
    /// say.
    pub note: String,
}

/// Whether guests can run: no check failed. The exit status of `thimble check` is 0 then, else 1.
#[must_use]
pub fn passes(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.verdict != Verdict::Fail)
}

/// Checks this host and writes the report: as a JSON array, or as lines, coloured if `colour`
/// (that is, when the output is a terminal). True when guests can run.
///
/// # Errors
/// Only those of `out`.
pub fn run(as_json: bool, colour: bool, out: &mut dyn Write) -> io::Result<bool> {
    let checks = evaluate(&probe::gather());
    let report = if as_json {
        json(&checks)
    } else {
        text(&checks, colour)
    };
    out.write_all(report.as_bytes())?;
    out.flush()?;
    Ok(passes(&checks))
}

#[cfg(test)]
mod tests;
