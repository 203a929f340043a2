//! Session and introspection: handshake, version, names, and what can be asked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a client may switch on in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QmpCapability {
    /// Out-of-band execution with `exec-oob`.
    Oob,
}

/// Arguments of `qmp_capabilities`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QmpCapabilitiesArguments {
    /// The capabilities to switch on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable: Option<Vec<QmpCapability>>,
}

/// A version of QEMU's command set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionTriple {
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Micro number.
    pub micro: i64,
}

/// The greeting's `version`, and the return of `query-version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionInfo {
    /// The QEMU release whose names, arguments and replies these are.
    pub qemu: VersionTriple,
    /// Our own name and version.
    pub package: String,
}

/// One entry of `query-commands`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandInfo {
    /// The command's name.
    pub name: String,
}

/// One entry of `query-events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventInfo {
    /// The event's name.
    pub name: String,
}

/// Return of `query-name`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NameInfo {
    /// The guest's name, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Return of `query-uuid`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UuidInfo {
    /// The guest's UUID, 36 lower-case characters.
    #[serde(rename = "UUID")]
    pub uuid: String,
}

/// Arguments of `human-monitor-command`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HumanMonitorCommandArguments {
    /// The line, as typed at QEMU's monitor.
    pub command_line: String,
    /// The vCPU that `info registers` and the like look at; the first if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_index: Option<i64>,
}
