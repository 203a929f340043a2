//! Opening the host side of a character device: everything that resolves a path or changes a
//! file's mode. Called by the launcher, before the sandbox and before the guest.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::host_fd::{Direction, HostFd};
use super::{Backend, PtySlave};
use crate::disk::lock::{self, LockError};

/// Mode of what is created: the console of a guest is its owner's.
const PRIVATE: Mode = Mode::from_raw_mode(0o600);

/// Clients that may wait for their turn.
const BACKLOG: i32 = 8;

/// What to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// Nothing.
    Null,
    /// This process's stdin and stdout.
    Stdio,
    /// A file for output, created with mode 0600 or emptied, as QEMU's `file:` does; also a
    /// terminal or another character device, or a FIFO that somebody reads. Links are followed. A
    /// disk is left alone: a block device, or an image that a guest uses.
    File(PathBuf),
    /// A new pseudo-terminal. [`Chardev::info`](super::Chardev::info) tells its path.
    Pty,
    /// A unix socket to listen on, mode 0600 from the start.
    Socket(PathBuf),
}

/// Why something could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Stdin or stdout, closed perhaps.
    #[error("cannot use standard input and output for a character device")]
    Stdio(#[source] io::Error),
    /// The file.
    #[error("cannot open {} for a character device's output", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// ENXIO: a FIFO without a reader, a socket, a device that is not there.
    #[error(
        "nobody is at the other end of {}: start the reader of that FIFO first, or choose a file",
        path.display()
    )]
    NoReader {
        /// Its path.
        path: PathBuf,
    },
    /// A block device, or a locked image.
    #[error("{} is {what}, and would be overwritten: choose another path", path.display())]
    Disk {
        /// Its path.
        path: PathBuf,
        /// Which of the two.
        what: &'static str,
    },
    /// The pseudo-terminal.
    #[error("cannot create a pseudo-terminal; is /dev/pts mounted?")]
    Pty(#[source] io::Error),
    /// The socket.
    #[error("cannot listen on {}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// The path does not fit a socket address.
    #[error("socket path {} is too long: use one of at most 107 bytes", path.display())]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// Somebody listens there.
    #[error("another process listens on {}: choose another path or end that process", path.display())]
    SocketInUse {
        /// The path.
        path: PathBuf,
    },
    /// There is a file.
    #[error("{} exists and is not a socket: remove it or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
}

/// Opens `spec`.
///
/// # Errors
/// [`OpenError`] names what and why.
pub fn open(spec: &Spec) -> Result<Backend, OpenError> {
    match spec {
        Spec::Null => Ok(Backend::Null),
        Spec::Stdio => stdio().map_err(OpenError::Stdio),
        Spec::File(path) => file(path),
        Spec::Pty => pty().map_err(OpenError::Pty),
        Spec::Socket(path) => socket(path),
    }
}

fn stdio() -> io::Result<Backend> {
    Ok(Backend::Stdio {
        input: HostFd::shared(rustix::stdio::stdin(), Direction::Input)?,
        output: HostFd::shared(rustix::stdio::stdout(), Direction::Output)?,
    })
}

fn file(path: &Path) -> Result<Backend, OpenError> {
    let fail = |source| OpenError::File {
        path: path.to_owned(),
        source,
    };
    let disk = |what| OpenError::Disk {
        path: path.to_owned(),
        what,
    };
    // Appending, so that a log emptied by another process does not become sparse. Non-blocking, so
    // that a FIFO without a reader is an error and not a hang. Not yet emptied: first a look.
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::APPEND
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, PRIVATE) {
        Ok(file) => File::from(file),
        Err(Errno::NXIO) => {
            return Err(OpenError::NoReader {
                path: path.to_owned(),
            });
        }
        Err(errno) => return Err(fail(errno.into())),
    };
    let kind = file.metadata().map_err(fail)?.file_type();
    if kind.is_block_device() {
        return Err(disk("a block device"));
    }
    if kind.is_file() {
        // Where the host knows no such locks, nobody could have taken any.
        if let Err(LockError::Busy { .. }) = lock::check_unused(&file) {
            return Err(disk("the image of a disk in use"));
        }
        file.set_len(0).map_err(fail)?;
    }
    Ok(Backend::File {
        file: HostFd::own(file.into()).map_err(fail)?,
        path: path.display().to_string(),
    })
}

fn pty() -> io::Result<Backend> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname(&master, Vec::new())?.to_string_lossy().into_owned();
    // Raw, lest the line discipline echo the guest's output back to it as input. The setting
    // outlives the users of the slave.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    let mut modes = tcgetattr(&slave)?;
    modes.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    let slave = match watch_opens(&path) {
        // Closing our slave is what makes the master say that there is no user.
        Ok(opens) => PtySlave::Watched(opens),
        Err(errno) => {
            log::info!("cannot watch {path} being opened ({errno}); it is held open instead");
            PtySlave::HeldOpen(slave)
        }
    };
    Ok(Backend::Pty {
        master: HostFd::own(master)?,
        slave,
        path,
    })
}

fn watch_opens(path: &str) -> Result<OwnedFd, Errno> {
    let opens = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&opens, path, WatchFlags::OPEN)?;
    Ok(opens)
}

fn socket(path: &Path) -> Result<Backend, OpenError> {
    let fail = |source: Errno| OpenError::Socket {
        path: path.to_owned(),
        source: source.into(),
    };
    let address = SocketAddrUnix::new(path).map_err(|errno| match errno {
        Errno::NAMETOOLONG => OpenError::SocketPathTooLong {
            path: path.to_owned(),
        },
        errno => fail(errno),
    })?;
    let listener = unix_socket().map_err(fail)?;
    // Before bind(2): the file it makes has the mode of the socket, so that at no moment anybody
    // else can connect.
    rustix::fs::fchmod(&listener, PRIVATE).map_err(fail)?;
    match rustix::net::bind(&listener, &address) {
        Err(Errno::ADDRINUSE) => {
            remove_stale_socket(path, &address)?;
            rustix::net::bind(&listener, &address).map_err(fail)?;
        }
        result => result.map_err(fail)?,
    }
    rustix::net::listen(&listener, BACKLOG).map_err(fail)?;
    Ok(Backend::Socket {
        listener,
        path: path.display().to_string(),
    })
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes a socket nobody listens on any more: its process was killed.
fn remove_stale_socket(path: &Path, address: &SocketAddrUnix) -> Result<(), OpenError> {
    let fail = |source: Errno| OpenError::Socket {
        path: path.to_owned(),
        source: source.into(),
    };
    let before = rustix::fs::lstat(path).map_err(fail)?;
    if FileType::from_raw_mode(before.st_mode) != FileType::Socket {
        return Err(OpenError::NotASocket {
            path: path.to_owned(),
        });
    }
    match rustix::net::connect(&unix_socket().map_err(fail)?, address) {
        // The one that was asked, not one that somebody has just put there.
        Err(Errno::CONNREFUSED)
            if rustix::fs::lstat(path)
                .is_ok_and(|now| (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino)) =>
        {
            rustix::fs::unlink(path).map_err(fail)
        }
        Ok(()) | Err(Errno::AGAIN | Errno::CONNREFUSED) => Err(OpenError::SocketInUse {
            path: path.to_owned(),
        }),
        Err(errno) => Err(fail(errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_private_and_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        open(&Spec::File(path.clone())).unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::write(&path, "old").unwrap();
        let Backend::File { file, .. } = open(&Spec::File(path.clone())).unwrap() else {
            panic!()
        };
        assert_eq!(fs::read(&path).unwrap(), b"");
        file.write(b"one").unwrap();
        // Emptied by another process: what follows starts at its start.
        fs::write(&path, "").unwrap();
        file.write(b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn files_that_cannot_be_are_refused_without_hanging() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, PRIVATE, 0).unwrap();
        for path in [dir.path(), &fifo, &dir.path().join("no/such")] {
            let error = open(&Spec::File(path.to_owned())).unwrap_err();
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
        }
    }

    #[test]
    fn links_are_followed_devices_taken_and_disks_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (image, link) = (dir.path().join("image"), dir.path().join("link"));
        std::os::unix::fs::symlink("image", &link).unwrap();
        fs::write(&image, "precious").unwrap();
        let guest = File::options().read(true).write(true).open(&image).unwrap();
        lock::lock(&guest, lock::Access::Write).unwrap();
        for path in [&image, &link] {
            let error = open(&Spec::File(path.clone())).unwrap_err();
            assert!(error.to_string().contains("disk in use"), "{error}");
        }
        assert_eq!(fs::read(&image).unwrap(), b"precious");
        lock::unlock(&guest);
        open(&Spec::File(link)).unwrap();
        assert_eq!(fs::read(&image).unwrap(), b"");
        open(&Spec::File("/dev/null".into())).unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, PRIVATE, 0).unwrap();
        let _reader = File::options().read(true).write(true).open(&fifo).unwrap();
        open(&Spec::File(fifo)).unwrap();
    }

    #[test]
    fn a_socket_is_private_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.sock");
        let first = open(&Spec::Socket(path.clone())).unwrap();
        assert!(fs::metadata(&path).unwrap().file_type().is_socket());
        assert_eq!(mode(&path), 0o600);
        let error = open(&Spec::Socket(path.clone())).unwrap_err();
        assert!(matches!(error, OpenError::SocketInUse { .. }), "{error}");
        drop(first);
        assert!(path.exists());
        let second = open(&Spec::Socket(path.clone())).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(second);

        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        let error = open(&Spec::Socket(file.clone())).unwrap_err();
        assert!(matches!(error, OpenError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        let long = dir.path().join("x".repeat(200));
        let error = open(&Spec::Socket(long)).unwrap_err();
        assert!(
            matches!(error, OpenError::SocketPathTooLong { .. }),
            "{error}"
        );
        let missing = dir.path().join("no/such");
        assert!(matches!(
            open(&Spec::Socket(missing)),
            Err(OpenError::Socket { .. })
        ));
    }
}
