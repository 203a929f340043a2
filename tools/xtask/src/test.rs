//! `cargo xtask test`: the three floors of tests and the fuzz targets (docs/testing.md), from a
//! fresh clone to a summary. Installs what they need where it may, says the command where it may not, and skips by
//! name with the reason what cannot run here.
//!
//! A floor that has to run and did not, or ran nothing, is a failure: all of them where `CI` is
//! set, those in `THIMBLE_FLOORS` (names with commas) if that is set.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;

use crate::apt::{self, Tool, tool};
use crate::failure::{Context, Failure, Outcome};
use crate::fetch_guest;
use crate::fuzz;
use crate::guest::bzimage;
use crate::process;
use crate::report;
use crate::workspace::Workspace;

/// What the tests of disk images, of control clients and of dumps use besides the launcher.
const KVM_TOOLS: [Tool; 7] = [
    tool("qemu-img", "qemu-utils"),
    tool("python3", "python3"),
    tool("gdb", "gdb"),
    tool("strace", "strace"),
    tool("mke2fs", "e2fsprogs"),
    tool("losetup", "mount"),
    tool("fsfreeze", "util-linux"),
];

/// What the testbed and the kernels in it take.
const LINUX_TOOLS: [Tool; 3] = [
    tool("qemu-system-x86_64", "qemu-system-x86"),
    tool("mke2fs", "e2fsprogs"),
    tool("setpriv", "util-linux"),
];

/// Debian's package of what makes virtual environments.
const VENV: &str = "python3-venv";

/// Seconds each fuzz target runs: enough for its seeds and what is near them. `cargo xtask fuzz`
/// looks further.
const FUZZ_SECONDS: u32 = 5;

/// The other people's control client that the tests drive a guest with.
const CLIENT: &str = "qemu.qmp";

#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask test --floor unit --floor kvm")]
pub(crate) struct Arguments {
    /// Run this floor only (may be given several times)
    #[arg(long)]
    floor: Vec<Floor>,
    /// Do not install missing programs
    #[arg(long)]
    no_install: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Floor {
    /// No root, no KVM
    Unit,
    /// The fuzz targets, each for a few seconds
    Fuzz,
    /// The project's own guest programs, on /dev/kvm
    Kvm,
    /// Debian's kernels, on hardware KVM or in the testbed
    Linux,
}

impl Floor {
    const ALL: [Self; 4] = [Self::Unit, Self::Fuzz, Self::Kvm, Self::Linux];

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Fuzz => "fuzz",
            Self::Kvm => "kvm",
            Self::Linux => "linux",
        }
    }
}

/// What became of a floor.
#[derive(Default, Debug, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Why none of it ran, or why the run itself broke.
    reason: Option<String>,
}

/// Runs the floors and prints the summary; its last line holds the sums alone.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Outcome<()> {
    let chosen: Vec<Floor> = match arguments.floor.as_slice() {
        [] => Floor::ALL.to_vec(),
        some => some.to_vec(),
    };
    let mut required = required_floors()?;
    required.retain(|floor| chosen.contains(floor));
    let install = !arguments.no_install;
    let mut results: Vec<(Floor, Tally)> = Vec::new();
    for floor in Floor::ALL
        .into_iter()
        .filter(|floor| chosen.contains(floor))
    {
        report::note(&format!("== floor {}", floor.name()));
        let tally = match floor {
            Floor::Unit => unit(workspace),
            Floor::Fuzz => fuzz(workspace, install),
            Floor::Kvm => kvm(workspace, install),
            Floor::Linux => linux(workspace, install),
        }
        .unwrap_or_else(|failure| Tally {
            reason: Some(failure.to_string()),
            ..Tally::default()
        });
        results.push((floor, tally));
    }
    let lacking = if apt::may_install(install) {
        Vec::new()
    } else {
        lacking(&chosen)
    };
    summarise(&results, &required, &lacking)
}

/// The packages that this machine lacks for these floors, all of them: one command to type.
fn lacking(floors: &[Floor]) -> Vec<&'static str> {
    let mut tools: Vec<&Tool> = Vec::new();
    let mut packages = Vec::new();
    for floor in floors {
        match floor {
            Floor::Unit => {}
            Floor::Fuzz => tools.extend(&fuzz::TOOLS),
            Floor::Kvm => {
                tools.extend(&KVM_TOOLS);
                // It is part of no program: Debian's python3 has it apart.
                if !has_venv() {
                    packages.push(VENV);
                }
            }
            Floor::Linux => tools.extend(LINUX_TOOLS.iter().chain(&bzimage::TOOLS)),
        }
    }
    packages.extend(apt::lacking(tools));
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Whether Python here can make virtual environments.
fn has_venv() -> bool {
    let mut python = Command::new("python3");
    process::capture(python.args(["-c", "import ensurepip"])).is_ok()
}

/// The floors that must run on this machine.
fn required_floors() -> Outcome<Vec<Floor>> {
    if let Some(names) = std::env::var_os("THIMBLE_FLOORS") {
        return parse_floors(&names.to_string_lossy());
    }
    let ci = std::env::var_os("CI").is_some_and(|value| value != "false" && !value.is_empty());
    Ok(if ci { Floor::ALL.to_vec() } else { Vec::new() })
}

fn parse_floors(names: &str) -> Outcome<Vec<Floor>> {
    names
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(|name| {
            Floor::from_str(name, true)
                .map_err(|_| Failure::new(format!("THIMBLE_FLOORS: no floor {name}")))
        })
        .collect()
}

/// The tests inside the crates, and the harness's own.
fn unit(workspace: &Workspace) -> Outcome<Tally> {
    let mut tally = cargo_test(
        workspace,
        Floor::Unit,
        &["--workspace", "--exclude", "tests"],
        &[],
    )?;
    tally.add(cargo_test(
        workspace,
        Floor::Unit,
        &["-p", "tests", "--lib"],
        &[],
    )?);
    Ok(tally)
}

/// The fuzz targets; each counts as a test.
fn fuzz(workspace: &Workspace, install: bool) -> Outcome<Tally> {
    let mut tally = Tally::default();
    for finding in fuzz::run_all(workspace, FUZZ_SECONDS, install)? {
        match finding {
            Ok(_) => tally.passed += 1,
            // Printed already.
            Err(_) => tally.failed += 1,
        }
    }
    Ok(tally)
}

/// The built-in guest and the test guests, directly on this machine's KVM.
fn kvm(workspace: &Workspace, install: bool) -> Outcome<Tally> {
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        return Err(Failure::new(format!(
            "/dev/kvm: {error}; `cargo run --release -- check` says what to do"
        )));
    }
    let thimble = workspace.build_thimble()?;
    let mut environment = vec![("THIMBLE", thimble)];
    // Tests that need a tool which is missing skip themselves by name.
    if let Err(failure) = apt::provide(&KVM_TOOLS, install) {
        report::note(&format!("some tests will be skipped: {failure}"));
    }
    match python(workspace, install) {
        Ok(python) => environment.push(("THIMBLE_QMP_PYTHON", python)),
        Err(failure) => report::note(&format!("tests of {CLIENT} will be skipped: {failure}")),
    }
    cargo_test(
        workspace,
        Floor::Kvm,
        &["-p", "tests", "--test", "kvm"],
        &environment,
    )
}

/// Debian's kernels.
fn linux(workspace: &Workspace, install: bool) -> Outcome<Tally> {
    provide_linux(install)?;
    let guest = workspace.guest_dir();
    fetch_guest::fetch(&guest, false, install)?;
    let thimble = workspace.build_thimble()?;
    let environment = [("THIMBLE", thimble), ("THIMBLE_GUESTS", guest)];
    cargo_test(
        workspace,
        Floor::Linux,
        &["-p", "tests", "--test", "linux"],
        &environment,
    )
}

/// What running Linux guests takes, with what fetching them takes, so that nobody installs twice.
pub(crate) fn provide_linux(install: bool) -> Outcome<()> {
    apt::provide(LINUX_TOOLS.iter().chain(&bzimage::TOOLS), install)
}

/// A Python with the QMP client in it, in a virtual environment below the target directory.
fn python(workspace: &Workspace, install: bool) -> Outcome<PathBuf> {
    let venv = workspace.target.join("test-venv");
    let python = venv.join("bin/python3");
    let works = || {
        process::capture(Command::new(&python).args(["-c", &format!("import {CLIENT}")])).is_ok()
    };
    if works() {
        return Ok(python);
    }
    let system = process::find("python3").ok_or_else(|| Failure::new("no python3"))?;
    let make = || process::capture(Command::new(&system).args(["-m", "venv"]).arg(&venv));
    if make().is_err() {
        apt::provide_packages(&[VENV], install)?;
        make()?;
    }
    let mut pip = Command::new(&python);
    process::run(pip.args(["-m", "pip", "install", "--quiet", CLIENT]))?;
    if works() {
        Ok(python)
    } else {
        Err(Failure::new(format!("{CLIENT} does not import")))
    }
}

/// Runs `cargo test`, shows its output as it comes and counts from it.
fn cargo_test(
    workspace: &Workspace,
    floor: Floor,
    words: &[&str],
    environment: &[(&str, PathBuf)],
) -> Outcome<Tally> {
    let skips = workspace
        .target
        .join(format!("xtask/skips-{}", floor.name()));
    let folder = skips.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).context(folder.display())?;
    fs::write(&skips, b"").context(skips.display())?;
    // Every target runs even after one has failed, so that one run says all there is to say.
    let mut command = workspace.cargo(["test", "--no-fail-fast"]);
    command.args(words).env("THIMBLE_SKIPS", &skips);
    command.envs(environment.iter().map(|(name, path)| (name, path)));
    let line = process::line_of(&command);
    report::note(&format!("+ {line}"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context(&line)?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        let mut out = std::io::stdout().lock();
        for text in BufReader::new(stdout).lines() {
            let text = text.context(&line)?;
            writeln!(out, "{text}").context("stdout")?;
            tally.count(&text);
        }
    }
    let status = child.wait().context(&line)?;
    for skip in fs::read_to_string(&skips).context(skips.display())?.lines() {
        report::note(&format!("skipped: {skip}"));
        tally.skipped += 1;
        tally.passed = tally.passed.saturating_sub(1);
    }
    if !status.success() && tally.failed == 0 {
        tally.reason = Some(format!("{line}: {status}"));
        tally.failed = 1;
    }
    Ok(tally)
}

impl Tally {
    fn add(&mut self, other: Self) {
        let Self {
            passed,
            failed,
            skipped,
            reason,
        } = other;
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
        self.reason = self.reason.take().or(reason);
    }

    /// Adds a line such as `test result: ok. 4 passed; 0 failed; 1 ignored; …`; others say nothing.
    fn count(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for item in counts.split("; ") {
            let mut words = item.split_whitespace();
            let Some(number) = words.next().and_then(|word| word.parse::<u64>().ok()) else {
                continue;
            };
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// Prints what became of each floor and how to get the packages that are `lacking`, and fails if
/// anything did or a required floor did not run.
fn summarise(results: &[(Floor, Tally)], required: &[Floor], lacking: &[&str]) -> Outcome<()> {
    let mut sum = Tally::default();
    let mut missing = Vec::new();
    report::data("");
    for (floor, tally) in results {
        let name = floor.name();
        let ran = tally.passed + tally.failed;
        let reason = tally.reason.as_deref().unwrap_or("it has no tests");
        if ran == 0 {
            report::data(&format!("floor {name}: did not run: {reason}"));
            if required.contains(floor) {
                missing.push(name);
            }
        } else {
            let Tally {
                passed,
                failed,
                skipped,
                reason: _,
            } = tally;
            report::data(&format!(
                "floor {name}: {passed} passed, {failed} failed, {skipped} skipped"
            ));
        }
        sum.passed += tally.passed;
        sum.failed += tally.failed;
        sum.skipped += tally.skipped;
    }
    if !lacking.is_empty() {
        let command = apt::install_line(lacking);
        report::data(&format!("for all of it, as root: {command}"));
    }
    if !missing.is_empty() {
        report::data(&format!(
            "must run here and did not: {}",
            missing.join(", ")
        ));
        sum.failed += 1;
    }
    report::data(&format!(
        "{} passed, {} failed, {} skipped",
        sum.passed, sum.failed, sum.skipped
    ));
    if sum.failed == 0 {
        return Ok(());
    }
    // The last line is the sums; the reader has seen the rest.
    Err(Failure::silent())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_over_several_binaries() {
        let mut tally = Tally::default();
        tally.count("running 3 tests");
        tally.count(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; \
             finished in 0.00s",
        );
        tally.count("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured");
        let wanted = Tally {
            passed: 5,
            failed: 4,
            skipped: 1,
            reason: None,
        };
        assert_eq!(tally, wanted);
    }

    #[test]
    fn a_required_floor_that_ran_nothing_fails() {
        let passed = || Tally {
            passed: 1,
            ..Tally::default()
        };
        assert!(summarise(&[(Floor::Unit, passed())], &[Floor::Unit], &[]).is_ok());
        assert!(summarise(&[(Floor::Kvm, Tally::default())], &[], &[]).is_ok());
        let results = [(Floor::Unit, passed()), (Floor::Kvm, Tally::default())];
        assert!(summarise(&results, &[Floor::Kvm], &[]).is_err());
        let all_skipped = Tally {
            skipped: 3,
            ..Tally::default()
        };
        assert!(summarise(&[(Floor::Kvm, all_skipped)], &[Floor::Kvm], &[]).is_err());
    }

    #[test]
    fn floors_are_named_with_commas() {
        assert_eq!(
            parse_floors("unit, linux").unwrap(),
            [Floor::Unit, Floor::Linux]
        );
        assert_eq!(parse_floors("").unwrap(), []);
        assert!(parse_floors("basement").is_err());
    }
}
