//! `cargo xtask fuzz`: every fuzz target for a bounded time.
//!
//! The targets are libFuzzer's, built with the stable compiler: the coverage instrumentation is an
//! LLVM pass that `-C passes` switches on, so neither a nightly toolchain nor cargo-fuzz is needed.
//! Needs a C++ compiler (Debian package `g++`).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;

/// What libFuzzer needs in the code under test: inline counters, and a table that tells their
/// places; debug assertions and overflow checks turn silent mistakes into crashes.
const FLAGS: [&str; 10] = [
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Ccodegen-units=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    "-Cdebuginfo=1",
];

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Memory one target may use, in MiB: hostile input must not size an allocation.
const MEMORY_LIMIT_MIB: u32 = 1024;

/// Builds the targets and runs those named (all, if none is) for `seconds` each, with the inputs in
/// `tests/fuzz/corpus/NAME` as seeds.
///
/// # Errors
/// When a target cannot be built, is unknown, or finds a crash; the crash's input is left in
/// `tests/fuzz/artifacts`.
pub(crate) fn run(root: &Path, names: &[String], seconds: u32) -> Result<(), Failure> {
    let fuzz = root.join("tests/fuzz");
    let target_dir = root.join("target/fuzz");
    let built = Command::new("cargo")
        .args(["build", "--release", "--target", TARGET, "--bins"])
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"))
        .current_dir(&fuzz)
        .status()?;
    if !built.success() {
        return Err("the fuzz targets do not build".to_owned().into());
    }
    let known = targets(&fuzz)?;
    let chosen = if names.is_empty() { known.clone() } else { names.to_vec() };
    let artifacts = fuzz.join("artifacts");
    std::fs::create_dir_all(&artifacts)?;
    for name in &chosen {
        if !known.contains(name) {
            return Err(format!("no fuzz target {name}; there are: {}", known.join(", ")).into());
        }
        run_one(&target_dir, &fuzz, &artifacts, name, seconds)?;
    }
    println!("fuzz: {} targets, {seconds} s each, no crash", chosen.len());
    Ok(())
}

/// The names of the targets: the files in `targets/`.
fn targets(fuzz: &Path) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(fuzz.join("targets"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs")
            && let Some(name) = path.file_stem().and_then(|n| n.to_str())
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn run_one(
    target_dir: &Path,
    fuzz: &Path,
    artifacts: &Path,
    name: &str,
    seconds: u32,
) -> Result<(), Failure> {
    let binary: PathBuf = target_dir.join(TARGET).join("release").join(name);
    // New inputs go to a scratch corpus; the committed seeds are only read.
    let found = target_dir.join("corpus").join(name);
    std::fs::create_dir_all(&found)?;
    let seeds = fuzz.join("corpus").join(name);
    let mut command = Command::new(binary);
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"))
        .arg("-timeout=10")
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/{name}-", artifacts.display()))
        .arg(&found);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    let log = target_dir.join(format!("{name}.log"));
    let status = command
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(&log)?)
        .status()?;
    let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    if !status.success() {
        let tail: Vec<&str> = text.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        return Err(format!("fuzz target {name} failed ({status}):\n{}", tail.join("\n")).into());
    }
    let figure = |key: &str| {
        text.lines().filter_map(|l| l.strip_prefix(key)).next_back().unwrap_or("?").trim().to_owned()
    };
    println!("fuzz: {name}: {} inputs tried", figure("stat::number_of_executed_units:"));
    Ok(())
}
