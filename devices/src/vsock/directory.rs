//! The de-facto place of a host's services: port 52 is the Unix socket `PATH_52`.
//!
//! The directory is opened once, by the launcher; later connects start from its descriptor, by way
//! of `/proc/self/fd`, because `connect` knows no `connectat`.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Connector, SocketKind};

/// Connects to the sockets in one directory whose names have one beginning.
#[derive(Debug)]
pub struct DirectoryConnector {
    directory: OwnedFd,
    /// The sockets' common name, without `_` and port.
    name: OsString,
}

impl DirectoryConnector {
    /// For the sockets `PATH_1`, `PATH_2` and so on of `path`.
    ///
    /// # Errors
    /// What the system said of the directory; `InvalidInput` for a path without a name.
    pub fn open(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty())?;
        let name = name.to_owned();
        Ok(Self { directory, name })
    }

    /// Where the socket of `port` is, for this process.
    fn path(&self, port: u32) -> PathBuf {
        let mut path = format!("/proc/self/fd/{}/", self.directory.as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name.as_bytes());
        path.extend_from_slice(format!("_{port}").as_bytes());
        OsString::from_vec(path).into()
    }
}

impl Connector for DirectoryConnector {
    fn connect(&mut self, port: u32, kind: SocketKind) -> io::Result<OwnedFd> {
        let address = SocketAddrUnix::new(self.path(port))?;
        let kind = match kind {
            SocketKind::Stream => SocketType::STREAM,
            SocketKind::Seqpacket => SocketType::SEQPACKET,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        // For Unix sockets this succeeds or fails at once; a full backlog is an error.
        net::connect(&socket, &address)?;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_port_is_a_socket_beside_the_path_wherever_the_directory_goes() {
        let outer = tempfile::tempdir().unwrap();
        let directory = outer.path().join("d");
        std::fs::create_dir(&directory).unwrap();
        let mut connector = DirectoryConnector::open(&directory.join("v.sock")).unwrap();
        let moved = outer.path().join("moved");
        std::fs::rename(&directory, &moved).unwrap();
        let listener = UnixListener::bind(moved.join("v.sock_4294967295")).unwrap();

        let socket = connector.connect(u32::MAX, SocketKind::Stream).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        UnixStream::from(socket).write_all(b"x").unwrap();
        assert_eq!(served.read(&mut [0; 2]).unwrap(), 1);

        let error = connector.connect(1, SocketKind::Stream).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let error = connector.connect(u32::MAX, SocketKind::Seqpacket);
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EPROTOTYPE));
    }

    #[test]
    fn a_full_backlog_is_an_error_and_no_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v");
        let listener = UnixListener::bind(directory.path().join("v_9")).unwrap();
        // The standard library's backlog has room for thousands.
        net::listen(&listener, 1).unwrap();
        let mut connector = DirectoryConnector::open(&path).unwrap();
        let mut sockets = Vec::new();
        let error = loop {
            match connector.connect(9, SocketKind::Stream) {
                Ok(socket) => sockets.push(socket),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_path_without_a_name_or_directory_is_refused() {
        DirectoryConnector::open(Path::new("/")).unwrap_err();
        DirectoryConnector::open(Path::new("/nowhere/at/all")).unwrap_err();
        DirectoryConnector::open(Path::new("v.sock")).unwrap();
    }
}
