//! The outer form of a command: `execute` or `exec-oob`, `arguments`, `id`, and nothing else.

use std::os::fd::OwnedFd;

use serde_json::{Map, Value};

use super::super::error::QmpError;

/// A command as it was sent, its name and arguments not yet looked at.
#[derive(Debug, Default)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: Map<String, Value>,
    /// The descriptors that came with it.
    pub(super) fds: Vec<OwnedFd>,
}

/// One message of the client, in its place in the queue: errors are answered in turn too.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) id: Option<Value>,
    /// Whether it is to be answered out of turn.
    pub(super) oob: bool,
    pub(super) call: Result<Call, QmpError>,
}

impl Envelope {
    /// A message that is not JSON; its id, if it had one, is not known.
    pub(super) fn unreadable(error: QmpError) -> Self {
        Self {
            id: None,
            oob: false,
            call: Err(error),
        }
    }

    /// Takes a message apart. `exec-oob` is known only when `oob` has been switched on.
    pub(super) fn of(message: Value, oob: bool) -> Self {
        let Value::Object(mut members) = message else {
            return Self::unreadable(QmpError::generic("QMP input must be a JSON object"));
        };
        let id = members.shift_remove("id");
        // As in QEMU, what is meant to run out of band is refused out of band too.
        let out_of_turn = members.contains_key("exec-oob") && !members.contains_key("execute");
        Self {
            id,
            oob: out_of_turn,
            call: call(members, oob),
        }
    }
}

fn call(members: Map<String, Value>, oob: bool) -> Result<Call, QmpError> {
    let wrong = |member: &str, what: &str| {
        QmpError::generic(format_args!("QMP input member '{member}' {what}"))
    };
    let mut call = Call::default();
    let mut named = false;
    for (member, value) in members {
        match (member.as_str(), value) {
            ("exec-oob", _) if !oob => return Err(wrong("exec-oob", "is unexpected")),
            ("execute" | "exec-oob", _) if named => {
                return Err(wrong("execute", "clashes with 'exec-oob'"));
            }
            ("execute" | "exec-oob", Value::String(name)) => {
                call.name = name;
                named = true;
            }
            ("execute" | "exec-oob", _) => return Err(wrong(&member, "must be a string")),
            ("arguments", Value::Object(arguments)) => call.arguments = arguments,
            ("arguments", _) => return Err(wrong("arguments", "must be an object")),
            _ => return Err(wrong(&member, "is unexpected")),
        }
    }
    if named {
        Ok(call)
    } else {
        Err(QmpError::generic("QMP input lacks member 'execute'"))
    }
}
