//! `cargo xtask bench`: our figures and the peers', from the same run, alternating.
//!
//! A bench prints; it never passes or fails. Machines differ and are shared, so only the ratios of
//! one run mean anything; SPEC.md records them with their method.

mod block;
mod control;
mod linux;
mod memory;
mod peer;
mod sample;
mod start;
mod syscalls;
mod vsock;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::failure::{Context, Failure, Outcome};
use crate::process;
use crate::workspace::Workspace;
use peer::Peer;

/// The arguments of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(
    after_help = "Example: FIRECRACKER=/usr/local/bin/firecracker cargo xtask bench start \
                        --rounds 50"
)]
pub(crate) struct Arguments {
    /// Which benches to run; all of them if none is named
    benches: Vec<Which>,
    /// How often each VMM is started
    #[arg(long, default_value_t = 30)]
    rounds: usize,
}

/// The benches, by the name the command line knows them by.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// Spawn to the guest's first byte, and to the end of the process
    Start,
    /// Spawn to the first answer on the control socket; round trips on an open connection
    Control,
    /// Resident memory outside guest RAM
    Memory,
    /// System calls before the first KVM_RUN
    Syscalls,
    /// The block path, driven by a guest program
    Block,
    /// Linux to its power-off: the microVM kernel and Debian's
    Linux,
    /// Sockets between guest and host, served by a guest program
    Vsock,
}

const ALL: [Which; 7] = [
    Which::Start,
    Which::Control,
    Which::Memory,
    Which::Syscalls,
    Which::Block,
    Which::Linux,
    Which::Vsock,
];

/// What a bench works with.
struct Bench {
    /// ELF of the guest that prints one line and powers off.
    boot_exit: PathBuf,
    /// ELF of the guest that measures its disk.
    blk_bench: PathBuf,
    /// ELF of the guest that serves sockets.
    vsock: PathBuf,
    /// thimble first.
    peers: Vec<Peer>,
    rounds: usize,
    /// For sockets and small files; emptied at the end.
    scratch: PathBuf,
    /// For disk images: on the file system the build is on, which is no tmpfs as a rule.
    images: PathBuf,
}

/// Builds the release binary and the bench guests, and runs what was asked for.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Outcome<()> {
    let thimble = workspace.build_release()?;
    let guests = build_guests(workspace)?;
    let scratch = std::env::temp_dir().join(format!("thimble-bench-{}", std::process::id()));
    let images = workspace.target.join("bench");
    for directory in [&scratch, &images] {
        std::fs::create_dir_all(directory).context(directory.display())?;
    }
    let bench = Bench {
        boot_exit: guests.join("boot_exit.elf"),
        blk_bench: guests.join("blk_bench.elf"),
        vsock: guests.join("vsock.elf"),
        peers: peer::present(&thimble),
        rounds: arguments.rounds.max(1),
        scratch,
        images,
    };
    let wanted = if arguments.benches.is_empty() {
        &ALL[..]
    } else {
        &arguments.benches
    };
    sample::header();
    let result = wanted.iter().try_for_each(|which| match which {
        Which::Start => start::run(&bench),
        Which::Control => control::run(&bench),
        Which::Memory => memory::run(&bench),
        Which::Syscalls => syscalls::run(&bench),
        Which::Block => block::run(&bench),
        Which::Linux => linux::run(workspace, &thimble, &bench),
        Which::Vsock => vsock::run(&bench),
    });
    std::fs::remove_dir_all(&bench.scratch).context(bench.scratch.display())?;
    result
}

/// Builds the tests' guests and returns the directory they are in.
fn build_guests(workspace: &Workspace) -> Outcome<PathBuf> {
    let mut build = workspace.cargo(["build", "-p", "tests", "--message-format", "json"]);
    let messages = process::capture(&mut build)?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "build-script-executed")
        .filter_map(|message| message["out_dir"].as_str().map(PathBuf::from))
        .find(|directory| has_guests(directory))
        .ok_or_else(|| Failure::new("cargo built no bench guests"))
}

fn has_guests(directory: &Path) -> bool {
    directory.join("boot_exit.elf").is_file()
}
