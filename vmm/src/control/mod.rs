//! Commands: from a typed command to the machine and back to a reply.
//!
//! One arm per command, each a call into the file of its subject; called on the main thread by the
//! main loop. What may be done in which state is not decided here but in [`crate::lifecycle`].

pub(crate) mod block;
mod chardev;
mod cpu;
pub(crate) mod dump;
pub(crate) mod events;
pub(crate) mod fds;
mod hmp;
mod info;
mod jobs;
mod memory;
mod net;
mod run_state;
pub(crate) mod stats;
mod yank;

use api_socket::qmp::command::Command;
use api_socket::qmp::error::QmpError;
use api_socket::qmp::session::{
    Reply, Request, query_commands, query_events, query_qmp_schema, version_info,
};

use crate::holding::Needs;
use crate::lifecycle::Input;
use crate::main_loop::MainLoop;
use api_socket::qmp::types::ShutdownCause;

/// What a command needs before it can be carried out.
pub(crate) fn needs(command: &Command) -> Needs {
    match command {
        Command::Quit => Needs::HeldToEnd,
        Command::Stop
        | Command::SystemReset
        | Command::InjectNmi
        | Command::BlockResize(_)
        | Command::SetLink(_)
        | Command::AnnounceSelf(_)
        | Command::DumpGuestMemory(_)
        // Its descriptors can be opened then only.
        | Command::QueryStats(_)
        | Command::QueryStatsSchemas(_) => Needs::Held,
        Command::HumanMonitorCommand(arguments) => hmp::needs(arguments),
        _ => Needs::Nothing,
    }
}

/// What a command comes to.
type Outcome = Result<Reply, QmpError>;

/// The reply to a command that returns nothing.
fn done(result: Result<(), QmpError>) -> Outcome {
    result.map(|()| Reply::empty())
}

fn value<T: serde::Serialize>(value: &T) -> Outcome {
    Ok(Reply::of(value))
}

/// Carries out a client's request and answers it, unless the answer comes later.
pub(crate) fn execute(main: &mut MainLoop, client: u32, request: Request) {
    let Request {
        token,
        command,
        fds,
        ..
    } = request;
    let command = match command {
        Command::DumpGuestMemory(arguments) => {
            return dump::start(main, client, token, &arguments);
        }
        Command::Pmemsave(arguments) => {
            return memory::pmemsave(main, client, token, &arguments);
        }
        other => other,
    };
    let outcome = match command {
        Command::Getfd(arguments) => done(fds::getfd(main, client, arguments, fds)),
        Command::Closefd(arguments) => {
            done(main.clients.take_fd(client, &arguments.fdname).map(drop))
        }
        Command::AddFd(arguments) => fds::add_fd(main, arguments, fds),
        other => answer(main, other),
    };
    main.clients.reply(client, token, outcome);
}

/// Commands that need neither the client nor time.
fn answer(main: &mut MainLoop, command: Command) -> Outcome {
    match command {
        Command::QueryVersion => value(&version_info()),
        Command::QueryCommands => Ok(query_commands()),
        Command::QueryEvents => Ok(query_events()),
        Command::QueryQmpSchema => Ok(query_qmp_schema()),

        Command::QueryName => value(&info::name(main)),
        Command::QueryUuid => value(&info::uuid(main)),
        Command::QueryTarget => value(&info::target()),
        Command::QueryKvm => value(&info::kvm()),
        Command::QueryMachines => value(&info::machines()),
        Command::QueryCurrentMachine => value(&info::current_machine()),
        Command::QueryCommandLineOptions(_) => value(&info::command_line_options()),
        Command::QueryVmGenerationId => value(&info::generation_id(main)),

        Command::QueryStatus => value(&run_state::status(main)),
        Command::Stop => run_state::input(main, Input::Stop),
        Command::Cont => run_state::input(main, Input::Cont),
        Command::Quit => run_state::input(main, Input::Quit(ShutdownCause::HostQmpQuit)),
        Command::SystemPowerdown => run_state::input(main, Input::SystemPowerdown),
        Command::SystemReset => run_state::input(main, Input::SystemReset),
        Command::SystemWakeup => done(run_state::wakeup()),
        Command::InjectNmi => done(run_state::inject_nmi(main)),
        Command::SetAction(arguments) => done(run_state::set_action(main, &arguments)),

        Command::QueryDump => value(&dump::query(main)),
        Command::QueryDumpGuestMemoryCapability => value(&dump::capability()),

        Command::QueryCpusFast => value(&cpu::cpus(main)),
        Command::QueryHotpluggableCpus => value(&cpu::hotpluggable(main)),
        Command::QueryMemorySizeSummary => value(&memory::summary(main)),
        Command::QueryMemoryDevices => value(&memory::devices()),
        Command::QueryBalloon | Command::Balloon(_) => Err(QmpError::no_balloon()),
        Command::QueryIothreads => value(&cpu::iothreads(main)),
        Command::QueryStats(arguments) => stats::query(main, &arguments).map(|s| Reply::of(&s)),
        Command::QueryStatsSchemas(arguments) => {
            stats::schemas(main, &arguments).map(|s| Reply::of(&s))
        }
        Command::QueryCounters => value(&stats::counters(main)),

        Command::QueryBlock => value(&block::query(main)),
        Command::QueryBlockstats(arguments) => value(&block::stats(main, &arguments)),
        Command::QueryNamedBlockNodes(_) => value(&block::nodes(main)),
        Command::BlockResize(arguments) => done(block::resize(main, &arguments)),
        Command::QueryChardev => value(&chardev::query(main)),

        Command::SetLink(arguments) => done(net::set_link(main, &arguments)),
        Command::QueryRxFilter(arguments) => {
            net::query_rx_filter(main, &arguments).map(|filters| Reply::of(&filters))
        }
        Command::AnnounceSelf(arguments) => done(net::announce_self(main, &arguments)),
        Command::SetLimits(arguments) => done(net::set_limits(main, &arguments)),

        Command::QueryJobs => value(&jobs::query(main)),
        Command::QueryBlockJobs => value(&jobs::query_block()),
        Command::JobCancel(job) => done(jobs::cancel(main, &job.id)),
        Command::JobComplete(job) => done(jobs::refuse(main, &job.id, "complete")),
        Command::JobDismiss(job) => done(jobs::dismiss(main, &job.id)),
        Command::JobFinalize(job) => done(jobs::refuse(main, &job.id, "finalize")),
        Command::JobPause(job) => done(jobs::refuse(main, &job.id, "pause")),
        Command::JobResume(job) => done(jobs::refuse(main, &job.id, "resume")),

        Command::RemoveFd(arguments) => done(main.fd_sets.remove(&arguments)),
        Command::QueryFdsets => value(&main.fd_sets.query()),
        Command::QueryYank => value(&yank::query()),
        Command::Yank(arguments) => done(yank::yank(&arguments)),
        Command::HumanMonitorCommand(arguments) => value(&hmp::run(main, &arguments)),

        // Carried out by the session, or by `execute`.
        Command::QmpCapabilities(_)
        | Command::DumpGuestMemory(_)
        | Command::Pmemsave(_)
        | Command::Getfd(_)
        | Command::Closefd(_)
        | Command::AddFd(_) => Err(QmpError::generic("internal error: misrouted command")),
    }
}
