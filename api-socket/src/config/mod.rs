//! The configuration of one virtual machine: its types, its rules, its JSON and its schema.
//!
//! Plain data and pure functions, called on the main thread of thimble before anything is built
//! and by tools that record definitions. The way is text → [`Config`] (as written) → [`check`] →
//! [`Checked`] (every rule met, defaults settled), and only the last is given to the builder.
//! Keys are in kebab case; the reference for users is docs/configuration.md.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod actions;
mod check;
mod control;
mod cpus;
mod disk;
mod json;
mod kernel;
mod log;
mod mac;
mod machine;
mod memory;
mod names;
mod net;
mod problem;
mod read;
mod rng;
mod schema;
mod serial;
mod shape;
mod size;
mod uuid;
mod vsock;
mod words;

pub use actions::Actions;
pub use check::{Checked, check};
pub use control::{CONTROL_LIMIT, CheckedControl, Control, FIRST_FREE_FD};
pub use cpus::{CPUS_MAX, CheckedCpus, CpuModel, Cpus, FeatureChange};
pub use disk::{
    Cache, CheckedDisk, Discard, Disk, DiskFormat, ReadErrorAction, SERIAL_LIMIT, WriteErrorAction,
};
pub use json::TEXT_LIMIT;
pub use kernel::{CMDLINE_LIMIT, CheckedKernel, Kernel};
pub use log::{Log, LogLevel};
pub use mac::MacAddress;
pub use machine::MachineVersion;
pub use memory::{MEMORY_MAX, MEMORY_MIN, MEMORY_STEP, Memory};
pub use names::{ID_LIMIT, NAME_LIMIT, PATH_LIMIT, SOCKET_PATH_LIMIT};
pub use net::{
    CheckedLimits, CheckedNet, CheckedNetBackend, CheckedRate, INTERFACE_LIMIT, MTU_MIN,
    NET_QUEUES_MAX, Net,
};
pub use problem::{KeyPath, Problem, Problems, Step, quoted};
pub use read::{Reading, parse};
pub use rng::{CheckedRng, Rng, RngSetting};
pub use schema::{schema, schema_text};
pub use serial::{CheckedSerial, Serial, SerialBackend};
pub use size::{Size, SizeError};
pub use uuid::Uuid;
pub use vsock::{CID_MAX, CID_MIN, CheckedVsock, Vsock};
pub use words::Word;

/// The configuration of one virtual machine, as written: shape and types only, no rule checked.
/// Every key may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(
    title = "thimble machine configuration",
    description = "The configuration of one virtual machine. Every key may be left out."
)]
pub struct Config {
    /// The machine's name: at most 255 bytes, no control characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub name: Option<String>,
    /// The machine's UUID, as 8-4-4-4-12 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "uuid"))]
    pub uuid: Option<String>,
    /// The hardware the guest sees.
    pub machine: MachineVersion,
    /// What the guest boots; by default the built-in guest.
    pub kernel: Kernel,
    /// Virtual CPUs.
    pub cpus: Cpus,
    /// Guest memory.
    pub memory: Memory,
    /// Disks, in the order in which the guest finds them. With the other virtio devices at most
    /// 17.
    pub disks: Vec<Disk>,
    /// The random number generator: `true`, or an object with its settings.
    pub rng: RngSetting,
    /// Network cards, in the order in which the guest finds them.
    pub nets: Vec<Net>,
    /// Sockets between guest and host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<Vsock>,
    /// What the first serial port is connected to: by default `stdio`, with `daemonize` `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    /// Control sockets, at most 16.
    #[schemars(length(max = 16))]
    pub control: Vec<Control>,
    /// Whether the guest waits for `cont` on a control socket before its first instruction.
    pub paused: bool,
    /// A file into which the process id is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4095))]
    pub pidfile: Option<PathBuf>,
    /// Whether thimble goes to the background once its control sockets answer.
    pub daemonize: bool,
    /// What thimble logs about itself.
    pub log: Log,
    /// What the guest's end leads to.
    pub actions: Actions,
}

impl Config {
    /// The configuration as indented JSON with a final newline, which [`parse`] takes back.
    ///
    /// # Errors
    /// A path that is not UTF-8, which [`check`] refuses.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
