//! Control sockets: where the VM's QMP-like JSON protocol is served.

use std::os::fd::RawFd;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::check_socket_path;
use super::problem::{KeyPath, Problems};

/// Most control sockets of one machine.
pub const CONTROL_LIMIT: usize = 16;

/// The first descriptor that is not standard input, output or error.
pub const FIRST_FREE_FD: RawFd = 3;

/// A control socket: exactly one of `path` and `fd`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Control {
    /// A unix socket to create, with mode 0600, at this path of at most 107 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 107))]
    pub path: Option<PathBuf>,
    /// An inherited descriptor, 3 or higher, of a listening unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 3, max = 2_147_483_647))]
    pub fd: Option<RawFd>,
}

/// A control socket, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckedControl {
    /// To be created at this path.
    Path(PathBuf),
    /// Inherited as this descriptor, [`FIRST_FREE_FD`] or higher.
    Fd(RawFd),
}

impl Control {
    /// Its rules; `None` only with a problem.
    pub(super) fn check(&self, at: &KeyPath, problems: &mut Problems) -> Option<CheckedControl> {
        match (&self.path, self.fd) {
            (Some(path), None) => {
                check_socket_path(path, &at.key("path"), problems);
                Some(CheckedControl::Path(path.clone()))
            }
            (None, Some(fd)) => {
                if fd < FIRST_FREE_FD {
                    let what = format!("{fd} is not a descriptor that can be inherited for this");
                    problems.push(at.key("fd"), what, format!("use {FIRST_FREE_FD} or higher"));
                }
                Some(CheckedControl::Fd(fd))
            }
            (None, None) => {
                problems.push(at.clone(), "says neither path nor fd", "give one of them");
                None
            }
            (Some(_), Some(_)) => {
                problems.push(at.clone(), "says both path and fd", "keep one of them");
                None
            }
        }
    }
}
