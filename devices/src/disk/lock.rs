//! Locks on disk images, the ones QEMU's programs take, so that all of them and we keep out of
//! each other's way.
//!
//! The launcher locks an image right after it opened it. The locks are open-file-description locks
//! on single bytes: they belong to the open file, follow it over `exec` and descriptor passing,
//! and go when its last descriptor is closed.
//!
//! For every permission p there are two bytes (QEMU's `block/file-posix.c`): 100 + p is locked by
//! whoever holds the permission, 200 + p by whoever does not want others to hold it. All locks are
//! shared ones; a conflict is seen by testing the opposite byte for an exclusive lock. Both sides
//! lock first and test then, so of two that come at once at least one sees the other.
//!
//! A guest that writes keeps off `qemu-img convert`, `resize` and every other guest. It does not
//! keep off `qemu-img info`, which asks for nothing on a raw image and is let through by QEMU's
//! own guests, too.
#![expect(
    unsafe_code,
    reason = "fcntl's open-file-description locks have no safe wrapper"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// Bytes of held permissions start here.
const HELD_BASE: i64 = 100;
/// Bytes of permissions others must not hold start here.
const UNSHARED_BASE: i64 = 200;

/// What a lock is about. Numbers are QEMU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    ConsistentRead = 0,
    Write = 1,
    Resize = 3,
}

impl Permission {
    fn held(self) -> i64 {
        HELD_BASE + self as i64
    }

    fn unshared(self) -> i64 {
        UNSHARED_BASE + self as i64
    }
}

/// How a guest uses an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads it; others may read too, nobody may write.
    Read,
    /// Writes it; nobody else may write or resize it, or read it and expect it to hold still.
    Write,
}

impl Access {
    fn held(self) -> &'static [Permission] {
        match self {
            Self::Read => &[Permission::ConsistentRead],
            Self::Write => &[
                Permission::ConsistentRead,
                Permission::Write,
                Permission::Resize,
            ],
        }
    }

    /// The same for both: a reader that allowed writers would read a torn image.
    fn unshared(self) -> &'static [Permission] {
        &[Permission::Write, Permission::Resize]
    }
}

/// Why an image could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else uses it in a way that does not go together with ours.
    #[error(
        "the image is in use by {}; stop that first, or attach the image with readonly=on in both",
        holder_text(.holder)
    )]
    Busy {
        /// Pid and name of a process that holds a conflicting lock, if it can be found.
        holder: Option<(u32, String)>,
    },
    /// The host refuses such locks at all.
    #[error("the image cannot be locked")]
    Host(#[source] io::Error),
}

fn holder_text(holder: &Option<(u32, String)>) -> String {
    match holder {
        Some((pid, name)) => format!("process {pid} ({name})"),
        None => "another process".to_owned(),
    }
}

/// Locks `file`, which must be open for reading. There is no guard: the lock lasts as long as the
/// open file, or until [`unlock`].
///
/// # Errors
/// [`LockError`]; nothing is locked then.
pub fn lock(file: &File, access: Access) -> Result<(), LockError> {
    let result = take(file, access).and_then(|()| test(file, access));
    if result.is_err() {
        unlock(file);
    }
    result
}

/// Whether somebody, this process included, uses `file` as an image: for who is about to overwrite
/// a file that may be one. Takes no lock.
///
/// # Errors
/// [`LockError`].
pub fn check_unused(file: &File) -> Result<(), LockError> {
    test(file, Access::Write)
}

/// Gives the locks back, as when a migrated guest's disk goes to its new host.
pub fn unlock(file: &File) {
    let whole = flock(libc::F_UNLCK, HELD_BASE, UNSHARED_BASE - HELD_BASE + 64);
    // Unlocking what is open cannot fail in a way one could act on.
    drop(fcntl(file, libc::F_OFD_SETLK, whole));
}

fn take(file: &File, access: Access) -> Result<(), LockError> {
    let held = access.held().iter().map(|permission| permission.held());
    let unshared = access
        .unshared()
        .iter()
        .map(|permission| permission.unshared());
    for byte in held.chain(unshared) {
        match fcntl(file, libc::F_OFD_SETLK, flock(libc::F_RDLCK, byte, 1)) {
            Ok(_) => {}
            // Somebody holds the byte exclusively. QEMU never does.
            Err(error) if is_conflict(&error) => return Err(busy(file, byte, 0)),
            Err(error) => return Err(LockError::Host(error)),
        }
    }
    Ok(())
}

fn test(file: &File, access: Access) -> Result<(), LockError> {
    let refused = access.held().iter().map(|permission| permission.unshared());
    let used = access.unshared().iter().map(|permission| permission.held());
    for byte in refused.chain(used) {
        let answer = fcntl(file, libc::F_OFD_GETLK, flock(libc::F_WRLCK, byte, 1))
            .map_err(LockError::Host)?;
        if i32::from(answer.l_type) != libc::F_UNLCK {
            return Err(busy(file, byte, answer.l_pid));
        }
    }
    Ok(())
}

fn is_conflict(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}

/// The error for a conflict on `byte`. `pid` is what the kernel says: -1 for locks of open files.
fn busy(file: &File, byte: i64, pid: i32) -> LockError {
    let known = u32::try_from(pid).ok().filter(|&pid| pid > 0);
    let pid = known.or_else(|| find_holder(file, byte));
    let holder = pid.map(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        (pid, name.trim_end().to_owned())
    });
    LockError::Busy { holder }
}

/// Looks through the open files of all processes we may look at for one that locks `byte`.
fn find_holder(file: &File, byte: i64) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let same_file = |path: &std::path::Path| {
        std::fs::metadata(path)
            .is_ok_and(|m| (m.dev(), m.ino()) == (metadata.dev(), metadata.ino()))
    };
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(open_files) = std::fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        for open_file in open_files.flatten() {
            if same_file(&open_file.path()) {
                let info = entry.path().join("fdinfo").join(open_file.file_name());
                let text = std::fs::read_to_string(info).unwrap_or_default();
                let ours = pid == std::process::id()
                    && open_file.file_name().to_str() == Some(&file.as_raw_fd().to_string());
                if !ours && locks_byte(&text, byte) {
                    return Some(pid);
                }
            }
        }
    }
    None
}

/// Whether one of the `lock:` lines of a `/proc/PID/fdinfo/FD` covers `byte` (proc(5)). A line
/// ends in the first and the last byte locked.
fn locks_byte(fdinfo: &str, byte: i64) -> bool {
    fdinfo
        .lines()
        .filter(|line| line.starts_with("lock:"))
        .any(|line| {
            let mut words = line.split_whitespace().rev();
            let last = words.next().and_then(|word| match word {
                "EOF" => Some(i64::MAX),
                word => word.parse().ok(),
            });
            let first = words.next().and_then(|word| word.parse().ok());
            matches!((first, last), (Some(first), Some(last)) if (first..=last).contains(&byte))
        })
}

fn flock(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        // Must be zero for locks of open files.
        l_pid: 0,
    }
}

fn fcntl(file: &File, command: i32, lock: libc::flock) -> io::Result<libc::flock> {
    let mut lock = lock;
    // SAFETY: the three commands used here read, and one writes, the struct the pointer names.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::{Command, Output};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Held by every test here: a child that one of them starts has all descriptors of the process
    /// until it calls `exec`, and with them the locks of the others.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    fn alone() -> MutexGuard<'static, ()> {
        ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(path: &Path, write: bool) -> File {
        File::options().read(true).write(write).open(path).unwrap()
    }

    #[test]
    fn one_writer_or_many_readers() {
        let _alone = alone();
        let image = tempfile::NamedTempFile::new().unwrap();
        let first = open(image.path(), false);
        let second = open(image.path(), false);
        let writer = open(image.path(), true);
        lock(&first, Access::Read).unwrap();
        lock(&second, Access::Read).unwrap();
        assert!(matches!(
            lock(&writer, Access::Write),
            Err(LockError::Busy { .. })
        ));
        // The failed attempt has left nothing behind.
        drop(second);
        unlock(&first);
        lock(&writer, Access::Write).unwrap();
        for access in [Access::Read, Access::Write] {
            let error = lock(&first, access).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains(&format!("process {}", std::process::id())),
                "{text}"
            );
            assert!(text.contains("readonly=on"), "{text}");
        }
        drop(writer);
        lock(&first, Access::Write).unwrap();
        // Twice by the same owner is no conflict.
        lock(&first, Access::Write).unwrap();
    }

    #[test]
    fn a_lock_follows_the_open_file_and_not_the_descriptor() {
        let _alone = alone();
        let image = tempfile::NamedTempFile::new().unwrap();
        let file = open(image.path(), true);
        let copy = file.try_clone().unwrap();
        lock(&file, Access::Write).unwrap();
        drop(file);
        let other = open(image.path(), true);
        assert!(lock(&other, Access::Write).is_err());
        drop(copy);
        lock(&other, Access::Write).unwrap();
    }

    #[test]
    fn lock_lines_are_read_as_proc_prints_them() {
        let text = "pos:\t0\nlock:\t1: OFDLCK  ADVISORY  READ -1 08:01:42 100 101\n\
                    lock:\t2: OFDLCK  ADVISORY  READ -1 08:01:42 201 EOF\n";
        let locked: Vec<_> = [99, 100, 101, 102, 200, 201, 300]
            .into_iter()
            .filter(|&byte| locks_byte(text, byte))
            .collect();
        assert_eq!(locked, [100, 101, 201, 300]);
        assert!(!locks_byte("lock:\nlock: x\n", 0));
    }

    /// `qemu-img`, from the path or where `QEMU_IMG` says; without one the test is skipped.
    fn qemu_img(arguments: &[&str]) -> Option<Output> {
        let program = std::env::var_os("QEMU_IMG").unwrap_or_else(|| "qemu-img".into());
        match Command::new(program).args(arguments).output() {
            Ok(output) => Some(output),
            Err(error) => {
                eprintln!("skipped: qemu-img: {error}");
                None
            }
        }
    }

    #[test]
    fn qemu_img_and_we_respect_each_other() {
        let _alone = alone();
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(1 << 20).unwrap();
        let path = image.path().to_str().unwrap();
        let copy = tempfile::NamedTempFile::new().unwrap();
        let copy = copy.path().to_str().unwrap();
        let info = ["info", "-f", "raw", path];
        let convert = ["convert", "-f", "raw", "-O", "raw", path, copy];
        let resize = ["resize", "-f", "raw", path, "2M"];
        let Some(free) = qemu_img(&info) else { return };
        assert!(free.status.success(), "{free:?}");
        let works = |arguments: &[&str]| {
            let output = qemu_img(arguments).unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() || text.contains("lock"),
                "{arguments:?}: {text}"
            );
            output.status.success()
        };

        let file = open(image.path(), true);
        lock(&file, Access::Write).unwrap();
        assert!(!works(&convert) && !works(&resize));
        // Looking at a raw image's size is shared with everybody, also by QEMU's own guests.
        assert!(works(&info));
        unlock(&file);
        // A reader lets others read, and nobody write.
        lock(&file, Access::Read).unwrap();
        assert!(works(&convert) && !works(&resize));
        unlock(&file);
        assert!(works(&resize));
    }
}
