//! Opening a disk image. The launcher calls this before the sandbox closes; from then on there is
//! only the descriptor.
//!
//! A path may name anything. Nothing here waits: `O_NONBLOCK` keeps the open of a FIFO without a
//! peer from hanging, and what was opened is looked at afterwards, so nobody can swap it in
//! between.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::CacheMode;

/// Why an image cannot be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// ENOENT.
    #[error("{0}: no such file; create it (qemu-img create -f raw {0} SIZE) or correct the path")]
    Missing(PathBuf),
    /// EACCES, EPERM.
    #[error("{path}: no permission to open it {wish}; {remedy}")]
    Permission {
        /// The image.
        path: PathBuf,
        /// "for reading" or "for reading and writing".
        wish: &'static str,
        /// What would help.
        remedy: &'static str,
    },
    /// EROFS, or a write-protected device.
    #[error("{0}: is on read-only storage; attach it with readonly=on")]
    ReadOnlyStorage(PathBuf),
    /// EISDIR, or a directory opened for reading.
    #[error("{0}: is a directory, not a disk image")]
    Directory(PathBuf),
    /// A FIFO, character device or socket.
    #[error("{path}: is a {kind}; a disk image is a regular file or a block device")]
    NotADisk {
        /// The image.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The file system refuses `O_DIRECT`.
    #[error("{0}: its file system has no direct I/O; use cache=writeback or cache=writethrough")]
    NoDirectIo(PathBuf),
    /// Anything else.
    #[error("{path}: cannot be opened")]
    Other {
        /// The image.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

/// Opens the image at `path` for the given cache mode, close-on-exec.
///
/// # Errors
/// [`OpenError`]. A file that had to be opened to see what it is has been closed again.
pub fn open(path: &Path, read_only: bool, cache: CacheMode) -> Result<File, OpenError> {
    let access = if read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    let direct = if cache.is_direct() {
        OFlags::DIRECT
    } else {
        OFlags::empty()
    };
    let basic = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let other = |source: Errno| OpenError::Other {
        path: path.to_owned(),
        source: source.into(),
    };
    let fd = match rustix::fs::open(path, basic | direct, Mode::empty()) {
        Ok(fd) => fd,
        // O_DIRECT refused, or a thing that could not take it anyway: look at what it is first.
        Err(Errno::INVAL) if cache.is_direct() => {
            let fd = rustix::fs::open(path, basic, Mode::empty())
                .map_err(|errno| explain(path, read_only, errno))?;
            refuse_other_kinds(path, &File::from(fd))?;
            return Err(OpenError::NoDirectIo(path.to_owned()));
        }
        Err(errno) => return Err(explain(path, read_only, errno)),
    };
    let file = File::from(fd);
    refuse_other_kinds(path, &file)?;
    let flags = rustix::fs::fcntl_getfl(&file).map_err(other)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(other)?;
    Ok(file)
}

fn refuse_other_kinds(path: &Path, file: &File) -> Result<(), OpenError> {
    let path = path.to_owned();
    let file_type = match file.metadata() {
        Ok(metadata) => metadata.file_type(),
        Err(source) => return Err(OpenError::Other { path, source }),
    };
    if file_type.is_file() || file_type.is_block_device() {
        return Ok(());
    }
    if file_type.is_dir() {
        return Err(OpenError::Directory(path));
    }
    let kind = if file_type.is_fifo() {
        "FIFO"
    } else if file_type.is_char_device() {
        "character device"
    } else {
        "special file"
    };
    Err(OpenError::NotADisk { path, kind })
}

fn explain(path: &Path, read_only: bool, errno: Errno) -> OpenError {
    let path = path.to_owned();
    match errno {
        Errno::NOENT => OpenError::Missing(path),
        Errno::ACCESS | Errno::PERM => {
            let (wish, remedy) = if read_only {
                (
                    "for reading",
                    "change its owner or mode, or run as a user who may read it",
                )
            } else {
                (
                    "for reading and writing",
                    "change its owner or mode, or attach it with readonly=on if it may be read",
                )
            };
            OpenError::Permission { path, wish, remedy }
        }
        Errno::ROFS => OpenError::ReadOnlyStorage(path),
        Errno::ISDIR => OpenError::Directory(path),
        // A socket, or a device node without a driver.
        Errno::NXIO | Errno::NODEV => OpenError::NotADisk {
            path,
            kind: "socket or dead device",
        },
        errno => OpenError::Other {
            path,
            source: errno.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path, read_only: bool) -> String {
        open(path, read_only, CacheMode::Writeback)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn everything_but_a_disk_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(text(&missing, false).contains("no such file; create it"));
        assert!(text(dir.path(), false).contains("is a directory"));
        assert!(text(dir.path(), true).contains("is a directory"));
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(text(&fifo, false).contains("is a FIFO"));
        assert!(text(&fifo, true).contains("is a FIFO"));
        assert!(text(Path::new("/dev/null"), false).contains("is a character device"));
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(text(&socket, false).contains("is a socket"));
    }

    #[test]
    fn errno_texts_say_what_to_do() {
        let path = Path::new("d.img");
        for (read_only, errno, expected) in [
            (false, Errno::ACCESS, "readonly=on if it may be read"),
            (true, Errno::ACCESS, "run as a user who may read it"),
            (false, Errno::ROFS, "attach it with readonly=on"),
            (false, Errno::IO, "d.img: cannot be opened"),
        ] {
            let text = explain(path, read_only, errno).to_string();
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn an_image_opens_blocking_and_with_the_asked_access() {
        let image = tempfile::NamedTempFile::new().unwrap();
        for (read_only, access) in [(true, OFlags::RDONLY), (false, OFlags::RDWR)] {
            let file = open(image.path(), read_only, CacheMode::Unsafe).unwrap();
            let flags = rustix::fs::fcntl_getfl(&file).unwrap();
            assert_eq!(flags & (OFlags::RWMODE | OFlags::NONBLOCK), access);
        }
    }
}
