//! Run states, and what follows when the guest stops, resets or panics. The actions are those of
//! the configuration too.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of the guest as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Stopped by a debugger.
    Debug,
    /// Waits for an incoming migration.
    Inmigrate,
    /// KVM or the VMM failed; the guest cannot run on.
    InternalError,
    /// Stopped because a disk failed.
    IoError,
    /// Stopped by `stop`.
    Paused,
    /// Handed over to another process.
    Postmigrate,
    /// Not started yet.
    Prelaunch,
    /// Stopped for the last part of an outgoing migration.
    FinishMigrate,
    /// Its state is being restored.
    RestoreVm,
    /// Runs.
    Running,
    /// Its state is being saved.
    SaveVm,
    /// Has powered off, and the process was told to stay.
    Shutdown,
    /// Asleep; `system_wakeup` wakes it.
    Suspended,
    /// The watchdog fired with action `pause`.
    Watchdog,
    /// Has panicked and was stopped.
    GuestPanicked,
    /// Part of a COLO pair; never here.
    Colo,
}

/// Return of `query-status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusInfo {
    /// Whether vCPUs run.
    pub running: bool,
    /// The state.
    pub status: RunState,
}

/// Why the guest was shut down or reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownCause {
    /// No reason is known.
    None,
    /// The VMM failed.
    HostError,
    /// `quit`.
    HostQmpQuit,
    /// `system_reset`.
    HostQmpSystemReset,
    /// A signal to the process.
    HostSignal,
    /// The terminal's quit key.
    HostUi,
    /// The guest asked to power off.
    GuestShutdown,
    /// The guest asked to be reset, or a triple fault did.
    GuestReset,
    /// The guest panicked.
    GuestPanic,
    /// A part of the machine was reset, not all of it.
    SubsystemReset,
    /// A snapshot was loaded.
    SnapshotLoad,
}

/// What a guest's reset does.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RebootAction {
    /// The machine is reset and starts again.
    #[default]
    Reset,
    /// The machine is shut down instead.
    Shutdown,
}

/// What a guest's power off does.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownAction {
    /// thimble ends.
    #[default]
    Poweroff,
    /// The machine stays, stopped, and the control socket goes on answering.
    Pause,
}

/// What a guest's panic does.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PanicAction {
    /// The machine stays, stopped, and the control socket goes on answering.
    Pause,
    /// The machine is shut down.
    #[default]
    Shutdown,
    /// The machine is shut down and thimble's exit status says that the guest crashed.
    ExitFailure,
    /// Nothing but the event.
    None,
}

/// What a watchdog that fires does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WatchdogAction {
    /// Resets the guest.
    Reset,
    /// Asks the guest to power off.
    Shutdown,
    /// Ends the process.
    Poweroff,
    /// Stops the guest.
    Pause,
    /// Nothing but a message in the log.
    Debug,
    /// Nothing.
    None,
    /// Sends every vCPU an NMI.
    InjectNmi,
}

/// Arguments of `set-action`: those that are absent stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetActionArguments {
    /// What a guest's reset does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboot: Option<RebootAction>,
    /// What a guest's power off does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<ShutdownAction>,
    /// What a guest's panic does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic: Option<PanicAction>,
    /// What a watchdog that fires does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<WatchdogAction>,
}
