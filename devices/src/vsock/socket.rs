//! A connected Unix socket of the host, read into guest memory and written from it. Nothing waits.
//!
//! Used on the I/O thread.
#![expect(unsafe_code, reason = "vectored I/O on raw addresses of guest memory")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags, Shutdown};

use super::SocketKind;
use crate::disk::buffers::GuestBuffers;

/// Most vectors of one call: `IOV_MAX` of Linux (writev(2)).
const VECTORS_MAX: usize = 1024;

/// What came out of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes; 0 is the end.
    pub bytes: usize,
    /// The peer sent descriptors along, which are dropped. The kernel ends a read there, so there
    /// may be more although less came than was asked for.
    pub interrupted: bool,
}

/// A connected socket.
#[derive(Debug)]
pub struct HostSocket {
    socket: OwnedFd,
    kind: SocketKind,
}

impl HostSocket {
    /// Takes a connected, non-blocking socket.
    #[must_use]
    pub fn new(socket: OwnedFd, kind: SocketKind) -> Self {
        Self { socket, kind }
    }

    /// What it carries.
    #[must_use]
    pub fn kind(&self) -> SocketKind {
        self.kind
    }

    /// Lets it take messages of up to `bytes`, as far as the host allows.
    pub fn set_send_buffer(&self, bytes: usize) {
        // Refused, messages beyond the default size are refused later, one by one.
        let _ = net::sockopt::set_socket_send_buffer_size(&self.socket, bytes);
    }

    /// Fills `buffers` from the front.
    ///
    /// # Errors
    /// The system's; `WouldBlock` when there is nothing.
    pub fn receive(&self, buffers: &mut GuestBuffers) -> io::Result<Received> {
        let mut message = header(buffers.iovecs_mut());
        // SAFETY: the header points to vectors that `buffers` has, each a range of guest memory
        // that it keeps mapped; nothing in Rust refers to that memory. Both outlive the call.
        let answer = unsafe {
            libc::recvmsg(
                self.socket.as_raw_fd(),
                &raw mut message,
                libc::MSG_DONTWAIT,
            )
        };
        Ok(Received {
            bytes: count(answer)?,
            interrupted: message.msg_flags & libc::MSG_CTRUNC != 0,
        })
    }

    /// Writes `buffers`, all of them or a part; a message in full or not at all. Answers how many
    /// bytes were taken.
    ///
    /// # Errors
    /// The system's; `WouldBlock` when there is no room.
    pub fn send(&self, buffers: &mut GuestBuffers) -> io::Result<usize> {
        let vectors = buffers.iovecs_mut();
        if self.kind == SocketKind::Seqpacket && vectors.len() > VECTORS_MAX {
            return Err(Errno::MSGSIZE.into());
        }
        let message = header(vectors);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: as in `receive`; the kernel only reads the memory.
        count(unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, flags) })
    }

    /// The same for bytes of our own.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_bytes(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(net::send(&self.socket, bytes, flags)?)
    }

    /// Reads into memory of our own. Answers the length of what there was to read: of a message,
    /// all of it, even if it did not fit.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn receive_bytes(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let flags = match self.kind {
            SocketKind::Seqpacket => flags,
            SocketKind::Stream => RecvFlags::DONTWAIT,
        };
        Ok(net::recv(&self.socket, bytes, flags)?.1)
    }

    /// The same, leaving it to be read.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let flags = match self.kind {
            SocketKind::Seqpacket => RecvFlags::TRUNC,
            SocketKind::Stream => RecvFlags::empty(),
        };
        let flags = flags | RecvFlags::DONTWAIT | RecvFlags::PEEK;
        Ok(net::recv(&self.socket, bytes, flags)?.1)
    }

    /// Tells the peer that no more will come.
    pub fn end_sending(&self) {
        // Fails if the peer has gone, which shows elsewhere.
        let _ = net::shutdown(&self.socket, Shutdown::Write);
    }

    /// Tells the peer that no more will be taken.
    pub fn end_receiving(&self) {
        // As above.
        let _ = net::shutdown(&self.socket, Shutdown::Read);
    }
}

impl AsFd for HostSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for HostSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// A message of `vectors`, or of the first that one call takes.
fn header(vectors: &mut [libc::iovec]) -> libc::msghdr {
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: vectors.as_mut_ptr(),
        msg_iovlen: vectors.len().min(VECTORS_MAX),
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

fn count(answer: isize) -> io::Result<usize> {
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage};
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::GuestMemory;

    fn memory() -> Arc<GuestMemory> {
        Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x2000)]).unwrap())
    }

    fn pair() -> (HostSocket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (HostSocket::new(ours.into(), SocketKind::Stream), theirs)
    }

    #[test]
    fn bytes_go_straight_to_and_from_guest_memory() {
        let memory = memory();
        let mut buffers = GuestBuffers::new(memory.clone());
        let (ours, mut theirs) = pair();
        buffers.push(0x10, 2).unwrap();
        buffers.push(0x100, 10).unwrap();
        assert_eq!(
            ours.receive(&mut buffers).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        theirs.write_all(b"hello").unwrap();
        let received = ours.receive(&mut buffers).unwrap();
        assert_eq!((received.bytes, received.interrupted), (5, false));
        let mut seen = [0; 3];
        memory.read_slice(&mut seen, GuestAddress(0x100)).unwrap();
        assert_eq!(&seen, b"llo");
        assert_eq!(ours.send(&mut buffers).unwrap(), 12);
        drop(theirs);
        assert_eq!(
            ours.send(&mut buffers).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn descriptors_sent_along_are_dropped_and_told() {
        let memory = memory();
        let mut buffers = GuestBuffers::new(memory);
        let (ours, theirs) = pair();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [theirs.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        let part = [io::IoSlice::new(b"a")];
        net::sendmsg(&theirs, &part, &mut ancillary, SendFlags::empty()).unwrap();
        buffers.push(0, 8).unwrap();
        let received = ours.receive(&mut buffers).unwrap();
        assert_eq!((received.bytes, received.interrupted), (1, true));
    }
}
