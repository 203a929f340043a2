//! Opens kernels and initrds by path: the launcher's part, before the sandbox closes. After it only
//! descriptors are used.
//!
//! Called on the main thread. Never blocks: a FIFO without a writer is refused, not waited for.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// What a path was given as; for the error texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFile {
    /// A kernel.
    Kernel,
    /// An initial RAM disk.
    Initrd,
}

impl std::fmt::Display for BootFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
        })
    }
}

/// Why a file was refused.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error("cannot open the {what} {}", path.display())]
    Open {
        /// What it was given as.
        what: BootFile,
        /// What was given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no regular file.
    #[error("the {what} {} is {found}: name a regular file", path.display())]
    NotRegular {
        /// What it was given as.
        what: BootFile,
        /// What was given.
        path: PathBuf,
        /// What it is, with its article.
        found: &'static str,
    },
    /// Nothing in it.
    #[error("the {what} {} is empty: was it copied or built to its end?", path.display())]
    Empty {
        /// What it was given as.
        what: BootFile,
        /// What was given.
        path: PathBuf,
    },
}

/// Opens the file at `path` for reading. It is a regular file and not empty.
pub fn open(what: BootFile, path: &Path) -> Result<File, OpenError> {
    let failed = |source: std::io::Error| OpenError::Open {
        what,
        path: path.to_owned(),
        source,
    };
    // NONBLOCK: opening a FIFO or a terminal must not wait. It means nothing to a regular file.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(failed)?;
    let kind = metadata.file_type();
    let found = if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_block_device() {
        "a block device"
    } else if !kind.is_file() {
        "no file"
    } else if metadata.len() == 0 {
        return Err(OpenError::Empty {
            what,
            path: path.to_owned(),
        });
    } else {
        return Ok(file);
    };
    Err(OpenError::NotRegular {
        what,
        path: path.to_owned(),
        found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn refusal(path: &Path) -> String {
        let error = open(BootFile::Kernel, path).unwrap_err();
        match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    }

    #[test]
    fn a_regular_file_opens_and_reads() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"kernel").unwrap();
        let mut text = String::new();
        open(BootFile::Initrd, file.path())
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "kernel");
    }

    #[test]
    fn everything_else_is_named_and_nothing_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(refusal(path).ends_with("is a directory: name a regular file"));
        let missing = path.join("missing");
        let expected = format!("cannot open the kernel {}: No such file", missing.display());
        assert!(refusal(&missing).starts_with(&expected));
        let fifo = path.join("fifo");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, Mode::RUSR, 0).unwrap();
        assert!(refusal(&fifo).contains("is a FIFO"));
        assert!(refusal(Path::new("/dev/null")).contains("is a character device"));
        let empty = path.join("empty");
        File::create(&empty).unwrap();
        assert!(refusal(&empty).contains("is empty"));
        let socket = path.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(refusal(&socket).starts_with("cannot open the kernel"));
    }
}
