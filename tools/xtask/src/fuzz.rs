//! `cargo xtask fuzz`: the fuzz targets of tests/fuzz, each for a bounded time.
//!
//! The targets are libFuzzer's, built with the stable compiler: the coverage instrumentation is an
//! LLVM pass that `-C passes` switches on, so neither a nightly toolchain nor cargo-fuzz is needed.
//! libFuzzer itself takes a C++ compiler. `cargo xtask test` runs the targets too, shortly
//! (docs/testing.md).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;

use crate::apt::{self, Tool, tool};
use crate::failure::{Context, Failure, Outcome};
use crate::process;
use crate::report;
use crate::workspace::Workspace;

/// The workspace of the targets, from the root.
const DIRECTORY: &str = "tests/fuzz";
/// Its manifest.
pub(crate) const MANIFEST: &str = "tests/fuzz/Cargo.toml";
/// What building libFuzzer takes.
pub(crate) const TOOLS: [Tool; 1] = [tool("g++", "g++")];

/// What libFuzzer needs in the code under test: inline counters, and a table that tells their
/// places. Debug assertions and overflow checks turn silent mistakes into crashes.
const FLAGS: [&str; 9] = [
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Ccodegen-units=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
];

/// The triple that binaries are built for. Named, so that the flags reach no build script.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Memory one target may use, in MiB: hostile input must not size an allocation. The largest uses
/// about 70.
const MEMORY_LIMIT_MIB: u32 = 512;
/// Seconds one input may take. The slowest takes a few milliseconds.
const INPUT_LIMIT: u32 = 10;
/// Bytes of the largest input that is made. Each is a choice, and no target needs more of them.
const INPUT_BYTES: u32 = 1024;
/// Lines of a failed target's log that are shown.
const SHOWN: usize = 40;

/// Seeds that are kept of a target, and bytes of the largest of them.
const SEEDS: usize = 6;
const SEED_BYTES: u64 = 512;

#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask fuzz virtio_blk qmp_session --seconds 600")]
pub(crate) struct Arguments {
    /// The targets to run: files in tests/fuzz/targets, without their ending [default: all]
    names: Vec<String>,
    /// How long to run each target
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Replace the seeds of each target by a few of the inputs found so far
    #[arg(long)]
    keep: bool,
    /// Do not install missing programs
    #[arg(long)]
    no_install: bool,
}

/// What a target did without finding anything, as libFuzzer tells it.
pub(crate) struct Figures {
    /// Inputs tried.
    executions: String,
    /// Edges of the code reached.
    coverage: String,
}

/// Runs the targets named, all if none is, and prints a line for each.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Outcome<()> {
    let targets = Targets::build(workspace, !arguments.no_install)?;
    let chosen = targets.choose(&arguments.names)?;
    let findings = targets.run(&chosen, arguments.seconds);
    let failed = findings.iter().filter(|finding| finding.is_err()).count();
    report::data(&format!(
        "{} fuzz targets, {} s each, {failed} failed",
        findings.len(),
        arguments.seconds
    ));
    if failed > 0 {
        return Err(Failure::silent());
    }
    if arguments.keep {
        chosen.iter().try_for_each(|name| targets.keep(name))?;
    }
    Ok(())
}

/// Builds all targets and runs each for `seconds`, for `cargo xtask test`: what they did, or found.
pub(crate) fn run_all(
    workspace: &Workspace,
    seconds: u32,
    install: bool,
) -> Outcome<Vec<Outcome<Figures>>> {
    let targets = Targets::build(workspace, install)?;
    let chosen = targets.choose(&[])?;
    Ok(targets.run(&chosen, seconds))
}

/// The targets, built.
struct Targets {
    /// Every target's name, sorted.
    names: Vec<String>,
    /// Where their binaries are.
    binaries: PathBuf,
    /// The committed inputs, in a directory for each.
    seeds: PathBuf,
    /// Inputs found in earlier runs, in a directory for each.
    found: PathBuf,
    /// Inputs that made a target fail.
    artifacts: PathBuf,
}

impl Targets {
    fn build(workspace: &Workspace, install: bool) -> Outcome<Self> {
        apt::provide(&TOOLS, install)?;
        let source = workspace.root.join(DIRECTORY);
        let output = workspace.target.join("fuzz");
        let mut cargo = workspace.cargo(["build", "--quiet", "--release", "--bins"]);
        cargo
            .args(["--target", TRIPLE, "--manifest-path", MANIFEST])
            .env("CARGO_TARGET_DIR", &output)
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
        process::run(&mut cargo)?;
        let targets = Self {
            names: names(&source.join("targets"))?,
            binaries: output.join(TRIPLE).join("release"),
            seeds: source.join("corpus"),
            found: output.join("corpus"),
            artifacts: source.join("artifacts"),
        };
        fs::create_dir_all(&targets.artifacts).context(targets.artifacts.display())?;
        Ok(targets)
    }

    /// The targets named `wanted`, all if there are none.
    fn choose(&self, wanted: &[String]) -> Outcome<Vec<String>> {
        if let Some(name) = wanted.iter().find(|name| !self.names.contains(name)) {
            let names = self.names.join(", ");
            return Err(Failure::new(format!(
                "no fuzz target {name}; there are {names}"
            )));
        }
        Ok(match wanted {
            [] => self.names.clone(),
            some => some.to_vec(),
        })
    }

    /// Runs targets, as many at a time as there are processors, each to its end.
    fn run(&self, names: &[String], seconds: u32) -> Vec<Outcome<Figures>> {
        let waiting = Mutex::new(names.iter());
        let findings = Mutex::new(Vec::new());
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..jobs.min(names.len()) {
                scope.spawn(|| {
                    while let Some(name) = next(&waiting) {
                        let outcome = self.run_one(name, seconds);
                        print(name, &outcome);
                        locked(&findings).push(outcome);
                    }
                });
            }
        });
        findings.into_inner().unwrap_or_default()
    }

    fn run_one(&self, name: &str, seconds: u32) -> Outcome<Figures> {
        let found = self.found.join(name);
        fs::create_dir_all(&found).context(found.display())?;
        let artifacts = self.artifacts.join(name);
        let mut command = Command::new(self.binaries.join(name));
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"))
            .arg(format!("-timeout={INPUT_LIMIT}"))
            .arg(format!("-max_len={INPUT_BYTES}"))
            .args(["-len_control=0", "-print_final_stats=1"])
            .arg(format!("-artifact_prefix={}-", artifacts.display()))
            // New inputs go to the first directory; the others are only read.
            .arg(&found)
            .args(Some(self.seeds.join(name)).filter(|seeds| seeds.is_dir()));
        let (status, log) = logged(&mut command, &self.found.join(format!("{name}.log")))?;
        if status.success() {
            return Ok(Figures::of(&log));
        }
        Err(Failure::new(format!(
            "{status}\n{}\nthe input is in {DIRECTORY}/artifacts; run {} with it",
            cause(&log),
            self.binaries.join(name).display()
        )))
    }

    /// Replaces the seeds of a target: of a small set of inputs that reach all that was reached,
    /// some from the smallest to the largest that may be kept.
    fn keep(&self, name: &str) -> Outcome<()> {
        let (all, seeds) = (
            self.found.join(format!("{name}.set")),
            self.seeds.join(name),
        );
        for directory in [&all, &seeds] {
            if directory.is_dir() {
                fs::remove_dir_all(directory).context(directory.display())?;
            }
            fs::create_dir_all(directory).context(directory.display())?;
        }
        let mut command = Command::new(self.binaries.join(name));
        command
            .arg("-set_cover_merge=1")
            .arg(&all)
            .arg(self.found.join(name));
        let (status, log) = logged(&mut command, &self.found.join(format!("{name}.log")))?;
        if !status.success() {
            return Err(Failure::new(format!("{name}: {status}\n{log}")));
        }
        let mut inputs: Vec<(u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&all).context(all.display())? {
            let path = entry.context(all.display())?.path();
            let len = path.metadata().context(path.display())?.len();
            inputs.push((len, path));
        }
        inputs.retain(|(len, _)| *len <= SEED_BYTES);
        inputs.sort();
        let step = inputs.len().div_ceil(SEEDS).max(1);
        for (number, (_, input)) in inputs.iter().rev().step_by(step).enumerate() {
            let seed = seeds.join(format!("{number}"));
            fs::copy(input, &seed).context(seed.display())?;
        }
        Ok(())
    }
}

/// The next of the targets that wait.
fn next<'a, T>(waiting: &Mutex<impl Iterator<Item = &'a T>>) -> Option<&'a T> {
    locked(waiting).next()
}

/// A lock that a panic elsewhere does not close: the panic is told anyway.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs a command with its talk in `log`, and answers with that.
fn logged(command: &mut Command, log: &Path) -> Outcome<(ExitStatus, String)> {
    let line = process::line_of(command);
    let file = fs::File::create(log).context(log.display())?;
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .status()
        .context(line)?;
    let bytes = fs::read(log).context(log.display())?;
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

fn print(name: &str, outcome: &Outcome<Figures>) {
    match outcome {
        Ok(Figures {
            executions,
            coverage,
        }) => report::data(&format!(
            "fuzz {name}: {executions} inputs, {coverage} edges"
        )),
        Err(failure) => report::data(&format!("fuzz {name}: FAILED: {failure}")),
    }
}

impl Figures {
    /// The figures in libFuzzer's talk: `#… DONE cov: 686 ft: …` and
    /// `stat::number_of_executed_units: 57941`.
    fn of(log: &str) -> Self {
        let word_after = |key: &str| {
            let rest = log.lines().rev().find_map(|line| line.split_once(key));
            let word = rest.and_then(|(_, rest)| rest.split_whitespace().next());
            word.unwrap_or("?").to_owned()
        };
        Self {
            executions: word_after("stat::number_of_executed_units:"),
            coverage: word_after("cov: "),
        }
    }
}

/// The part of a failed target's log that says why: from the panic on, if there was one, or else
/// the end.
fn cause(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let panic = lines.iter().position(|line| line.contains("panicked at"));
    let from = panic.unwrap_or(lines.len().saturating_sub(SHOWN));
    let shown = lines.iter().skip(from).take(SHOWN);
    shown.copied().collect::<Vec<_>>().join("\n")
}

/// The names of the targets: the files in `directory`.
fn names(directory: &Path) -> Outcome<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).context(directory.display())? {
        let path = entry.context(directory.display())?.path();
        if path.extension().is_some_and(|ending| ending == "rs")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_the_last_ones_told() {
        let log = "#2\tINITED cov: 3 ft: 4 corp: 1/1b\n\
                   #57941\tDONE   cov: 686 ft: 792 corp: 80/1821b lim: 341 exec/s: 3621\n\
                   stat::number_of_executed_units: 57941\n";
        let Figures {
            executions,
            coverage,
        } = Figures::of(log);
        assert_eq!((&*executions, &*coverage), ("57941", "686"));
        assert_eq!(Figures::of("").coverage, "?");
    }

    #[test]
    fn a_panic_is_shown_from_its_first_line_and_a_timeout_by_the_end() {
        let log = |cause: &str| format!("{}{cause}\n{}", "new\n".repeat(50), "frame\n".repeat(60));
        assert!(cause(&log("thread 'x' panicked at y")).starts_with("thread 'x' panicked"));
        assert_eq!(cause(&log("ALARM")).lines().count(), SHOWN);
    }
}
