//! Where log lines go: standard error or a file, opened before the sandbox closes. Lines that the
//! file does not take go to standard error.
//!
//! Any thread may log, vCPUs and the main loop among them, so a log never waits: what a pipe, a
//! socket or a terminal that nobody reads does not take at once is lost, and counted; the next line
//! that is taken says how many were.
//!
//! Levels: *error*, the machine or a request failed; *warn*, something the user should know but
//! that was dealt with; *info*, milestones of the machine's life; *debug* and *trace*, for
//! developers. Anything a guest can cause repeatedly goes through the devices' rate-limited macros.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

/// What a pipe takes without waiting if it takes anything (`PIPE_BUF`, linux/limits.h).
const PIECE: usize = 4096;

struct Logger {
    level: LevelFilter,
    file: Option<File>,
    /// Lines lost since the last that was taken.
    lost: Mutex<u64>,
}

/// Installs the process's logger. Called once, before any thread is started.
pub fn install(level: LevelFilter, file: Option<File>) {
    let logger = Logger {
        level,
        file,
        lost: Mutex::new(0),
    };
    // A second call would be a programming error without consequence: the first logger stays.
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = clock_gettime(ClockId::Realtime);
        let level = record.level().as_str();
        let line = format!(
            "{}.{:06} {level:5} {}\n",
            now.tv_sec,
            now.tv_nsec / 1000,
            record.args()
        );
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.file.as_ref().map(AsFd::as_fd);
        let taken = file.is_some_and(|file| take(file, &line, &mut lost).is_ok());
        if !taken {
            // What a full disk does not take, too. Then there is nowhere left to complain.
            drop(take(io::stderr().as_fd(), &line, &mut lost));
        }
    }

    fn flush(&self) {}
}

/// Writes a line, after a word on those that were lost before it, or counts it among them.
///
/// # Errors
/// What the file answered. A line that would have to wait is no error.
fn take(file: BorrowedFd<'_>, line: &str, lost: &mut u64) -> io::Result<()> {
    if !takes_more(file) {
        *lost = lost.saturating_add(1);
        return Ok(());
    }
    let before = match *lost {
        0 => String::new(),
        lost => format!("({lost} lines of the log are lost: nobody took them)\n"),
    };
    *lost = 0;
    for bytes in [before.as_bytes(), line.as_bytes()] {
        for piece in bytes.chunks(PIECE) {
            write(file, piece)?;
        }
    }
    Ok(())
}

/// Writes what the file takes without waiting. The rest of a line is not worth waiting for.
fn write(file: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() && takes_more(file) {
        match rustix::io::write(file, bytes) {
            Ok(0) => break,
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether a write would not wait. Always so for regular files, and where nobody can tell.
fn takes_more(file: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(file, PollFlags::OUT)];
    !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_loses_lines_and_keeps_nobody() {
        let (reader, writer) = io::pipe().unwrap();
        let (mut lost, mut taken) = (0, 0);
        while lost < 10 {
            take(writer.as_fd(), "a line of the log\n", &mut lost).unwrap();
            taken += u32::from(lost == 0);
        }
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        for _ in 0..taken {
            assert_eq!(lines.next().unwrap(), "a line of the log");
        }
        take(writer.as_fd(), "the next\n", &mut lost).unwrap();
        assert_eq!(lost, 0);
        assert!(lines.next().unwrap().starts_with("(10 lines"));
        assert_eq!(lines.next().unwrap(), "the next");
        drop(writer);
        assert_eq!(lines.next(), None);
    }

    #[test]
    fn a_line_longer_than_a_pipe_ends_early() {
        let (_reader, writer) = io::pipe().unwrap();
        let mut lost = 0;
        take(writer.as_fd(), &"x".repeat(1 << 20), &mut lost).unwrap();
        take(writer.as_fd(), "lost\n", &mut lost).unwrap();
        assert_eq!(lost, 1);
    }
}
