//! Where stock Linux guests can run: this machine if its processor virtualises, a testbed machine
//! if not. A test is a shell script and what it printed, so that it is the same in both places.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::built;
use crate::skip;
use crate::testbed::{self, Loan, Reply};
use crate::wait::{self, Deadline};

/// How long a script may take. A boot in the testbed takes 3 to 8 s on an idle machine, ten times
/// that where eight others want its two cores.
const LIMIT: Duration = Duration::from_secs(300);

/// A place to run scripts, with a directory of its own.
pub enum Host {
    /// This machine.
    Direct(TempDir),
    /// A testbed machine, and its directory inside.
    Testbed(Box<Loan>, String),
}

impl Host {
    /// A host for the calling test. Where there can be none, that is noted, and the test returns.
    ///
    /// # Panics
    /// If one should be there and is not.
    #[must_use]
    #[track_caller]
    pub fn acquire() -> Option<Self> {
        if virtualises() {
            let guests = built::guests().join("6.1/recipe");
            if !guests.is_file() {
                skip::note(&format!(
                    "no {}; run `cargo xtask fetch-guest`",
                    guests.display()
                ));
                return None;
            }
            return match tempfile::tempdir() {
                Ok(directory) => Some(Self::Direct(directory)),
                Err(error) => panic!("a directory for a test: {error}"),
            };
        }
        if let Err(reason) = testbed::possible() {
            skip::note(&reason);
            return None;
        }
        let mut loan = testbed::take();
        let reply = loan.machine().run("mktemp -d /scratch/test-XXXXXX", LIMIT);
        assert_eq!(reply.status, 0, "{}", reply.text());
        let directory = reply.text().trim_end().to_owned();
        Some(Self::Testbed(Box::new(loan), directory))
    }

    /// The path there of `thimble`.
    #[must_use]
    pub fn thimble(&self) -> String {
        match self {
            Self::Direct(_) => built::thimble().display().to_string(),
            Self::Testbed(..) => "/disk/thimble".to_owned(),
        }
    }

    /// The path there of something that `cargo xtask fetch-guest` made: `6.1/bzImage`.
    #[must_use]
    pub fn guest_file(&self, name: &str) -> String {
        match self {
            Self::Direct(_) => built::guests().join(name).display().to_string(),
            Self::Testbed(..) => format!("/disk/{name}"),
        }
    }

    /// The path there of the kernel that `cargo xtask kernel` builds. Where it has not been built,
    /// that is noted, and the test returns.
    #[must_use]
    pub fn microvm_kernel(&self) -> Option<String> {
        let Some(kernel) = built::microvm_kernel() else {
            skip::note("no microVM kernel; `cargo xtask kernel` builds it");
            return None;
        };
        Some(match self {
            Self::Direct(_) => kernel.display().to_string(),
            Self::Testbed(..) => "/disk/microvm/vmlinux".to_owned(),
        })
    }

    /// The path there of a file in the test's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        match self {
            Self::Direct(directory) => directory.path().join(name).display().to_string(),
            Self::Testbed(_, directory) => format!("{directory}/{name}"),
        }
    }

    /// Runs a shell script in the test's directory. Only what busybox's sh understands is the same
    /// everywhere.
    ///
    /// # Panics
    /// If it does not end in time.
    #[track_caller]
    pub fn run(&mut self, script: &str) -> Reply {
        match self {
            Self::Direct(directory) => run_here(script, directory.path()),
            Self::Testbed(loan, directory) => loan
                .machine()
                .run(&format!("cd {directory} || exit 1\n{script}"), LIMIT),
        }
    }

    /// Writes a file in the test's directory.
    ///
    /// # Panics
    /// If it cannot be written.
    #[track_caller]
    pub fn put(&mut self, name: &str, content: &[u8]) {
        let path = self.path(name);
        match self {
            Self::Direct(_) => {
                if let Err(error) = std::fs::write(&path, content) {
                    panic!("{path}: {error}");
                }
            }
            Self::Testbed(loan, _) => loan.machine().put(&path, content),
        }
    }

    /// Reads a file of the test's directory.
    ///
    /// # Panics
    /// If it cannot be read.
    #[must_use]
    #[track_caller]
    pub fn get(&mut self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        match self {
            Self::Direct(_) => match std::fs::read(&path) {
                Ok(content) => content,
                Err(error) => panic!("{path}: {error}"),
            },
            Self::Testbed(loan, _) => loan.machine().get(&path),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A machine that a failed test used is thrown away whole.
        if let (Self::Testbed(loan, directory), false) = (&mut *self, std::thread::panicking()) {
            loan.machine().run(&format!("rm -rf {directory}"), LIMIT);
        }
    }
}

/// Whether this machine's KVM is the processor's own: it has VMX or SVM, `/dev/kvm` opens, and no
/// module that does without them serves it.
fn virtualises() -> bool {
    let Ok(processors) = std::fs::read_to_string("/proc/cpuinfo") else {
        return false;
    };
    let flags = processors
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    let hardware = flags
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm");
    let opens = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    hardware && opens && !Path::new("/sys/module/kvm_pvm").exists()
}

/// `sh -c` on this machine, with stdout and stderr in one stream as a testbed has them.
#[track_caller]
fn run_here(script: &str, directory: &Path) -> Reply {
    let log: PathBuf = directory.join(".output");
    let started = std::fs::File::create(&log).and_then(|output| {
        Command::new("sh")
            .arg("-c")
            .arg(script)
            .current_dir(directory)
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .spawn()
    });
    let mut child = match started {
        Ok(child) => child,
        Err(error) => panic!("{script}: {error}"),
    };
    let ended = wait::exit_of(&child)
        .and_then(|exit| wait::readable([exit.as_fd()], Deadline::after(LIMIT)));
    if !matches!(ended, Ok([true])) {
        // What the script started goes with it.
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    }
    let status = child.wait();
    let output = std::fs::read(&log).unwrap_or_default();
    match (ended, status) {
        (Ok([true]), Ok(status)) => Reply {
            output,
            status: status.code().unwrap_or(-1),
        },
        (ended, status) => panic!(
            "{script}\n{ended:?} {status:?}\n{}",
            String::from_utf8_lossy(&output)
        ),
    }
}
