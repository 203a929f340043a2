//! `--daemonize` and `--pidfile`.
//!
//! The process splits before it opens `/dev/kvm`, because KVM ties a machine to the process that
//! made it. The parent waits for one byte: the child sends it when its control socket answers, so a
//! script may talk to the guest as soon as the command returns. If the child dies first, the parent
//! ends with the child's own exit status.
#![expect(unsafe_code, reason = "fork has no safe wrapper")]

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::FlockOperation;
use rustix::process::{Pid, WaitOptions};

use crate::cli::ExitStatus;
use crate::made_file::{FileId, MadeFile};

/// How often a pid file may vanish while it is taken over; once is rare.
const TRIES: usize = 100;

/// Bytes of the longest text that counts as a process number, padding included.
const LONGEST_NUMBER: usize = 32;

/// Where the process was when it still was where it had been started.
static STARTED_IN: OnceLock<PathBuf> = OnceLock::new();

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
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| cannot("make a pipe", &errno.into()))?;
    // SAFETY: the process has one thread, so the child may do anything the parent might.
    match unsafe { libc::fork() } {
        -1 => Err(cannot("fork", &io::Error::last_os_error())),
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

/// What stands in the way of the background.
fn cannot(step: &str, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot go to the background: cannot {step}: {error}"),
    )
}

fn await_child(reader: OwnedFd, child: i32) -> io::Result<ExitStatus> {
    let mut byte = [0];
    if File::from(reader).read(&mut byte)? == 1 {
        return Ok(ExitStatus::Clean);
    }
    // The child has gone without a word on the pipe; unless it was killed, it has said why on
    // standard error.
    let Some((_, status)) = rustix::process::waitpid(Pid::from_raw(child), WaitOptions::empty())?
    else {
        return Ok(ExitStatus::Failed);
    };
    if let Some(signal) = status.terminating_signal() {
        return Err(io::Error::other(format!(
            "the process in the background was ended by signal {signal}"
        )));
    }
    Ok(status
        .exit_status()
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
            .open("/dev/null")
            .map_err(|error| cannot("open /dev/null", &error))?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        // Kept as a name: a descriptor would keep the file system from being unmounted, too.
        if let Ok(directory) = std::env::current_dir() {
            STARTED_IN.get_or_init(|| directory);
        }
        rustix::process::chdir("/")?;
        self.pipe.write_all(&[1])
    }
}

/// What a relative `path` meant where thimble was started: there, and not in `/`, is what a client
/// names.
#[must_use]
pub fn as_started(path: &Path) -> Cow<'_, Path> {
    match STARTED_IN.get() {
        Some(directory) => Cow::Owned(directory.join(path)),
        None => Cow::Borrowed(path),
    }
}

/// A file with this process's number, locked while the process lives and removed at its end.
#[derive(Debug)]
pub struct PidFile {
    // Removed first, unlocked then.
    _made: MadeFile,
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
    /// What is there is something else.
    #[error(
        "{} holds something other than a process number and is left alone: remove it, or choose \
         another path for the pid file",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
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
    /// one is refused, and so is whatever was never a pid file.
    ///
    /// # Errors
    /// [`PidFileError`].
    pub fn create(path: &Path) -> Result<Self, PidFileError> {
        let failed = |source| PidFileError::Write {
            path: path.to_owned(),
            source,
        };
        let mut options = OpenOptions::new();
        options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK);
        for _ in 0..TRIES {
            let file = options.open(path).map_err(failed)?;
            if !was_pid_file(&file).map_err(failed)? {
                return Err(PidFileError::Foreign {
                    path: path.to_owned(),
                });
            }
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => break,
                Err(error) => return Err(failed(error.into())),
            }
            // Its last owner may have removed it between the open and the lock.
            let opened = FileId::from(&file.metadata().map_err(failed)?);
            let Ok(made) = MadeFile::note_if(path, opened) else {
                continue;
            };
            let number = format!("{}\n", rustix::process::getpid().as_raw_nonzero());
            file.set_len(0).map_err(failed)?;
            file.write_all_at(number.as_bytes(), 0).map_err(failed)?;
            return Ok(Self {
                _made: made,
                _locked: file,
            });
        }
        Err(PidFileError::Held {
            path: path.to_owned(),
        })
    }
}

/// Whether there is nothing to be lost: the file is new, empty, or says a number.
fn was_pid_file(file: &File) -> io::Result<bool> {
    let mut text = [0; LONGEST_NUMBER + 1];
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let length = file.read_at(&mut text, 0)?;
    let text = text.get(..length).unwrap_or_default().trim_ascii();
    Ok(length <= LONGEST_NUMBER && text.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_exclusive_holds_the_pid_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        std::fs::write(&path, "  99999999999999\n").unwrap();
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
        let held = PidFile::create(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "1\n").unwrap();
        drop(held);
        assert_eq!(std::fs::read(&path).unwrap(), b"1\n", "another's");
        let missing = dir.path().join("no/such/dir");
        assert!(matches!(
            PidFile::create(&missing),
            Err(PidFileError::Write { .. })
        ));
    }
    #[test]
    fn a_child_that_is_killed_is_told_of() {
        for (script, expected) in [
            ("exit 3", Ok(ExitStatus::GuestCrashed)),
            ("exit 77", Ok(ExitStatus::Failed)),
            ("kill -KILL $$", Err("signal 9")),
        ] {
            let (reader, _) = rustix::pipe::pipe().unwrap();
            let mut child = std::process::Command::new("sh")
                .args(["-c", script])
                .spawn()
                .unwrap();
            let told = await_child(reader, i32::try_from(child.id()).unwrap());
            // There is nothing left to wait for.
            child.wait().unwrap_err();
            match (told, expected) {
                (Ok(status), Ok(expected)) => assert_eq!(status, expected),
                (Err(error), Err(mention)) => assert!(error.to_string().contains(mention)),
                (told, _) => panic!("{script}: {told:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_pid_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        for content in ["12 notes", "1\n2\n", &"7".repeat(1000)] {
            std::fs::write(&path, content).unwrap();
            let error = PidFile::create(&path).unwrap_err();
            assert!(matches!(error, PidFileError::Foreign { .. }), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        let error = PidFile::create(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(error, PidFileError::Foreign { .. }), "{error}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("new", &link).unwrap();
        PidFile::create(&link).unwrap_err();
    }
}
