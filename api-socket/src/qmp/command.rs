//! The commands: the one list that parsing, checking, `query-commands`, `query-qmp-schema`,
//! docs/control-socket.md and the VMM's dispatch all read.
//!
//! A line is: the documentation, the name on the wire, the variant, its arguments if it has any,
//! and what it returns; `oob` if it may run out of band, `takes_fd` if it takes the descriptor that
//! came with it. Names, arguments and returns are QEMU's; our own commands begin with `x-thimble-`.
//! To add one, add a line here and a `match` arm in the VMM's dispatch, and run the tests with
//! `UPDATE_GOLDENS=1`.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::QmpError;
use super::schema::{TypeId, TypeTableBuilder};
use super::types::*;

/// What is known of a command besides its doing.
#[derive(Debug)]
pub struct CommandSpec {
    /// The name on the wire.
    pub name: &'static str,
    /// One sentence or more for people, in Markdown.
    pub doc: &'static str,
    /// Whether `exec-oob` may run it.
    pub oob: bool,
    /// Whether it takes the descriptors that came with it.
    pub takes_fd: bool,
    /// Whether it has arguments at all.
    pub has_arguments: bool,
    /// Adds the type of its arguments to a table.
    pub(super) arguments: fn(&mut TypeTableBuilder) -> TypeId,
    /// Adds the type of its return to a table.
    pub(super) returns: fn(&mut TypeTableBuilder) -> TypeId,
    /// Reads arguments that have passed the schema's check.
    decode: fn(Map<String, Value>) -> Result<Command, QmpError>,
    /// Reads a return value into its type and writes it again.
    #[cfg(test)]
    pub(super) return_round_trip: fn(Value) -> Result<Value, serde_json::Error>,
    /// The same for arguments.
    #[cfg(test)]
    pub(super) arguments_round_trip: fn(Value) -> Result<Value, serde_json::Error>,
}

#[cfg(test)]
pub(super) fn round_trip<T: DeserializeOwned + serde::Serialize>(
    value: Value,
) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(value)?)
}

/// Reads arguments into their type. The schema has checked them; a failure here means that schema
/// and type disagree, which the tests rule out.
fn decode<T: DeserializeOwned>(arguments: Map<String, Value>) -> Result<T, QmpError> {
    T::deserialize(Value::Object(arguments)).map_err(QmpError::generic)
}

/// Whether `flag` is among `flags`; for the table below, at compile time.
const fn has_flag(flags: &[&str], flag: &str) -> bool {
    let mut index = 0;
    while index < flags.len() {
        if same_text(flags[index].as_bytes(), flag.as_bytes()) {
            return true;
        }
        index += 1;
    }
    false
}

const fn same_text(a: &[u8], b: &[u8]) -> bool {
    let mut index = 0;
    while index < a.len() && index < b.len() {
        if a[index] != b[index] {
            return false;
        }
        index += 1;
    }
    a.len() == b.len()
}

/// The type of a command's arguments: what the line says, or no members.
macro_rules! arguments_type {
    () => {
        Empty
    };
    ($arguments:ty) => {
        $arguments
    };
}

/// Builds a command from its arguments' members.
macro_rules! construct {
    ($variant:ident, $members:ident) => {{
        let _ = $members;
        Ok(Command::$variant)
    }};
    ($variant:ident, $members:ident, $arguments:ty) => {
        decode::<$arguments>($members).map(Command::$variant)
    };
}

macro_rules! commands {
    ($(
        $(#[doc = $doc:literal])+
        $name:literal $variant:ident $(($arguments:ty))? -> $returns:ty $(, $flag:ident)*;
    )+) => {
        /// A command with its arguments.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Command {
            $( $(#[doc = $doc])+ $variant $(($arguments))?, )+
        }

        /// Every command, in the order of the documentation.
        pub static COMMANDS: &[CommandSpec] = &[$(
            CommandSpec {
                name: $name,
                doc: concat!($($doc),+),
                oob: has_flag(&[$(stringify!($flag)),*], "oob"),
                takes_fd: has_flag(&[$(stringify!($flag)),*], "takes_fd"),
                has_arguments: !<[&str]>::is_empty(&[$(stringify!($arguments))?]),
                arguments: TypeTableBuilder::add::<arguments_type!($($arguments)?)>,
                returns: TypeTableBuilder::add::<$returns>,
                decode: |members| construct!($variant, members $(, $arguments)?),
                #[cfg(test)]
                return_round_trip: round_trip::<$returns>,
                #[cfg(test)]
                arguments_round_trip: round_trip::<arguments_type!($($arguments)?)>,
            },
        )+];

        impl Command {
            /// The name on the wire.
            pub fn name(&self) -> &'static str {
                match self {
                    $( Self::$variant { .. } => $name, )+
                }
            }
        }
    };
}

commands! {
    /// Ends the handshake. Until it has been answered no other command is taken and no event sent.
    "qmp_capabilities" QmpCapabilities(QmpCapabilitiesArguments) -> Empty;
    /// The version of QEMU whose commands these are, and ours.
    "query-version" QueryVersion -> VersionInfo;
    /// The names of all commands.
    "query-commands" QueryCommands -> Vec<CommandInfo>;
    /// The names of all events.
    "query-events" QueryEvents -> Vec<EventInfo>;
    /// Every command, event and type, in QEMU's introspection format.
    "query-qmp-schema" QueryQmpSchema -> Vec<SchemaInfo>;

    /// The guest's name.
    "query-name" QueryName -> NameInfo;
    /// The guest's UUID.
    "query-uuid" QueryUuid -> UuidInfo;
    /// The guest's architecture.
    "query-target" QueryTarget -> TargetInfo;
    /// Whether KVM runs the guest: always.
    "query-kvm" QueryKvm -> KvmInfo;
    /// The machine versions this build has.
    "query-machines" QueryMachines -> Vec<MachineInfo>;
    /// What the present machine can do.
    "query-current-machine" QueryCurrentMachine -> CurrentMachineParams;
    /// The command line's options, as far as clients of QEMU look for them: none.
    "query-command-line-options" QueryCommandLineOptions(QueryCommandLineOptionsArguments)
        -> Vec<CommandLineOptionInfo>;
    /// The VM generation identifier the guest sees.
    "query-vm-generation-id" QueryVmGenerationId -> GuidInfo;

    /// Whether the guest runs, and if not why.
    "query-status" QueryStatus -> StatusInfo;
    /// Stops all vCPUs. No error and no event if they are stopped.
    "stop" Stop -> Empty;
    /// Lets the vCPUs run. No error and no event if they run.
    "cont" Cont -> Empty;
    /// Ends the process, whatever the guest does.
    "quit" Quit -> Empty;
    /// Presses the power button; the guest may ignore it.
    "system_powerdown" SystemPowerdown -> Empty;
    /// Resets the machine.
    "system_reset" SystemReset -> Empty;
    /// Wakes a suspended guest.
    "system_wakeup" SystemWakeup -> Empty;
    /// Sends every vCPU a non-maskable interrupt.
    "inject-nmi" InjectNmi -> Empty;
    /// Sets what follows when the guest resets, powers off or panics.
    "set-action" SetAction(SetActionArguments) -> Empty;

    /// Writes guest memory to a file that crash and gdb open. The guest is stopped meanwhile.
    "dump-guest-memory" DumpGuestMemory(DumpGuestMemoryArguments) -> Empty;
    /// How far the dump is.
    "query-dump" QueryDump -> DumpQueryResult;
    /// The dump formats there are.
    "query-dump-guest-memory-capability" QueryDumpGuestMemoryCapability
        -> DumpGuestMemoryCapability;
    /// Writes a range of guest physical memory to a file.
    "pmemsave" Pmemsave(PmemsaveArguments) -> Empty;

    /// The vCPUs and their host threads.
    "query-cpus-fast" QueryCpusFast -> Vec<CpuInfoFast>;
    /// The places for vCPUs, highest first.
    "query-hotpluggable-cpus" QueryHotpluggableCpus -> Vec<HotpluggableCPU>;
    /// How much memory the guest has.
    "query-memory-size-summary" QueryMemorySizeSummary -> MemoryInfo;
    /// Memory devices.
    "query-memory-devices" QueryMemoryDevices -> Vec<MemoryDeviceInfo>;
    /// How much memory the balloon leaves the guest.
    "query-balloon" QueryBalloon -> BalloonInfo;
    /// Sets how much memory the balloon shall leave the guest.
    "balloon" Balloon(BalloonArguments) -> Empty;
    /// The I/O threads.
    "query-iothreads" QueryIothreads -> Vec<IOThreadInfo>;
    /// KVM's counters.
    "query-stats" QueryStats(QueryStatsArguments) -> Vec<StatsResult>;
    /// What KVM's counters count.
    "query-stats-schemas" QueryStatsSchemas(QueryStatsSchemasArguments) -> Vec<StatsSchema>;
    /// Our own counters: exits of each vCPU by reason, and those of each device.
    "x-thimble-query-counters" QueryCounters -> Vec<CounterGroup>;

    /// The disks.
    "query-block" QueryBlock -> Vec<BlockInfo>;
    /// The disks' counters.
    "query-blockstats" QueryBlockstats(QueryBlockstatsArguments) -> Vec<BlockStats>;
    /// The nodes of the block layer.
    "query-named-block-nodes" QueryNamedBlockNodes(QueryNamedBlockNodesArguments)
        -> Vec<BlockDeviceInfo>;
    /// Changes a disk's size; the guest is told.
    "block_resize" BlockResize(BlockResizeArguments) -> Empty;
    /// The character devices.
    "query-chardev" QueryChardev -> Vec<ChardevInfo>;

    /// Plugs a network card's cable in or out; the guest sees the carrier come and go.
    "set_link" SetLink(SetLinkArguments) -> Empty;
    /// What network cards receive, as their drivers set it up.
    "query-rx-filter" QueryRxFilter(QueryRxFilterArguments) -> Vec<RxFilterInfo>;
    /// Has the guest announce its addresses to the network, if its driver knows how.
    "announce-self" AnnounceSelf(AnnounceSelfArguments) -> Empty;
    /// Changes how much a device may move, at once.
    "x-thimble-set-limits" SetLimits(SetLimitsArguments) -> Empty;

    /// The jobs, finished ones included until they are dismissed.
    "query-jobs" QueryJobs -> Vec<JobInfo>;
    /// The jobs of the block layer.
    "query-block-jobs" QueryBlockJobs -> Vec<BlockJobInfo>;
    /// Gives up a job.
    "job-cancel" JobCancel(JobCancelArguments) -> Empty;
    /// Ends a job that is ready.
    "job-complete" JobComplete(JobCompleteArguments) -> Empty;
    /// Forgets a job that is over.
    "job-dismiss" JobDismiss(JobDismissArguments) -> Empty;
    /// Lets a job that is pending take effect.
    "job-finalize" JobFinalize(JobFinalizeArguments) -> Empty;
    /// Pauses a job.
    "job-pause" JobPause(JobPauseArguments) -> Empty;
    /// Resumes a paused job.
    "job-resume" JobResume(JobResumeArguments) -> Empty;

    /// Keeps the descriptor that came with it under a name, for this connection.
    "getfd" Getfd(GetfdArguments) -> Empty, takes_fd;
    /// Closes a descriptor kept by `getfd`.
    "closefd" Closefd(ClosefdArguments) -> Empty;
    /// Adds the descriptor that came with it to a set; `/dev/fdset/N` names the set.
    "add-fd" AddFd(AddFdArguments) -> AddfdInfo, takes_fd;
    /// Removes descriptors from a set.
    "remove-fd" RemoveFd(RemoveFdArguments) -> Empty;
    /// The sets.
    "query-fdsets" QueryFdsets -> Vec<FdsetInfo>;

    /// What can be yanked.
    "query-yank" QueryYank -> Vec<YankInstance>, oob;
    /// Cuts off peers that no longer answer.
    "yank" Yank(YankArguments) -> Empty, oob;
    /// Runs one line of QEMU's human monitor; what is wrong with the line is told in the text
    /// returned.
    "human-monitor-command" HumanMonitorCommand(HumanMonitorCommandArguments) -> String;
}

impl Command {
    /// Finds a command by its name on the wire.
    ///
    /// # Errors
    /// Class CommandNotFound.
    pub fn spec(name: &str) -> Result<&'static CommandSpec, QmpError> {
        // Some seventy names of mostly different lengths: quicker than a hash.
        COMMANDS
            .iter()
            .find(|spec| spec.name == name)
            .ok_or_else(|| QmpError::command_not_found(name))
    }
}

impl CommandSpec {
    /// Checks `arguments` and makes the command.
    ///
    /// # Errors
    /// The first thing wrong with the arguments, in QEMU's words.
    pub fn command(&'static self, arguments: Map<String, Value>) -> Result<Command, QmpError> {
        match arguments.keys().next() {
            Some(name) if !self.has_arguments => return Err(QmpError::unexpected(name)),
            _ if self.has_arguments => super::schema::check_arguments(self, &arguments)?,
            _ => {}
        }
        (self.decode)(arguments)
    }
}
