//! A descriptor of the host that is read and written without ever blocking.
//!
//! Descriptors of our own get `O_NONBLOCK`. Those we share with others (stdin and stdout) must not:
//! the flag belongs to the open file description, so it would reach the shell that started us and
//! everything else in its pipeline. They are opened anew through /proc, which gives a description
//! of our own on the same terminal or pipe; where that fails, each access asks poll(2) first.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// Most bytes written at once: what poll(2) promises a pipe takes (`PIPE_BUF`).
const WRITE_LEN: usize = 4096;

/// How an access is kept from blocking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// `O_NONBLOCK` on a description of our own.
    NonBlocking,
    /// `MSG_DONTWAIT`, and no SIGPIPE.
    Socket,
    /// poll(2) before each access, which takes at most so many bytes.
    PollFirst(usize),
    /// Regular files and block devices: poll(2) and `O_NONBLOCK` mean nothing there.
    Disk,
}

/// Which end of a shared descriptor we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// We read.
    Input,
    /// We write.
    Output,
}

/// The descriptor.
#[derive(Debug)]
pub struct HostFd {
    fd: OwnedFd,
    manner: Manner,
    pollable: bool,
    terminal: bool,
}

impl HostFd {
    /// A descriptor whose open file description is ours alone.
    ///
    /// # Errors
    /// What fstat(2) or fcntl(2) answered.
    pub fn own(fd: OwnedFd) -> io::Result<Self> {
        let manner = match file_type(fd.as_fd())? {
            FileType::RegularFile | FileType::BlockDevice => Manner::Disk,
            FileType::Socket => Manner::Socket,
            _ => {
                fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
                Manner::NonBlocking
            }
        };
        Ok(Self::new(fd, manner))
    }

    /// A descriptor whose open file description others may hold too. Its flags stay as they are.
    /// Resolves a path below /proc: for the launcher, before the sandbox.
    ///
    /// # Errors
    /// What fstat(2) or dup(2) answered.
    pub fn shared(fd: BorrowedFd<'_>, direction: Direction) -> io::Result<Self> {
        let duplicate = || rustix::io::fcntl_dupfd_cloexec(fd, 3);
        let kind = file_type(fd)?;
        match kind {
            FileType::RegularFile | FileType::BlockDevice => {
                return Ok(Self::new(duplicate()?, Manner::Disk));
            }
            FileType::Socket => return Ok(Self::new(duplicate()?, Manner::Socket)),
            _ => {}
        }
        let access = match direction {
            Direction::Input => OFlags::RDONLY,
            Direction::Output => OFlags::WRONLY,
        };
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match open(
            format!("/proc/self/fd/{}", fd.as_raw_fd()),
            flags,
            Mode::empty(),
        ) {
            Ok(own) => Ok(Self::new(own, Manner::NonBlocking)),
            // No /proc, or the file is another user's. A terminal that poll calls writable may
            // have room for one byte only.
            Err(_) => {
                let len = if kind == FileType::Fifo { WRITE_LEN } else { 1 };
                Ok(Self::new(duplicate()?, Manner::PollFirst(len)))
            }
        }
    }

    fn new(fd: OwnedFd, manner: Manner) -> Self {
        let (pollable, terminal) = (is_pollable(fd.as_fd()), rustix::termios::isatty(&fd));
        Self {
            fd,
            manner,
            pollable,
            terminal,
        }
    }

    /// Whether epoll(7) can watch it. What it cannot watch is always ready.
    #[must_use]
    pub fn is_pollable(&self) -> bool {
        self.pollable
    }

    /// Whether it is a terminal.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether the other side is gone, as poll(2) tells it; there may still be bytes to read.
    pub(super) fn is_hung_up(&self) -> bool {
        self.poll(PollFlags::empty())
            .intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// Writes what goes now, at most 4096 bytes. `EAGAIN` when nothing does.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let limit = match self.manner {
            Manner::PollFirst(limit) => limit,
            _ => WRITE_LEN,
        };
        let bytes = bytes.get(..limit).unwrap_or(bytes);
        retry(|| match self.manner {
            Manner::Socket => send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Manner::PollFirst(_) if self.poll(PollFlags::OUT).is_empty() => Err(Errno::AGAIN),
            _ => rustix::io::write(&self.fd, bytes),
        })
    }

    /// Reads what is there. `EAGAIN` when nothing is, 0 at the end.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        retry(|| match self.manner {
            Manner::Socket => recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT).map(|(n, _)| n),
            Manner::PollFirst(_) if self.poll(PollFlags::IN).is_empty() => Err(Errno::AGAIN),
            _ => rustix::io::read(&self.fd, &mut *buffer),
        })
    }

    /// What of `interest`, hang-up and error is the case now.
    fn poll(&self, interest: PollFlags) -> PollFlags {
        let mut fds = [PollFd::new(&self.fd, interest)];
        match poll(&mut fds, Some(&Timespec::default())) {
            Ok(_) => fds[0].revents(),
            Err(_) => PollFlags::empty(),
        }
    }
}

impl AsFd for HostFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

fn file_type(fd: BorrowedFd<'_>) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode))
}

/// epoll(7) refuses what is always ready: regular files, and devices such as /dev/null.
fn is_pollable(fd: BorrowedFd<'_>) -> bool {
    let refused = epoll::create(epoll::CreateFlags::CLOEXEC).and_then(|set| {
        epoll::add(
            &set,
            fd,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::empty(),
        )
    });
    refused != Err(Errno::PERM)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_shared_pipe_never_blocks_and_keeps_its_flags() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let input = HostFd::shared(reader.as_fd(), Direction::Input).unwrap();
        let output = HostFd::shared(writer.as_fd(), Direction::Output).unwrap();
        let mut buffer = [0; 8192];
        assert_eq!(input.read(&mut buffer), Err(Errno::AGAIN));
        let mut written = 0;
        loop {
            match output.write(&[b'x'; 10_000]) {
                Ok(n) => written += n,
                Err(errno) => break assert_eq!(errno, Errno::AGAIN),
            }
        }
        assert!(written >= WRITE_LEN);
        for fd in [&reader, &writer] {
            assert!(!fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK));
        }
        assert_eq!(input.read(&mut buffer), Ok(buffer.len()));
        assert!(input.is_pollable() && !input.is_terminal());
    }

    #[test]
    fn without_proc_poll_goes_first() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let output = HostFd::new(writer, Manner::PollFirst(WRITE_LEN));
        let input = HostFd::new(reader, Manner::PollFirst(WRITE_LEN));
        let mut buffer = [0; 100_000];
        assert_eq!(input.read(&mut buffer), Err(Errno::AGAIN));
        while output.write(&[b'x'; 10_000]).is_ok() {}
        assert_eq!(output.write(b"x"), Err(Errno::AGAIN));
        assert!(input.read(&mut buffer).is_ok());
        drop(output);
        assert!(input.is_hung_up());
    }

    #[test]
    fn sockets_and_files_are_told_apart() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let a = HostFd::shared(OwnedFd::from(a).as_fd(), Direction::Output).unwrap();
        assert_eq!(a.manner, Manner::Socket);
        while a.write(&[0; 4096]).is_ok() {}
        assert_eq!(a.write(&[0]), Err(Errno::AGAIN));
        drop(b);
        assert!(a.is_hung_up());
        assert_eq!(a.write(&[0]), Err(Errno::PIPE));

        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"text").unwrap();
        let host = HostFd::own(file.try_clone().unwrap().into()).unwrap();
        assert!(!host.is_pollable());
        assert_eq!(host.write(b"!"), Ok(1));
        io::Seek::rewind(&mut file).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text!");

        let null = File::open("/dev/null").unwrap();
        let null = HostFd::shared(null.as_fd(), Direction::Input).unwrap();
        assert!(!null.is_pollable());
        assert_eq!(null.read(&mut [0]), Ok(0));
    }
}
