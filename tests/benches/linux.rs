//! How long Linux takes from the launcher's start to its power-off, for several kernels in turn, as
//! measured from outside: where the machine's processor virtualises right there, else in the
//! testbed. `cargo xtask bench linux` calls it and makes a table of what it prints: for each life a
//! line with a word for the kernel and the milliseconds.
//!
//! The argument is how often each kernel is booted; the first round is not counted.

#![expect(clippy::print_stdout, reason = "what it prints is its result")]

use std::process::ExitCode;
use std::time::Instant;

use harness::built;
use harness::host::Host;
use harness::linux::Boot;

/// Debian's kernels, by series; each from the ELF file, so that nobody unpacks.
const SERIES: [&str; 2] = ["6.1", "6.12"];

fn main() -> ExitCode {
    let rounds: u32 = std::env::args()
        .find_map(|word| word.parse().ok())
        .unwrap_or(1);
    // Why not is on standard error.
    let Some(mut host) = Host::acquire() else {
        return ExitCode::FAILURE;
    };
    let debian = SERIES.map(|series| {
        (
            format!("debian-{series}"),
            Boot::new(&host, series, "vmlinux", ":"),
        )
    });
    let mut kernels = Vec::from(debian);
    if built::microvm_kernel().is_some()
        && let Some(kernel) = host.microvm_kernel()
    {
        let boot = Boot::new(&host, "6.1", "vmlinux", ":").kernel(&kernel);
        kernels.insert(0, ("microvm".to_owned(), boot));
    }
    for round in 0..=rounds {
        for (name, boot) in &kernels {
            let started = Instant::now();
            let life = boot.run(&mut host);
            let taken = started.elapsed();
            life.assert_clean();
            if round > 0 {
                println!("{name} {:.3}", taken.as_secs_f64() * 1e3);
            }
        }
    }
    ExitCode::SUCCESS
}
