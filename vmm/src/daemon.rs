//! `--daemonize` and `--pidfile`.
//!
//! The process splits before it opens `/dev/kvm`, because KVM ties a machine to the process that
//! made it. The parent waits for one byte: the child sends it when its control socket answers, so a
//! script may talk to the guest as soon as the command returns. If the child dies first, the parent
//! ends with the child's own exit status.
#![expect(unsafe_code, reason = "fork has no safe wrapper")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, WaitOptions};

use crate::cli::ExitStatus;

/// The child's end of the promise.
#[derive(Debug)]
pub struct Readiness {
    pipe: File,
}

/// Which side of the split this process is.
#[derive(Debug)]
pub enum Side {
    /// The one to go on as the machine.
    Child(Readiness),
    /// The one to exit with this status.
    Parent(ExitStatus),
}

/// Splits the process. Must be called while there is one thread.
///
/// # Errors
/// What the kernel answered to `pipe2` or `fork`.
pub fn split() -> io::Result<Side> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: the process has one thread, so the child may do anything the parent might.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(reader);
            rustix::process::setsid()?;
            Ok(Side::Child(Readiness {
                pipe: File::from(writer),
            }))
        }
        child => {
            drop(writer);
            Ok(Side::Parent(await_child(reader, child)?))
        }
    }
}

fn await_child(reader: OwnedFd, child: i32) -> io::Result<ExitStatus> {
    let mut byte = [0];
    if File::from(reader).read(&mut byte)? == 1 {
        return Ok(ExitStatus::Clean);
    }
    // The child has gone without a word on the pipe; it has said why on standard error.
    let status = rustix::process::waitpid(Pid::from_raw(child), WaitOptions::empty())?
        .and_then(|(_, status)| status.exit_status());
    Ok(status
        .and_then(ExitStatus::from_code)
        .unwrap_or(ExitStatus::Failed))
}

impl Readiness {
    /// Lets the parent return, and lets go of the terminal: standard input, output and error become
    /// `/dev/null`.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn announce(mut self) -> io::Result<()> {
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        rustix::process::chdir("/")?;
        self.pipe.write_all(&[1])
    }
}

/// A file with this process's number, locked while the process lives and removed at its end.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    _locked: File,
}

/// Why there is no pid file.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// It could not be created or written.
    #[error("cannot write the pid file {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// Another process holds it.
    #[error("the pid file {} belongs to a process that still runs", path.display())]
    Held {
        /// The file.
        path: PathBuf,
    },
}

impl PidFile {
    /// Creates or takes over `path`. A left-over of a dead process is overwritten; that of a living
    /// one is refused.
    ///
    /// # Errors
    /// [`PidFileError`].
    pub fn create(path: &Path) -> Result<Self, PidFileError> {
        let failed = |source| PidFileError::Write {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(path)
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(PidFileError::Held {
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let number = format!("{}\n", rustix::process::getpid().as_raw_nonzero());
        file.set_len(0).map_err(failed)?;
        file.write_all_at(number.as_bytes(), 0).map_err(failed)?;
        // A relative path means something else after the daemon's chdir.
        let path = std::path::absolute(path).map_err(failed)?;
        Ok(Self {
            path,
            _locked: file,
        })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_exclusive_holds_the_pid_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        std::fs::write(&path, "99999999 left over by a longer text\n").unwrap();
        let held = PidFile::create(&path).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!("{}\n", std::process::id())
        );
        assert!(matches!(
            PidFile::create(&path),
            Err(PidFileError::Held { .. })
        ));
        drop(held);
        assert!(!path.exists());
        let missing = dir.path().join("no/such/dir");
        assert!(matches!(
            PidFile::create(&missing),
            Err(PidFileError::Write { .. })
        ));
    }
}
