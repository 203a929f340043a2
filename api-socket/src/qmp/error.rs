//! The errors a command can be answered with: QMP's five classes and the standard texts.
//!
//! Clients act on the class and never on the text; people and test suites read the text, so the
//! standard ones are QEMU's word for word.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

/// What kind of failure it is. There are no others, and there will be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorClass {
    /// Everything that is none of the others.
    GenericError,
    /// No such command, or not now.
    CommandNotFound,
    /// The device is there but not in a state to answer.
    DeviceNotActive,
    /// No such device.
    DeviceNotFound,
    /// KVM lacks a capability the command needs.
    KVMMissingCap,
}

/// An error reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{desc}")]
pub struct QmpError {
    /// The class.
    pub class: ErrorClass,
    /// The text, one line, for people.
    pub desc: String,
}

impl QmpError {
    /// An error of `class`.
    pub fn new(class: ErrorClass, desc: impl Display) -> Self {
        Self {
            class,
            desc: desc.to_string(),
        }
    }

    /// The usual kind.
    pub fn generic(desc: impl Display) -> Self {
        Self::new(ErrorClass::GenericError, desc)
    }

    /// No command of that name exists.
    pub fn command_not_found(name: &str) -> Self {
        Self::new(
            ErrorClass::CommandNotFound,
            format_args!("The command {name} has not been found"),
        )
    }

    /// No device, or network backend, has that id.
    pub fn device_not_found(id: &str) -> Self {
        Self::new(
            ErrorClass::DeviceNotFound,
            format_args!("Device '{id}' not found"),
        )
    }

    /// `balloon` and `query-balloon` on a machine without one.
    pub fn no_balloon() -> Self {
        Self::new(
            ErrorClass::DeviceNotActive,
            "No balloon device has been activated",
        )
    }

    /// A block device or node that is not there; the names as the client gave them.
    pub fn no_block_node(device: Option<&str>, node_name: Option<&str>) -> Self {
        let (device, node) = (device.unwrap_or_default(), node_name.unwrap_or_default());
        Self::generic(format_args!(
            "Cannot find device='{device}' nor node-name='{node}'"
        ))
    }

    /// `getfd` or `add-fd` without a descriptor.
    pub fn no_fd_supplied() -> Self {
        Self::generic("No file descriptor supplied via SCM_RIGHTS")
    }

    /// `closefd`, or a use, of a name `getfd` has not filled.
    pub fn fd_not_found(name: &str) -> Self {
        Self::generic(format_args!("File descriptor named '{name}' not found"))
    }

    /// A job command for a job that is not there.
    pub fn job_not_found() -> Self {
        Self::generic("Job not found")
    }

    /// A job command that the job's state forbids. `verb` is as in the command: `complete`.
    pub fn job_refuses(id: &str, state: &str, verb: &str) -> Self {
        Self::generic(format_args!(
            "Job '{id}' in state '{state}' cannot accept command verb '{verb}'"
        ))
    }

    /// `yank` of something that is not there.
    pub fn yank_not_found() -> Self {
        Self::new(ErrorClass::DeviceNotFound, "Instance not found")
    }

    /// An argument the command does not have.
    pub fn unexpected(parameter: &str) -> Self {
        Self::generic(format_args!("Parameter '{parameter}' is unexpected"))
    }

    /// A mandatory argument that is not there.
    pub fn missing(parameter: &str) -> Self {
        Self::generic(format_args!("Parameter '{parameter}' is missing"))
    }

    /// An argument of the wrong JSON type. `expected` is `boolean`, `integer`, `number`, `string`,
    /// `object` or `array`.
    pub fn wrong_type(parameter: &str, expected: &str) -> Self {
        Self::generic(format_args!(
            "Invalid parameter type for '{parameter}', expected: {expected}"
        ))
    }

    /// An enumeration's argument with a value it does not have.
    pub fn bad_value(parameter: &str, value: &str) -> Self {
        Self::generic(format_args!(
            "Parameter '{parameter}' does not accept value '{value}'"
        ))
    }

    /// An argument out of range: `expected` is for example `a size` or `a >0 size`.
    pub fn expects(parameter: &str, expected: impl Display) -> Self {
        Self::generic(format_args!("Parameter '{parameter}' expects {expected}"))
    }
}
