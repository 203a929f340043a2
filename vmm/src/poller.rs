//! The main loop's epoll, with typed tokens.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// What a descriptor is to the main loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Token {
    /// vCPUs and devices have something to say.
    GuestEvents,
    /// A signal is pending.
    Signal,
    /// One of the console's descriptors; the console looks at all of them.
    Console,
    /// Somebody connects to a control socket, by number.
    Listener(u32),
    /// A control client, by number.
    Client(u32),
    /// The job thread has finished.
    Job,
}

/// Which readiness is waited for; hang-up and error are always told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interest {
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
}

impl Interest {
    /// Readable only.
    pub const READ: Self = Self {
        read: true,
        write: false,
    };
}

/// Something that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// What.
    pub token: Token,
    /// The peer has gone, or the descriptor is broken.
    pub hung_up: bool,
}

/// Most events taken by one [`Poller::wait`]; what is left is told by the next.
const BATCH: usize = 16;

/// An epoll instance.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

impl Token {
    fn to_data(self) -> EventData {
        let (kind, number) = match self {
            Self::GuestEvents => (0, 0),
            Self::Signal => (1, 0),
            Self::Console => (2, 0),
            Self::Listener(number) => (3, number),
            Self::Client(number) => (4, number),
            Self::Job => (5, 0),
        };
        EventData::new_u64(u64::from(number) << 8 | kind)
    }

    fn from_data(data: EventData) -> Option<Self> {
        let number = u32::try_from(data.u64() >> 8).ok()?;
        Some(match data.u64() & 0xff {
            0 => Self::GuestEvents,
            1 => Self::Signal,
            2 => Self::Console,
            3 => Self::Listener(number),
            4 => Self::Client(number),
            5 => Self::Job,
            _ => return None,
        })
    }
}

fn flags(interest: Interest) -> EventFlags {
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, interest.read);
    flags.set(EventFlags::OUT, interest.write);
    flags
}

impl Poller {
    /// A new instance.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        })
    }

    /// Begins to watch `fd`.
    ///
    /// # Errors
    /// What the kernel answered; EPERM for a regular file, which is always ready.
    pub fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            fd,
            token.to_data(),
            flags(interest),
        )?)
    }

    /// Changes what is waited for.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn modify(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(
            &self.epoll,
            fd,
            token.to_data(),
            flags(interest),
        )?)
    }

    /// Stops watching `fd`; to be called before it is closed.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Stops watching a number whose file its owner may have closed already, which did that too.
    #[expect(
        unsafe_code,
        reason = "a number that may be closed cannot be lent as a descriptor"
    )]
    pub fn forget(&self, fd: RawFd) {
        let (epoll, no_event) = (self.epoll.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: any number will do: the kernel refuses those that are not watched, and reads no
        // event to remove one.
        unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd, no_event) };
    }

    /// Waits until something is ready or `timeout` is over. Empty on a timeout or a signal.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Ready>> {
        let timeout = timeout.map(timespec);
        let mut events = [const { std::mem::MaybeUninit::uninit() }; BATCH];
        let ready = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((ready, _)) => ready,
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let broken = EventFlags::HUP | EventFlags::ERR;
        Ok(ready
            .iter()
            .filter_map(|event| {
                let token = Token::from_data(event.data)?;
                let flags = event.flags;
                Some(Ready {
                    token,
                    hung_up: flags.intersects(broken),
                })
            })
            .collect())
    }
}

/// Waits until one of `fds` takes output or has hung up, or `timeout` is over; whatever else is
/// ready meanwhile does not matter.
///
/// # Errors
/// What the kernel answered.
pub fn wait_writable<'fd>(
    fds: impl IntoIterator<Item = BorrowedFd<'fd>>,
    timeout: Duration,
) -> io::Result<()> {
    let watch = |fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT);
    let mut fds: Vec<_> = fds.into_iter().map(watch).collect();
    match rustix::event::poll(&mut fds, Some(&timespec(timeout))) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until `fd` is readable or `timeout` is over, and returns whether it is.
///
/// # Errors
/// What the kernel answered.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    Ok(rustix::event::poll(&mut fds, Some(&timespec(timeout)))? > 0)
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn tokens_survive_the_trip() {
        for token in [
            Token::GuestEvents,
            Token::Signal,
            Token::Console,
            Token::Listener(u32::MAX),
            Token::Client(7),
            Token::Job,
        ] {
            assert_eq!(Token::from_data(token.to_data()), Some(token));
        }
        assert_eq!(Token::from_data(EventData::new_u64(u64::MAX)), None);
    }

    #[test]
    fn readiness_interest_and_hang_up() {
        let poller = Poller::new().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let token = Token::Client(1);
        poller.add(&ours, token, Interest::READ).unwrap();
        let now = || poller.wait(Some(Duration::ZERO)).unwrap();
        assert_eq!(now(), []);
        theirs.write_all(b"x").unwrap();
        assert_eq!(
            now(),
            [Ready {
                token,
                hung_up: false
            }]
        );
        poller.modify(&ours, token, Interest::default()).unwrap();
        assert_eq!(now(), []);
        drop(theirs);
        assert_eq!(
            now(),
            [Ready {
                token,
                hung_up: true
            }]
        );
        poller.remove(&ours).unwrap();
        assert_eq!(now(), []);
    }

    #[test]
    fn a_number_is_forgotten_whether_it_is_open_or_not() {
        let poller = Poller::new().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        poller.add(&ours, Token::Console, Interest::READ).unwrap();
        drop(theirs);
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap().len(), 1);
        poller.forget(ours.as_raw_fd());
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap(), []);
        poller.forget(ours.as_raw_fd());
        poller.forget(RawFd::MAX);
    }

    #[test]
    fn room_for_output_ends_the_wait_and_input_does_not() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        wait_writable([ours.as_fd()], Duration::MAX).unwrap();
        ours.set_nonblocking(true).unwrap();
        while (&ours).write(&[0; 4096]).is_ok() {}
        theirs.write_all(b"input").unwrap();
        wait_writable([ours.as_fd()], Duration::ZERO).unwrap();
        assert!(
            (&ours).write(b"x").is_err(),
            "there was no room to wait for"
        );
        drop(theirs);
        wait_writable([ours.as_fd()], Duration::MAX).unwrap();
    }
}
