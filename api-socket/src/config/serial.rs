//! The serial console: what the first serial port (COM1) is connected to.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::{check_path, check_socket_path};
use super::problem::{KeyPath, Problems};
use super::words::Word;

/// What the first serial port is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Serial {
    /// The kind of connection.
    pub backend: SerialBackend,
    /// The file or socket, for `file` and `socket`; a socket's path has at most 107 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4095))]
    pub path: Option<PathBuf>,
}

/// The kinds of connection of a serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SerialBackend {
    /// Standard input and output of thimble. Not with `daemonize`.
    Stdio,
    /// Nothing: output is dropped, no input comes.
    Null,
    /// Output goes to the file `path`, which is emptied first; no input comes.
    File,
    /// A new pseudo-terminal.
    Pty,
    /// The unix socket `path`, on which one client at a time may connect.
    Socket,
}

/// What the first serial port is connected to, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckedSerial {
    /// Standard input and output.
    Stdio,
    /// Nothing.
    Null,
    /// Output to this file.
    File(PathBuf),
    /// A new pseudo-terminal.
    Pty,
    /// A unix socket to listen on, at this path.
    Socket(PathBuf),
}

impl Serial {
    /// A connection that needs no path.
    pub fn plain(backend: SerialBackend) -> Self {
        Self {
            backend,
            path: None,
        }
    }

    /// Its rules.
    pub(super) fn check(&self, at: &KeyPath, problems: &mut Problems) -> CheckedSerial {
        let at = at.key("path");
        let Self { backend, path } = self;
        let takes_path = matches!(backend, SerialBackend::File | SerialBackend::Socket);
        match path {
            Some(path) if *backend == SerialBackend::Socket => {
                check_socket_path(path, &at, problems);
            }
            Some(path) if takes_path => check_path(path, &at, problems),
            Some(_) => {
                let what = format!("is not used by the backend {}", backend.word());
                problems.push(at, what, "leave it out, or choose file or socket");
            }
            None if takes_path => {
                let what = format!("is missing for the backend {}", backend.word());
                problems.push(at, what, "give one");
            }
            None => {}
        }
        match backend {
            SerialBackend::Stdio => CheckedSerial::Stdio,
            SerialBackend::Null => CheckedSerial::Null,
            SerialBackend::File => CheckedSerial::File(path.clone().unwrap_or_default()),
            SerialBackend::Pty => CheckedSerial::Pty,
            SerialBackend::Socket => CheckedSerial::Socket(path.clone().unwrap_or_default()),
        }
    }
}

impl Word for SerialBackend {
    const ALL: &'static [Self] = &[Self::Stdio, Self::Null, Self::File, Self::Pty, Self::Socket];

    fn word(self) -> &'static str {
        match self {
            Self::Stdio => "stdio",
            Self::Null => "null",
            Self::File => "file",
            Self::Pty => "pty",
            Self::Socket => "socket",
        }
    }
}
