//! Signals as events of the main loop, and what the others do to a raw terminal.
//!
//! The signals that ask the process to end are blocked in every thread (call [`Signals::block`]
//! before the first is started) and read from a signalfd, so that a guest is always ended by the
//! same path, terminal restored and sockets removed. Those that tell of a fault, or stop the
//! process, are handled where they strike, and only if a terminal has to be given back
//! ([`guard_terminal`]). That leaves SIGKILL and SIGSTOP, of which nobody hears.
#![expect(
    unsafe_code,
    reason = "signalfd and sigaction have no safe wrappers among our crates"
)]

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::OnceLock;

use devices::chardev::terminal;
use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{SIGRTMAX, SIGRTMIN, create_sigset, register_signal_handler};

/// Signals that end the machine as `quit` does: all that end a process that does nothing about
/// them (signal(7)), faults and SIGPIPE aside. With them go the real-time ones but for the first,
/// which wakes vCPU threads.
const ENDING: [c_int; 13] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
];

/// Signals of a process that cannot go on.
const FATAL: [c_int; 7] = [
    libc::SIGABRT,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// The pending ending signals, as a descriptor.
#[derive(Debug)]
pub struct Signals {
    fd: File,
}

impl Signals {
    /// Blocks the ending signals for this thread and all it starts, and opens their descriptor.
    /// SIGPIPE is ignored by Rust's runtime already: a client that goes away is an error return. So
    /// is, from here on, a file that may not grow (RLIMIT_FSIZE): a guest that writes to its disk
    /// must not be able to end the process. A SIGHUP that is ignored already stays so: nohup(1).
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn block() -> io::Result<Self> {
        // SAFETY: no handler is installed, and SIG_IGN is a disposition SIGXFSZ may have.
        if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
        let nohup = action(libc::SIGHUP)?.sa_sigaction == libc::SIG_IGN;
        let ending: Vec<c_int> = ENDING
            .into_iter()
            .chain(SIGRTMIN() + 1..=SIGRTMAX())
            // One that is ignored would still come by the descriptor, because it is blocked.
            .filter(|&signal| !(nohup && signal == libc::SIGHUP))
            .collect();
        let set = create_sigset(&ending).map_err(io::Error::from)?;
        // SAFETY: `set` is initialised; a null old-set is allowed.
        let rc = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
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

/// What is done about `signal` now.
fn action(signal: c_int) -> io::Result<libc::sigaction> {
    let mut action = MaybeUninit::uninit();
    // SAFETY: a null new action changes nothing, and the kernel fills the old one in.
    let rc = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, so it is filled in.
    Ok(unsafe { action.assume_init() })
}

/// Has a raw terminal given back by the signals that no other path sees. It follows job control:
/// cooked while the process is stopped from outside (SIGTSTP, as Ctrl-Z goes to the guest), raw
/// again when it goes on. A signal that tells of a fault restores it, and then ends the process as
/// it would have done. To be called before the terminal is made raw.
///
/// # Errors
/// What the kernel answered.
pub fn guard_terminal() -> io::Result<()> {
    register_signal_handler(libc::SIGTSTP, on_stop).map_err(io::Error::from)?;
    register_signal_handler(libc::SIGCONT, on_continue).map_err(io::Error::from)?;
    // Kept before any handler can ask for them.
    let faults = [action(libc::SIGSEGV)?, action(libc::SIGBUS)?];
    FAULT_ACTIONS.get_or_init(|| faults);
    for signal in FATAL {
        let mut fatal = action(signal)?;
        fatal.sa_sigaction = on_fatal as *const () as usize;
        // A stack that has overflowed holds no frame of a handler.
        fatal.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the action is one the kernel has told, with a handler of the type SA_SIGINFO
        // wants; what it calls is async-signal-safe.
        if unsafe { libc::sigaction(signal, &raw const fatal, ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// What Rust's runtime does about SIGSEGV and SIGBUS: it tells of a stack overflow.
static FAULT_ACTIONS: OnceLock<[libc::sigaction; 2]> = OnceLock::new();

// What the three call is async-signal-safe, and says so.
extern "C" fn on_stop(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    terminal::suspend();
}

extern "C" fn on_continue(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    terminal::reapply();
}

extern "C" fn on_fatal(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    terminal::restore();
    // SAFETY: the kernel has filled it in, as SA_SIGINFO was asked for.
    let sent = unsafe { (*info).si_code } <= 0;
    let fault = match (signal, FAULT_ACTIONS.get()) {
        (libc::SIGSEGV, Some([segv, _])) if !sent => Some(segv),
        (libc::SIGBUS, Some([_, bus])) if !sent => Some(bus),
        _ => None,
    };
    // SAFETY: all three are async-signal-safe; the action is the one that was there before.
    unsafe {
        match fault {
            // The instruction faults again when we return, and the runtime looks at it.
            Some(before) => {
                libc::sigaction(signal, ptr::from_ref(before), ptr::null_mut());
            }
            // Blocked while it is handled, it strikes when we return.
            None => {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
