//! The tests' end of a control socket: a thin face on [`api_socket::qmp::client`], so that tests
//! name commands and look at values, and a connection that fails says what it was asked for.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use api_socket::qmp::client::{self, ClientError, ReceivedEvent};
use api_socket::qmp::error::QmpError;
use serde_json::Value;

/// A session, past its negotiation.
pub struct Client {
    session: client::Client,
    limit: Duration,
}

impl Client {
    /// Connects and negotiates. `limit` holds for every single answer and event.
    ///
    /// # Errors
    /// If the socket does not take a connection or the other side does not speak QMP.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, ClientError> {
        Ok(Self {
            session: client::Client::connect(path, limit)?,
            limit,
        })
    }

    /// The session itself, for raw bytes, descriptors and out-of-band commands.
    pub fn session(&mut self) -> &mut client::Client {
        &mut self.session
    }

    /// The greeting, `{"QMP": …}`.
    #[must_use]
    pub fn greeting(&self) -> &Value {
        self.session.greeting()
    }

    /// Runs a command and returns what it returned.
    ///
    /// # Panics
    /// If the command is refused or the connection fails.
    #[track_caller]
    pub fn execute(&mut self, command: &str, arguments: Value) -> Value {
        match self.session.execute(command, arguments) {
            Ok(value) => value,
            Err(error) => panic!("{command}: {}", chain(&error)),
        }
    }

    /// Runs a command and returns what it returned, or how it was refused.
    ///
    /// # Errors
    /// The refusal.
    ///
    /// # Panics
    /// If the connection fails.
    #[track_caller]
    pub fn try_execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        match self.session.execute(command, arguments) {
            Ok(value) => Ok(value),
            Err(ClientError::Command(refusal)) => Err(refusal),
            Err(error) => panic!("{command}: {}", chain(&error)),
        }
    }

    /// Waits for the next event called `name`, passing over others.
    ///
    /// # Panics
    /// If it does not come within the limit.
    #[track_caller]
    pub fn expect_event(&mut self, name: &str) -> ReceivedEvent {
        match self.session.wait_for_event(name, self.limit) {
            Ok(Some(event)) => event,
            Ok(None) => panic!("no event {name}"),
            Err(error) => panic!("no event {name}: {}", chain(&error)),
        }
    }
}

/// An error with what caused it.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}
