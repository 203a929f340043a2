//! A real terminal as the console: raw while the guest runs, the escape keys, and as it was after
//! every end.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use harness::guest::{Guest, Launch, status};
use harness::{guests, obey, skip};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};

use crate::boot::PROMPT;

/// A terminal; the guest's side is kept open, so that its modes can be looked at to the end.
struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Terminal {
    #[track_caller]
    fn open() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        Self { master, slave }
    }

    /// Everything that can be set.
    #[track_caller]
    fn modes(&self) -> String {
        let Termios {
            input_modes,
            output_modes,
            control_modes,
            local_modes,
            ..
        } = tcgetattr(&self.slave).unwrap();
        format!("{input_modes:?} {output_modes:?} {control_modes:?} {local_modes:?}")
    }

    #[track_caller]
    fn is_raw(&self) -> bool {
        let cooked = LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        !tcgetattr(&self.slave)
            .unwrap()
            .local_modes
            .intersects(cooked)
    }

    #[track_caller]
    fn start(&self, launch: Launch) -> Guest {
        let side = || Stdio::from(self.slave.try_clone().unwrap());
        let mut guest = launch.start_on(side(), side());
        guest.attach(self.master.try_clone().unwrap());
        guest
    }
}

/// Starts on a terminal, sees it raw, ends the guest by `end`, and sees the terminal as before.
#[track_caller]
fn restored(launch: Launch, code: i32, end: impl FnOnce(&mut Guest)) {
    if skip::without_kvm() {
        return;
    }
    let terminal = Terminal::open();
    let before = terminal.modes();
    let mut guest = terminal.start(launch);
    obey::ready(&mut guest);
    assert!(terminal.is_raw());
    end(&mut guest);
    // Its other end stays open here, so that the console has no end.
    guest.detach();
    guest.expect_exit(code);
    assert_eq!(terminal.modes(), before);
}

#[test]
fn restored_after_the_guest_powered_off() {
    restored(obey::launch(), status::CLEAN, |guest| {
        obey::tell(guest, "poweroff");
    });
}

#[test]
fn restored_after_the_escape_key() {
    restored(obey::launch(), status::CLEAN, |guest| {
        guest.type_bytes(b"\x01x");
    });
}

/// SIGHUP as a terminal's jobs have it, however the tests were started.
const HEARS_HUP: [&str; 2] = ["env", "--default-signal=HUP"];

#[test]
fn restored_after_signals_that_ask_to_end() {
    for signal in [
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::IO,
        Signal::POWER,
        Signal::STKFLT,
        Signal::XCPU,
    ] {
        let launch = Launch::under(&HEARS_HUP).kernel(guests::OBEY, "");
        restored(launch, status::CLEAN, |guest| guest.signal(signal));
    }
}

/// The process ends as such a signal ends it, for whoever looks at its status or its core.
#[test]
fn restored_after_signals_of_faults() {
    if skip::without_kvm() {
        return;
    }
    for signal in [
        Signal::ABORT,
        Signal::SEGV,
        Signal::BUS,
        Signal::ILL,
        Signal::FPE,
        Signal::TRAP,
        Signal::SYS,
    ] {
        let terminal = Terminal::open();
        let before = terminal.modes();
        let no_core = ["sh", "-c", "ulimit -c 0 && exec \"$0\" \"$@\""];
        let launch = Launch::under(&no_core).kernel(guests::OBEY, "");
        let mut guest = terminal.start(launch);
        obey::ready(&mut guest);
        assert!(terminal.is_raw());
        guest.signal(signal);
        guest.detach();
        assert_eq!(guest.wait().signal(), Some(signal.as_raw()), "{signal:?}");
        assert_eq!(terminal.modes(), before, "{signal:?}");
    }
}

#[test]
fn a_hang_up_that_was_to_be_ignored_is() {
    if skip::without_kvm() {
        return;
    }
    let nohup = ["sh", "-c", "trap '' HUP && exec \"$0\" \"$@\""];
    let mut guest = Launch::under(&nohup).kernel(guests::OBEY, "").start();
    obey::ready(&mut guest);
    guest.signal(Signal::HUP);
    obey::tell(&mut guest, "poweroff");
    guest.expect_exit(status::CLEAN);
}

/// Ctrl-Z goes to the guest, so a stop comes from outside.
#[test]
fn given_back_while_stopped_and_raw_again_after() {
    if skip::without_kvm() {
        return;
    }
    let terminal = Terminal::open();
    let before = terminal.modes();
    let mut guest = terminal.start(Launch::new());
    guest.expect(PROMPT);
    guest.signal(Signal::TSTP);
    let pid = Pid::from_raw(i32::try_from(guest.pid()).unwrap()).unwrap();
    let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), stopped).unwrap();
    assert_eq!(terminal.modes(), before);
    guest.signal(Signal::CONT);
    guest.type_line("still here");
    guest.expect("still here");
    guest.expect(PROMPT);
    assert!(terminal.is_raw());
    guest.type_line("poweroff");
    guest.detach();
    guest.expect_exit(status::CLEAN);
    assert_eq!(terminal.modes(), before);
}

#[test]
fn restored_after_a_crash() {
    restored(obey::launch(), status::CRASHED, |guest| {
        obey::tell(guest, "pvpanic 1 1");
    });
    restored(obey::launch(), status::CRASHED, |guest| {
        obey::tell(guest, "unknown-instruction");
    });
}

#[test]
fn left_alone_when_the_guest_cannot_be_started() {
    let terminal = Terminal::open();
    let before = terminal.modes();
    let mut guest = terminal.start(Launch::new().args(["--kernel", "absent"]));
    guest.detach();
    guest.expect_exit(status::FAILED);
    assert_eq!(terminal.modes(), before);
    // Opened, but not to be booted.
    let launch = Launch::new();
    let rubbish = launch.path("rubbish");
    std::fs::write(&rubbish, "rubbish").unwrap();
    let mut guest = terminal.start(launch.kernel(&rubbish, ""));
    guest.detach();
    guest.expect_exit(status::FAILED);
    assert_eq!(terminal.modes(), before);
}

#[test]
fn the_escape_keys_help_quit_and_pass_themselves_on() {
    if skip::without_kvm() {
        return;
    }
    let terminal = Terminal::open();
    let mut guest = terminal.start(Launch::new());
    guest.expect(PROMPT);
    guest.type_bytes(b"\x01h");
    let help = guest.expect("Ctrl-A a");
    assert!(help.contains("Ctrl-A x"), "{help}");
    // Ctrl-C is the guest's.
    guest.type_bytes(b"text\x03");
    guest.expect("^C");
    guest.expect(PROMPT);
    guest.type_bytes(b"\x01x");
    guest.detach();
    guest.expect_exit(status::CLEAN);
}

#[test]
fn the_escape_key_works_on_a_guest_that_reads_nothing() {
    if skip::without_kvm() {
        return;
    }
    let terminal = Terminal::open();
    let mut guest = terminal.start(Launch::new().kernel(guests::HALT, ""));
    guest.expect("HALT now");
    guest.type_bytes(&[b'z'; 3000]);
    guest.type_bytes(b"\x01x");
    guest.detach();
    guest.expect_exit(status::CLEAN);
}

#[test]
fn a_terminal_that_hangs_up_ends_the_guest_on_it() {
    if skip::without_kvm() || skip::without_program("setsid") {
        return;
    }
    let terminal = Terminal::open();
    let launch = Launch::under(&[HEARS_HUP.as_slice(), &["setsid", "--ctty"]].concat())
        .kernel(guests::OBEY, "");
    let mut guest = terminal.start(launch);
    obey::ready(&mut guest);
    guest.detach();
    drop(terminal);
    guest.expect_exit(status::CLEAN);
}

#[test]
fn ends_that_are_no_terminal_are_left_as_they_are() {
    if skip::without_kvm() {
        return;
    }
    // Typed at through a pipe, shown on a terminal: nothing of it is ours to set.
    let terminal = Terminal::open();
    let before = terminal.modes();
    let output = Stdio::from(terminal.slave.try_clone().unwrap());
    let mut guest = obey::launch().start_on(Stdio::null(), output);
    guest.attach(terminal.master.try_clone().unwrap());
    obey::ready(&mut guest);
    assert_eq!(terminal.modes(), before);
    guest.signal(Signal::TERM);
    guest.detach();
    guest.expect_exit(status::CLEAN);
    assert!(rustix::termios::isatty(terminal.slave.as_fd()));
}
