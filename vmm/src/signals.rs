//! Signals as events of the main loop.
//!
//! The signals that ask the process to end are blocked in every thread (call [`Signals::block`]
//! before the first is started) and read from a signalfd, so that a guest is always ended by the
//! same path, terminal restored and sockets removed.
#![expect(unsafe_code, reason = "signalfd has no safe wrapper among our crates")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use devices::chardev::terminal;
use vmm_sys_util::signal::{create_sigset, register_signal_handler};

/// Signals that end the machine as `quit` does.
const ENDING: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// The pending ending signals, as a descriptor.
#[derive(Debug)]
pub struct Signals {
    fd: File,
}

impl Signals {
    /// Blocks the ending signals for this thread and all it starts, and opens their descriptor.
    /// SIGPIPE is ignored by Rust's runtime already: a client that goes away is an error return. So
    /// is, from here on, a file that may not grow (RLIMIT_FSIZE): a guest that writes to its disk
    /// must not be able to end the process.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn block() -> io::Result<Self> {
        // SAFETY: no handler is installed, and SIG_IGN is a disposition SIGXFSZ may have.
        if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
        let set = create_sigset(&ENDING).map_err(io::Error::from)?;
        // SAFETY: `set` is initialised; a null old-set is allowed.
        let rc =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if rc != 0 {
            return Err(io::Error::from_raw_os_error(rc));
        }
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd just returned this descriptor and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd: File::from(fd) })
    }

    /// The number of the next pending signal, if there is one.
    #[must_use]
    pub fn take(&mut self) -> Option<u32> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        match self.fd.read(&mut info) {
            // The number is the first field (signalfd(2)).
            Ok(n) if n == info.len() => info.first_chunk().copied().map(u32::from_ne_bytes),
            _ => None,
        }
    }
}

/// Lets a raw terminal follow job control: given back while the process is stopped from outside
/// (SIGTSTP, as Ctrl-Z goes to the guest), raw again when it goes on.
///
/// # Errors
/// What the kernel answered.
pub fn follow_job_control() -> io::Result<()> {
    register_signal_handler(libc::SIGTSTP, on_stop).map_err(io::Error::from)?;
    register_signal_handler(libc::SIGCONT, on_continue).map_err(io::Error::from)
}

// What the two call is async-signal-safe, and says so.
extern "C" fn on_stop(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    terminal::suspend();
}

extern "C" fn on_continue(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    terminal::reapply();
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
