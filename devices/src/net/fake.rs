//! A backend that is a pair of sockets, for tests, fuzz targets and benches; the test has the
//! other ends. Not part of the VMM.
#![expect(clippy::expect_used, reason = "test code; panicking is how it reports")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use super::ranges::GuestRanges;
use super::readiness::Readiness;
use super::tap::{receive_from, send_to};
use super::{HEADER_LEN, NetBackend, Offloads};

/// What the card asked of its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// The offloads set last.
    pub offloads: Offloads,
    /// The number of active queues set last.
    pub active: u16,
}

/// The backend.
#[derive(Debug)]
pub struct FakeBackend {
    queues: Vec<(UnixDatagram, Readiness)>,
    asked: Arc<Mutex<Asked>>,
}

/// The other side: the network.
#[derive(Debug)]
pub struct FakePeer {
    /// One socket per queue; each message is a frame behind its header. Blocking.
    pub queues: Vec<UnixDatagram>,
    asked: Arc<Mutex<Asked>>,
}

impl FakePeer {
    /// What the card asked for last.
    #[must_use]
    pub fn asked(&self) -> Asked {
        *self.asked.lock().expect("no test panics with it")
    }

    /// The next frame out of the first queue, with its header.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0; 0x2_0000];
        let socket = self.queues.first().expect("a queue");
        let len = socket.recv(&mut frame).expect("a frame");
        frame.truncate(len);
        frame
    }

    /// Sends a frame into the first queue, behind a header of zeroes.
    pub fn send(&self, frame: &[u8]) {
        let whole = [&[0; HEADER_LEN], frame].concat();
        let socket = self.queues.first().expect("a queue");
        socket.send(&whole).expect("room for a frame");
    }
}

/// A backend of `queues` queues and its peer.
#[must_use]
pub fn pair(queues: u16) -> (FakeBackend, FakePeer) {
    let asked = Arc::new(Mutex::new(Asked::default()));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..queues {
        let (a, b) = UnixDatagram::pair().expect("sockets");
        a.set_nonblocking(true).expect("a flag");
        ours.push((a, Readiness::new().expect("an epoll instance")));
        theirs.push(b);
    }
    let backend = FakeBackend {
        queues: ours,
        asked: Arc::clone(&asked),
    };
    let queues = theirs;
    (backend, FakePeer { queues, asked })
}

impl FakeBackend {
    fn fd(&self, queue: u16) -> io::Result<RawFd> {
        let (socket, _) = self
            .queues
            .get(usize::from(queue))
            .ok_or(io::ErrorKind::NotConnected)?;
        Ok(socket.as_raw_fd())
    }

    fn asked(&self, change: impl FnOnce(&mut Asked)) {
        change(&mut self.asked.lock().expect("no test panics with it"));
    }
}

impl NetBackend for FakeBackend {
    fn queues(&self) -> u16 {
        u16::try_from(self.queues.len()).expect("few queues")
    }

    fn offloads(&self) -> Offloads {
        Offloads {
            csum: true,
            tso4: true,
            tso6: true,
            ecn: true,
            ufo: true,
            uso: true,
        }
    }

    fn set_offloads(&mut self, guest: Offloads) -> io::Result<()> {
        self.asked(|asked| asked.offloads = guest);
        Ok(())
    }

    fn set_active(&mut self, active: u16) -> io::Result<()> {
        self.asked(|asked| asked.active = active);
        Ok(())
    }

    fn event(&self, queue: u16) -> Option<RawFd> {
        let (_, readiness) = self.queues.get(usize::from(queue))?;
        Some(readiness.fd())
    }

    fn watch(&mut self, queue: u16, receiving: bool, sending: bool) -> io::Result<()> {
        let Some((socket, readiness)) = self.queues.get_mut(usize::from(queue)) else {
            return Ok(());
        };
        readiness.want(socket.as_raw_fd(), receiving, sending)
    }

    fn receive(
        &mut self,
        queue: u16,
        ranges: &mut GuestRanges,
        overflow: &mut [u8],
    ) -> io::Result<usize> {
        receive_from(self.fd(queue)?, ranges, overflow)
    }

    fn send(
        &mut self,
        queue: u16,
        header: &[u8; HEADER_LEN],
        frame: &GuestRanges,
    ) -> io::Result<()> {
        send_to(self.fd(queue)?, header, frame)
    }
}
