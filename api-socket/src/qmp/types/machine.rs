//! The machine as a whole: target, accelerator, machine versions, options, generation id.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An architecture of guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SysEmuTarget {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    #[serde(rename = "aarch64")]
    Aarch64,
}

/// Return of `query-target`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TargetInfo {
    /// The guest's architecture.
    pub arch: SysEmuTarget,
}

/// Return of `query-kvm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KvmInfo {
    /// Whether this guest runs on KVM; always true.
    pub enabled: bool,
    /// Whether KVM is there; always true.
    pub present: bool,
}

/// One machine version, of `query-machines`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MachineInfo {
    /// Its name, `thimble-1`.
    pub name: String,
    /// Another name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Whether it is what a guest gets that names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_default: Option<bool>,
    /// The most vCPUs it can have.
    pub cpu_max: i64,
    /// Whether vCPUs can be added while it runs.
    pub hotpluggable_cpus: bool,
    /// Whether guest memory can be split into NUMA nodes.
    pub numa_mem_supported: bool,
    /// Whether it will go away.
    pub deprecated: bool,
    /// The CPU type used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_cpu_type: Option<String>,
    /// The id of the memory used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_ram_id: Option<String>,
    /// Whether the guest finds ACPI tables.
    pub acpi: bool,
}

/// Return of `query-current-machine`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CurrentMachineParams {
    /// Whether the guest can suspend and be woken by `system_wakeup`.
    pub wakeup_suspend_support: bool,
}

/// Arguments of `query-command-line-options`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueryCommandLineOptionsArguments {
    /// The one option to describe; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub option: Option<String>,
}

/// The type of a command-line option's parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CommandLineParameterType {
    /// Any text.
    String,
    /// `on` or `off`.
    Boolean,
    /// A number.
    Number,
    /// A number with a suffix such as `M`.
    Size,
}

/// One parameter of a command-line option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandLineParameterInfo {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: CommandLineParameterType,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Its value when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// One command-line option, of `query-command-line-options`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandLineOptionInfo {
    /// Its name.
    pub option: String,
    /// Its parameters.
    pub parameters: Vec<CommandLineParameterInfo>,
}

/// Return of `query-vm-generation-id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuidInfo {
    /// The identifier, 36 lower-case characters.
    pub guid: String,
}
