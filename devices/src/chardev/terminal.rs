//! The terminal on stdin: raw while the guest uses it, and as it was after that, however we end.
//!
//! There is one per process, because there is one controlling terminal, and because signal handlers
//! must find it. Entered by the launcher on the main thread. It is put back when the guard is
//! dropped, by exit(3), and by a panic (the panic hook, so that `panic = "abort"` does too). What
//! the process does about signals is its own business; for that there are [`restore`], to be called
//! before a signal is allowed to end the process (whether it asks for that or tells of a fault),
//! [`suspend`] for SIGTSTP and [`reapply`] for SIGCONT. All three are async-signal-safe: atomics and system
//! calls.
//!
//! Setting a terminal from a background job would stop us (SIGTTOU); then nothing is set, for the
//! shell has put the terminal in order itself, and [`reapply`] sets it when we are in front again.

#![expect(unsafe_code, reason = "atexit(3) has no safe wrapper")]

use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::process::{Signal, getpgrp, getpid, kill_process};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty,
    tcgetattr, tcgetpgrp, tcsetattr,
};

static TERMINAL: OnceLock<Terminal> = OnceLock::new();

struct Terminal {
    fd: OwnedFd,
    cooked: Termios,
    raw: Termios,
    /// The guard lives.
    in_use: AtomicBool,
    /// Raw mode was set and not taken back.
    is_raw: AtomicBool,
}

/// Why the terminal cannot be used raw.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// It is none.
    #[error("standard input is not a terminal")]
    NotATerminal,
    /// It was entered before in this process.
    #[error("the terminal has been set up already")]
    Twice,
    /// The host refused.
    #[error("cannot set the terminal to raw mode")]
    Os(#[from] Errno),
}

/// Keeps the terminal raw. Dropping it restores the terminal.
#[derive(Debug)]
#[must_use = "the terminal is restored when this is dropped"]
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes the terminal `fd` raw: every key reaches the guest at once and unechoed, also Ctrl-C
    /// and Ctrl-Z. Output stays processed, so that messages of ours look right among the guest's.
    ///
    /// # Errors
    /// [`TerminalError`]; the terminal is then as it was.
    pub fn enter(fd: BorrowedFd<'_>) -> Result<Self, TerminalError> {
        if !isatty(fd) {
            return Err(TerminalError::NotATerminal);
        }
        let cooked = tcgetattr(fd)?;
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 3)?;
        let raw = raw_modes(cooked.clone());
        let (in_use, is_raw) = (AtomicBool::new(true), AtomicBool::new(false));
        let terminal = Terminal {
            fd,
            cooked,
            raw,
            in_use,
            is_raw,
        };
        if TERMINAL.set(terminal).is_err() {
            return Err(TerminalError::Twice);
        }
        let guard = Self(());
        restore_on_panic_and_exit();
        if let Some(terminal) = TERMINAL.get() {
            terminal.make_raw()?;
        }
        Ok(guard)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(terminal) = TERMINAL.get() {
            terminal.in_use.store(false, Ordering::SeqCst);
        }
        restore();
    }
}

impl Terminal {
    fn make_raw(&self) -> Result<(), Errno> {
        if self.is_foreign() {
            return Ok(());
        }
        // Noted first: a signal in between restores a terminal that needs none, not the reverse.
        self.is_raw.store(true, Ordering::SeqCst);
        tcsetattr(&self.fd, OptionalActions::Now, &self.raw)
    }

    /// Whether another job has the terminal. A terminal that is not our session's has no jobs.
    fn is_foreign(&self) -> bool {
        tcgetpgrp(&self.fd).is_ok_and(|front| front != getpgrp())
    }
}

/// Puts the terminal back if it is raw. Async-signal-safe, on any thread, any number of times.
pub fn restore() {
    if let Some(terminal) = TERMINAL.get()
        && terminal.is_raw.swap(false, Ordering::SeqCst)
        && !terminal.is_foreign()
    {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(&terminal.fd, OptionalActions::Now, &terminal.cooked);
    }
}

/// Makes the terminal raw again while its guard lives: after SIGCONT. Async-signal-safe.
pub fn reapply() {
    if let Some(terminal) = TERMINAL.get()
        && terminal.in_use.load(Ordering::SeqCst)
    {
        // As in `restore`.
        let _ = terminal.make_raw();
    }
}

/// Restores the terminal, stops the process, and goes on when it is continued: the action for
/// SIGTSTP. Async-signal-safe.
pub fn suspend() {
    restore();
    // A process may always signal itself.
    let _ = kill_process(getpid(), Signal::STOP);
    reapply();
}

fn restore_on_panic_and_exit() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        restore();
        previous(info);
    }));
    extern "C" fn at_exit() {
        restore();
    }
    // SAFETY: the argument is a function of the type atexit(3) wants, which lives as long as the
    // program, takes no arguments and does not unwind: `restore` does not panic.
    let refused = unsafe { libc::atexit(at_exit) };
    if refused != 0 {
        log::warn!("the terminal will not be restored by exit(3)");
    }
}

fn raw_modes(mut modes: Termios) -> Termios {
    modes.input_modes.remove(
        InputModes::IGNBRK
            | InputModes::BRKINT
            | InputModes::PARMRK
            | InputModes::ISTRIP
            | InputModes::INLCR
            | InputModes::IGNCR
            | InputModes::ICRNL
            | InputModes::IXON,
    );
    modes.local_modes.remove(
        LocalModes::ECHO
            | LocalModes::ECHONL
            | LocalModes::ICANON
            | LocalModes::ISIG
            | LocalModes::IEXTEN,
    );
    modes
        .control_modes
        .remove(ControlModes::CSIZE | ControlModes::PARENB);
    modes.control_modes.insert(ControlModes::CS8);
    // A read returns as soon as there is one byte.
    modes.special_codes[SpecialCodeIndex::VMIN] = 1;
    modes.special_codes[SpecialCodeIndex::VTIME] = 0;
    modes
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::OutputModes;

    use super::*;

    /// One test, because there is one terminal per process.
    #[test]
    fn the_terminal_is_raw_while_the_guard_lives_and_restored_by_every_way_out() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(
            RawTerminal::enter(null.as_fd()),
            Err(TerminalError::NotATerminal)
        ));

        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let is_cooked = || {
            let modes = tcgetattr(&slave).unwrap();
            assert!(modes.output_modes.contains(OutputModes::OPOST));
            let cooked = LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
            let now = modes.local_modes & cooked;
            assert!(now.is_empty() || now == cooked);
            now == cooked
        };
        assert!(is_cooked());
        restore();
        reapply();
        assert!(is_cooked());

        let guard = RawTerminal::enter(slave.as_fd()).unwrap();
        assert!(!is_cooked());
        assert!(matches!(
            RawTerminal::enter(slave.as_fd()),
            Err(TerminalError::Twice)
        ));
        assert!(!is_cooked());
        restore();
        assert!(is_cooked());
        restore();
        reapply();
        assert!(!is_cooked());
        // Caught here, an abort in a release build: the hook runs first.
        let result = panic::catch_unwind(|| panic!("the terminal test's own panic"));
        assert!(result.is_err());
        assert!(is_cooked());
        reapply();
        assert!(!is_cooked());
        drop(guard);
        assert!(is_cooked());
        reapply();
        assert!(is_cooked());
    }
}
