//! `dump-guest-memory`: start, progress, end.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use api_socket::qmp::error::QmpError;
use api_socket::qmp::event::Event;
use api_socket::qmp::session::{Reply, Token};
use api_socket::qmp::types::{
    DumpCompletedData, DumpGuestMemoryArguments, DumpGuestMemoryCapability, DumpGuestMemoryFormat,
    DumpQueryResult, DumpStatus, JobStatus, JobStatusChangeData,
};
use devices::disk::lock::{self, LockError};
use devices::memory::GuestMemory;
use firmware::layout::AddressRange;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use crate::arch::x86_64::entry;
use crate::daemon::as_started;
use crate::dump::{DumpPlan, Filter, VcpuRegisters};
use crate::dump_job::{About, Finished, Waiting, Work, remove_incomplete};
use crate::kvm::{KvmError, VcpuHandle, failed};
use crate::lifecycle::{self, Input};
use crate::machine::Quiesced;
use crate::main_loop::MainLoop;

/// IA32_KERNEL_GS_BASE: what SWAPGS exchanges.
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// The id of the job in `query-jobs`.
pub(super) const JOB_ID: &str = "x-thimble-dump";

pub(super) fn capability() -> DumpGuestMemoryCapability {
    DumpGuestMemoryCapability {
        formats: vec![DumpGuestMemoryFormat::Elf],
    }
}

pub(super) fn query(main: &MainLoop) -> DumpQueryResult {
    match main.dump.progress() {
        Some((completed, total)) => result(DumpStatus::Active, completed, total),
        None => main.last_dump.clone(),
    }
}

/// Bytes as the signed numbers of the wire.
fn result(status: DumpStatus, completed: u64, total: u64) -> DumpQueryResult {
    let wire = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    DumpQueryResult {
        status,
        completed: wire(completed),
        total: wire(total),
    }
}

/// Starts a dump; the answer comes at its end, or at once if the client asked to be detached.
pub(super) fn start(
    main: &mut MainLoop,
    client: u32,
    token: Token,
    arguments: &DumpGuestMemoryArguments,
) {
    let detach = arguments.detach == Some(true);
    let prepared = prepare(main, client, arguments);
    let (file, created, filter) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return main.clients.reply(client, token, Err(error)),
    };
    let asker = Some(Waiting { client, token });
    let (waiting, answer_now) = if detach { (None, asker) } else { (asker, None) };
    let mut about = About {
        dump: true,
        total: 0,
        resume: lifecycle::runs(main.state),
        created,
        waiting,
    };
    main.must(Input::Stop);
    let memory = main.machine.ram.memory().clone();
    let plan = match plan(&mut main.machine.hold(), &memory, filter) {
        Ok(plan) => plan,
        Err(error) => return not_started(main, about, answer_now, error),
    };
    about.total = plan.total_bytes();
    let started = main.dump.start(Work::Dump(plan), memory, file, about);
    if let Err(refused) = started {
        let error = QmpError::generic(crate::chain::text(&refused));
        return not_started(main, *refused.about, answer_now, error);
    }
    tell_job(main, &[JobStatus::Created, JobStatus::Running]);
    if let Some(Waiting { client, token }) = answer_now {
        main.clients.reply(client, token, Ok(Reply::empty()));
    }
}

/// Undoes what was done for a job that cannot start, and answers whoever asked for it.
pub(super) fn not_started(
    main: &mut MainLoop,
    about: About,
    answer_now: Option<Waiting>,
    error: QmpError,
) {
    remove_incomplete(about.created.as_ref(), false);
    if about.resume {
        main.resume_after_job();
    }
    if let Some(Waiting { client, token }) = about.waiting.or(answer_now) {
        main.clients.reply(client, token, Err(error));
    }
}

/// The dump's layout, with the registers of every vCPU in it.
fn plan(
    machine: &mut Quiesced<'_>,
    memory: &GuestMemory,
    filter: Option<Filter>,
) -> Result<DumpPlan, QmpError> {
    let registers: Result<Vec<_>, _> = machine.vcpus().map(|vcpu| vcpu_registers(vcpu)).collect();
    let registers = registers.map_err(|error| {
        let error = crate::chain::text(&error);
        QmpError::generic(format_args!("cannot read the registers of a CPU: {error}"))
    })?;
    DumpPlan::new(&registers, &ram_regions(memory), filter).map_err(QmpError::generic)
}

fn vcpu_registers(vcpu: &VcpuHandle) -> Result<VcpuRegisters, KvmError> {
    Ok(VcpuRegisters {
        regs: vcpu.fd().get_regs().map_err(failed("KVM_GET_REGS"))?,
        sregs: vcpu.fd().get_sregs().map_err(failed("KVM_GET_SREGS"))?,
        kernel_gs_base: entry::get_msr(vcpu, KERNEL_GS_BASE)?,
    })
}

fn ram_regions(memory: &GuestMemory) -> Vec<AddressRange> {
    memory
        .iter()
        .map(|region| AddressRange {
            start: region.start_addr().raw_value(),
            len: region.len(),
        })
        .collect()
}

/// Everything that can be wrong with the request, before anything is done.
fn prepare(
    main: &mut MainLoop,
    client: u32,
    arguments: &DumpGuestMemoryArguments,
) -> Result<(File, Option<PathBuf>, Option<Filter>), QmpError> {
    if main.dump.busy() {
        return Err(QmpError::generic(
            "There is a dump in process, please wait.",
        ));
    }
    if arguments.paging {
        return Err(QmpError::generic(
            "Parameter 'paging' must be false: crash and gdb find the mappings by themselves",
        ));
    }
    let filter = match (arguments.begin, arguments.length) {
        (None, None) => None,
        (Some(begin), Some(length)) => match (u64::try_from(begin), u64::try_from(length)) {
            (Ok(begin), Ok(length)) => Some(Filter { begin, length }),
            _ => {
                return Err(QmpError::generic(
                    "Parameter 'begin' or 'length' is negative",
                ));
            }
        },
        (Some(_), None) => return Err(QmpError::missing("length")),
        (None, Some(_)) => return Err(QmpError::missing("begin")),
    };
    let protocol = arguments.protocol.as_str();
    let (file, created) = if let Some(path) = protocol.strip_prefix("file:") {
        open_output(main, path)?
    } else if let Some(name) = protocol.strip_prefix("fd:") {
        (File::from(main.clients.take_fd(client, name)?), None)
    } else {
        return Err(QmpError::generic(
            "parameter 'protocol' must start with 'file:' or 'fd:'",
        ));
    };
    Ok((file, created, filter))
}

/// Opens or makes the file a client names, or takes it from a set of descriptors. The second value
/// is the path, if the file is new and so ours to remove. One that was there is emptied later, when
/// the job begins to write.
pub(super) fn open_output(
    main: &MainLoop,
    path: &str,
) -> Result<(File, Option<PathBuf>), QmpError> {
    if let Some(member) = main.fd_sets.open(path) {
        return Ok((File::from(member?), None));
    }
    let refused = |why: &str| QmpError::generic(format_args!("Could not open '{path}': {why}"));
    let failed = |error: &io::Error| refused(&crate::chain::text(error));
    // O_NONBLOCK: a FIFO without a reader is an error, and never a hang.
    let mut options = OpenOptions::new();
    options
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC);
    let place = as_started(Path::new(path));
    match options.clone().create_new(true).open(&place) {
        Ok(file) => return Ok((file, Some(place.into_owned()))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(&error)),
    }
    let file = options.open(&place).map_err(|error| failed(&error))?;
    // Where the host knows no such locks, nobody could have taken any.
    if let Err(LockError::Busy { .. }) = lock::check_unused(&file) {
        return Err(refused("it is the image of a disk in use"));
    }
    Ok((file, None))
}

/// Finishes what a job began. Returns the client that got its answer.
pub(crate) fn finished(main: &mut MainLoop) -> Option<u32> {
    let Finished {
        about,
        completed,
        result: outcome,
    } = main.dump.take_finished()?;
    remove_incomplete(about.created.as_ref(), outcome.is_ok());
    if about.dump {
        let status = if outcome.is_ok() {
            DumpStatus::Completed
        } else {
            DumpStatus::Failed
        };
        main.last_dump = result(status, completed, about.total);
        if outcome.is_err() {
            tell_job(main, &[JobStatus::Aborting]);
        }
        tell_job(main, &[JobStatus::Concluded]);
        let error = outcome.as_ref().err().cloned();
        let data = DumpCompletedData {
            result: main.last_dump.clone(),
            error,
        };
        main.tell(Event::DumpCompleted(data));
        tell_job(main, &[JobStatus::Null]);
        if about.resume {
            main.resume_after_job();
        } else {
            main.guest_events();
        }
    }
    let Waiting { client, token } = about.waiting?;
    let reply = match outcome {
        Ok(()) => Ok(Reply::empty()),
        Err(text) if about.dump => Err(QmpError::generic(format_args!("dump: {text}"))),
        Err(text) => Err(QmpError::generic(format_args!("pmemsave: {text}"))),
    };
    main.clients.reply(client, token, reply);
    Some(client)
}

fn tell_job(main: &mut MainLoop, statuses: &[JobStatus]) {
    for &status in statuses {
        let data = JobStatusChangeData {
            id: JOB_ID.to_owned(),
            status,
        };
        main.tell(Event::JobStatusChange(data));
    }
}
