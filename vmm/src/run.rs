//! The verb `run`: from the command line to the guest's end.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api_socket::config::{Actions, Checked, CheckedSerial, LogLevel};
use devices::chardev::open::{self as chardev_open, Spec};
use devices::chardev::terminal::RawTerminal;
use devices::chardev::{Backend, Chardev};
use log::LevelFilter;

use crate::arch::x86_64::cpuid::CpuRequest;
use crate::builder::{self, Parts};
use crate::cli::ExitStatus;
use crate::cli::run::{Effective, RunArgs, effective_config};
use crate::console::Console;
use crate::daemon::{self, PidFile, Readiness, Side};
use crate::farewell;
use crate::launch::{self, Inherited};
use crate::lifecycle::{Ending, Policy};
use crate::logging;
use crate::machine::Machine;
use crate::main_loop::{Ended, MainLoop, Start};
use crate::signals::{Signals, guard_terminal};

/// Whatever went wrong; printed once, by the caller, with all its causes.
type Failure = Box<dyn std::error::Error>;

/// Runs `thimble run`.
///
/// # Errors
/// What made it impossible; the exit status is then [`ExitStatus::Failed`].
pub fn run(args: &RunArgs) -> Result<ExitStatus, Failure> {
    let effective = match effective_config(args, &mut io::stdin().lock()) {
        Ok(effective) => effective,
        Err(problems) => {
            writeln!(io::stderr(), "thimble: {problems}")?;
            return Ok(ExitStatus::Usage);
        }
    };
    let Effective {
        config,
        checked,
        cpu,
    } = effective;
    if args.dump_config {
        let text = config.to_json()?;
        printed(io::stdout().write_all(text.as_bytes()))?;
        return Ok(ExitStatus::Clean);
    }
    // Before anything is opened, the pipe of the split included.
    let inherited = launch::inherited(&checked)?;
    if !checked.daemonize {
        return machine(checked, cpu, inherited, None);
    }
    match daemon::split()? {
        Side::Parent(status) => Ok(status),
        Side::Child(readiness) => machine(checked, cpu, inherited, Some(readiness)),
    }
}

/// What became of text for standard output. A reader that goes away early has what it wanted.
///
/// # Errors
/// The system's answer, with what it is about.
pub fn printed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("cannot write to standard output: {error}"),
        )),
        Ok(()) => Ok(()),
    }
}

/// Opens, builds and runs one machine.
fn machine(
    config: Checked,
    cpu: CpuRequest,
    inherited: Inherited,
    readiness: Option<Readiness>,
) -> Result<ExitStatus, Failure> {
    launch::spare_inputs(&config)?;
    logging::install(level(config.log.level), launch::log_file(&config)?);
    one_heap();
    // Before the first thread, so that every thread has them blocked.
    let signals = Signals::block()?;
    let pid_file = config.pidfile.as_deref().map(PidFile::create).transpose()?;
    let mut control = launch::control(&config, inherited.control)?;
    let boot = launch::boot_source(&config)?;
    let disks = launch::disks(&config)?;
    let nets = launch::nets(&config, inherited.taps)?;
    let vsock = launch::vsock(&config, &mut control.files)?;
    let (chardev, terminal) = console(&config)?;
    if let CheckedSerial::Socket(path) = &config.serial {
        control.files.add(path);
    }

    let policy = policy(&config);
    let paused = config.paused;
    let parts = Parts {
        cpu,
        boot,
        disks,
        nets,
        vsock,
        serial: Box::new(chardev.output()),
        clock: Box::new(wall_clock),
    };
    let (machine, events) = builder::build(config, parts)?;
    let mut main_loop = MainLoop::new(Start {
        machine,
        events,
        policy,
        console: Console::new(chardev, terminal),
        listeners: control.listeners,
        signals,
    })?;
    main_loop.start(paused)?;
    if let Some(readiness) = readiness {
        readiness.announce()?;
    }
    let Ended { ending, machine } = main_loop.run()?;
    // What others can see goes first, then what only the kernel has to deal with.
    let last = machine.map(Machine::dismantle);
    drop((control.files, pid_file));
    if let Err(error) = farewell::close_later(last.unwrap_or_default()) {
        log::debug!("the end of the machine is waited for: {error}");
    }
    Ok(match ending {
        Ending::Clean => ExitStatus::Clean,
        Ending::Crashed => ExitStatus::GuestCrashed,
    })
}

/// Keeps the C library from giving every thread a heap of its own: threads here hardly allocate,
/// and each heap costs resident memory and four system calls at the thread's start.
#[expect(unsafe_code, reason = "mallopt has no safe wrapper")]
fn one_heap() {
    // SAFETY: called while there is one thread; the parameter takes any positive number. A failure
    // would change nothing but the cost.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// COM1's host side; on a terminal, raw from here on.
fn console(config: &Checked) -> Result<(Chardev, Option<RawTerminal>), Failure> {
    let spec = match &config.serial {
        CheckedSerial::Stdio => Spec::Stdio,
        CheckedSerial::Null => Spec::Null,
        CheckedSerial::File(path) => Spec::File(path.clone()),
        CheckedSerial::Pty => Spec::Pty,
        CheckedSerial::Socket(path) => Spec::Socket(path.clone()),
    };
    let backend = chardev_open::open(&spec)?;
    let stdin = io::stdin();
    let terminal = match &backend {
        Backend::Stdio { .. } if stdin.is_terminal() => {
            guard_terminal()?;
            Some(RawTerminal::enter(rustix::stdio::stdin())?)
        }
        _ => None,
    };
    let chardev = Chardev::new("serial0", backend)?;
    if spec == Spec::Pty {
        // As QEMU says it; scripts look for the path.
        let path = chardev.info().filename;
        let path = path.strip_prefix("pty:").unwrap_or(&path);
        writeln!(
            io::stderr(),
            "char device redirected to {path} (label serial0)"
        )?;
    }
    Ok((chardev, terminal))
}

fn policy(config: &Checked) -> Policy {
    let Actions {
        on_reboot,
        on_poweroff,
        on_panic,
    } = config.actions;
    Policy {
        reboot: on_reboot,
        shutdown: on_poweroff,
        panic: on_panic,
        attended: !config.control.is_empty(),
    }
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::Off,
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    }
}

fn wall_clock() -> Duration {
    // A host clock before 1970 is a broken one; the guest then starts at 1970.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
