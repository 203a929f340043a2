//! One client's connection, without the connection: bytes and descriptors in, requests out;
//! replies and events in, bytes out.
//!
//! Owned by the main thread, one per client. The rules are those of QEMU's monitor (qmp-spec.rst,
//! sections "Protocol Specification" and "Out-of-band execution"): a greeting, then nothing but
//! `qmp_capabilities` until that has been answered; in-band commands run one after the other and
//! are answered in the order they came; out-of-band ones run at once. Nothing a client does makes
//! a session grow beyond the bounds below, and one client's session knows nothing of another's.

mod envelope;
mod fds;
mod output;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use serde::Serialize;
use serde_json::{Map, Value};

use self::envelope::{Call, Envelope};
use self::fds::FdInput;
use self::output::Output;
use super::command::{Command, CommandSpec};
use super::error::{ErrorClass, QmpError};
use super::event::EventLine;
use super::json::{self, Parser};
use super::types::{Empty, QmpCapability, VersionInfo, VersionTriple};

pub use super::introspect::{query_commands, query_events, query_qmp_schema};
pub use fds::MAX_FDS;

/// In-band commands that may wait while one runs, with `oob` switched on; without it there is no
/// queue (QEMU's `QMP_REQ_QUEUE_LEN_MAX`).
pub const MAX_QUEUED: usize = 8;
/// Bytes of input a session keeps unread while its queue is full.
pub const MAX_INPUT: usize = 64 << 10;
/// Bytes of output above which events are dropped.
pub const MAX_OUTPUT_FOR_EVENTS: usize = 256 << 10;
/// Bytes of output above which no more requests are taken.
pub const MAX_OUTPUT_FOR_REQUESTS: usize = 1 << 20;
/// Bytes of one return value above which an error is sent in its place. Clients refuse lines of
/// 10 MiB.
pub const MAX_REPLY: usize = 4 << 20;
/// Bytes of output at which the client is given up.
pub const MAX_OUTPUT: usize = 8 << 20;

/// What the greeting and `query-version` say: QEMU 10.0's command set, and our own version.
pub fn version_info() -> VersionInfo {
    VersionInfo {
        qemu: VersionTriple {
            major: 10,
            minor: 0,
            micro: 0,
        },
        package: concat!("thimble ", env!("CARGO_PKG_VERSION"), " (QMP 10.0 subset)").into(),
    }
}

/// A successful command's return value, already written as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply(Vec<u8>);

impl Reply {
    /// Writes `value`.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        // Return types are structs, strings and numbers: writing them cannot fail.
        Self(json::to_json(value).unwrap_or_else(|_| b"null".to_vec()))
    }

    /// What a command returns that returns nothing: `{}`.
    pub fn empty() -> Self {
        Self::of(&Empty {})
    }

    /// The JSON text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Names a request until it is answered; every request is answered exactly once.
#[derive(Debug)]
#[must_use = "a request that is never answered blocks its client"]
pub struct Token {
    id: Option<Value>,
    oob: bool,
    /// Whether the reply switches out-of-band execution on: the reply of the handshake.
    negotiated: Option<bool>,
}

/// A command to carry out.
#[derive(Debug)]
pub struct Request {
    /// To be handed back with the answer.
    pub token: Token,
    /// The command.
    pub command: Command,
    /// Whether it is to be answered before all that wait.
    pub oob: bool,
    /// The descriptors it came with, for commands that take one; the first is the one meant.
    pub fds: Vec<OwnedFd>,
}

/// How far the handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Only `qmp_capabilities` is taken.
    Negotiating,
    Commands,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Session {
    mode: Mode,
    oob: bool,
    parser: Parser,
    /// Bytes that have come; those before `parsed` are done with.
    input: Vec<u8>,
    parsed: usize,
    fds: FdInput,
    in_band: VecDeque<Envelope>,
    out_of_band: VecDeque<Envelope>,
    /// Whether an in-band request has been given out and not answered.
    running: bool,
    /// Out-of-band requests given out and not answered.
    running_oob: usize,
    output: Output,
    input_ended: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self::new(&version_info())
    }
}

impl Session {
    /// A new connection; its output begins with the greeting.
    pub fn new(version: &VersionInfo) -> Self {
        #[derive(Serialize)]
        struct Greeting<'a> {
            #[serde(rename = "QMP")]
            qmp: Offer<'a>,
        }
        #[derive(Serialize)]
        struct Offer<'a> {
            version: &'a VersionInfo,
            capabilities: [QmpCapability; 1],
        }
        let mut output = Output::default();
        let offer = Offer {
            version,
            capabilities: [QmpCapability::Oob],
        };
        output.line(Reply::of(&Greeting { qmp: offer }).as_bytes());
        Self {
            mode: Mode::Negotiating,
            oob: false,
            parser: Parser::default(),
            input: Vec::new(),
            parsed: 0,
            fds: FdInput::default(),
            in_band: VecDeque::new(),
            out_of_band: VecDeque::new(),
            running: false,
            running_oob: 0,
            output,
            input_ended: false,
        }
    }

    /// Takes what one read of the socket gave. To be called while [`Session::wants_read`]; at most
    /// [`MAX_INPUT`] bytes at a time. Descriptors beyond [`MAX_FDS`] are closed.
    pub fn feed(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) {
        if self.parsed == self.input.len() {
            self.input.clear();
        } else {
            self.input.drain(..self.parsed);
        }
        self.parsed = 0;
        self.input.extend_from_slice(bytes);
        self.fds.arrived(bytes.len(), fds);
    }

    /// Notes that the client will send no more. What it has sent is still answered.
    pub fn end_input(&mut self) {
        self.input_ended = true;
    }

    /// Whether to read from the socket.
    pub fn wants_read(&self) -> bool {
        !self.input_ended
            && !self.closed()
            && !self.output.over(MAX_OUTPUT_FOR_REQUESTS)
            && self.input.len() - self.parsed < MAX_INPUT
            && !self.fds.full()
            && self.has_room()
    }

    /// Whether to write to the socket.
    pub fn wants_write(&self) -> bool {
        !self.output.pending().is_empty()
    }

    /// Whether the connection is to be closed now, whatever is unsent: the client has let more
    /// than [`MAX_OUTPUT`] pile up.
    pub fn closed(&self) -> bool {
        self.output.over(MAX_OUTPUT)
    }

    /// Whether the client has sent its last, and all it asked is answered and sent.
    pub fn finished(&self) -> bool {
        self.input_ended
            && !self.running
            && self.running_oob == 0
            && self.in_band.is_empty()
            && self.out_of_band.is_empty()
            && self.parsed == self.input.len()
            && !self.wants_write()
    }

    /// Whether the handshake is over, so that events are sent.
    pub fn negotiated(&self) -> bool {
        self.mode == Mode::Commands
    }

    /// Bytes to be sent.
    pub fn output(&self) -> &[u8] {
        self.output.pending()
    }

    /// Notes that the first `count` bytes of [`Session::output`] have been sent.
    pub fn consume(&mut self, count: usize) {
        self.output.consume(count);
    }

    /// Events not sent because the client does not read.
    pub fn dropped_events(&self) -> u64 {
        self.output.dropped_events()
    }

    /// Sends an event, unless the handshake is not over or the client does not read.
    pub fn event(&mut self, event: &EventLine) {
        if self.negotiated() {
            self.output.event(event);
        }
    }

    /// The next command to carry out. Out-of-band ones come first; an in-band one only when the
    /// one before it has been answered. What is wrong with a request is answered here, and so is
    /// the handshake.
    pub fn next_request(&mut self) -> Option<Request> {
        loop {
            if self.output.over(MAX_OUTPUT_FOR_REQUESTS) {
                return None;
            }
            self.parse();
            let envelope = match self.out_of_band.pop_front() {
                Some(envelope) => envelope,
                None if self.running => return None,
                None => self.in_band.pop_front()?,
            };
            if let Some(request) = self.open(envelope) {
                return Some(request);
            }
        }
    }

    /// Answers a request. Takes the token, which is not to be used twice.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "answering ends the token and the result"
    )]
    pub fn reply(&mut self, token: Token, result: Result<Reply, QmpError>) {
        if token.oob {
            self.running_oob = self.running_oob.saturating_sub(1);
        } else {
            self.running = false;
        }
        self.answer(&token, &result);
    }

    fn answer(&mut self, token: &Token, result: &Result<Reply, QmpError>) {
        if let (Ok(_), Some(oob)) = (result, token.negotiated) {
            self.mode = Mode::Commands;
            self.oob = oob;
        }
        self.output.reply(token.id.as_ref(), result);
    }

    /// How many in-band commands may wait: QEMU's rule.
    fn has_room(&self) -> bool {
        let room = if self.oob {
            MAX_QUEUED
        } else {
            usize::from(!self.running)
        };
        self.in_band.len() < room && self.out_of_band.len() < MAX_QUEUED
    }

    /// Reads input into the queues until they are full.
    fn parse(&mut self) {
        while self.has_room() {
            let Some(mut rest) = self
                .input
                .get(self.parsed..)
                .filter(|rest| !rest.is_empty())
            else {
                return;
            };
            let before = rest.len();
            let outcome = self.parser.next(&mut rest);
            self.parsed += before - rest.len();
            let envelope = match outcome {
                None => None,
                Some(Err(error)) => Some(Envelope::unreadable(QmpError::generic(error))),
                Some(Ok(value)) => Some(Envelope::of(value, self.oob)),
            };
            let Some(mut envelope) = envelope else {
                self.fds.passed(before - rest.len());
                continue;
            };
            if let Ok(call) = &mut envelope.call
                && Command::spec(&call.name).is_ok_and(|spec| spec.takes_fd)
            {
                call.fds = self.fds.take(before - rest.len(), rest);
            }
            self.fds.passed(before - rest.len());
            if envelope.oob {
                self.out_of_band.push_back(envelope);
            } else {
                self.in_band.push_back(envelope);
            }
        }
    }

    /// Makes a request of what the client sent, or answers it.
    fn open(&mut self, envelope: Envelope) -> Option<Request> {
        let oob = envelope.oob;
        let token = Token {
            id: envelope.id,
            oob,
            negotiated: None,
        };
        let Call {
            name,
            arguments,
            fds,
            ..
        } = match envelope.call {
            Ok(call) => call,
            Err(error) => {
                self.answer(&token, &Err(error));
                return None;
            }
        };
        match self.command(&name, arguments, oob) {
            Ok(Command::QmpCapabilities(arguments)) => {
                let enable = arguments.enable.unwrap_or_default();
                let oob = enable.contains(&QmpCapability::Oob);
                let token = Token {
                    negotiated: Some(oob),
                    ..token
                };
                self.answer(&token, &Ok(Reply::empty()));
                None
            }
            Ok(command) => {
                if oob {
                    self.running_oob += 1;
                } else {
                    self.running = true;
                }
                Some(Request {
                    token,
                    command,
                    oob,
                    fds,
                })
            }
            Err(error) => {
                // The command has not taken them: the client may ask again.
                self.fds.give_back(fds);
                self.answer(&token, &Err(error));
                None
            }
        }
    }

    fn command(
        &self,
        name: &str,
        arguments: Map<String, Value>,
        oob: bool,
    ) -> Result<Command, QmpError> {
        let not_now = |text: &str| QmpError::new(ErrorClass::CommandNotFound, text);
        let is_handshake = name == "qmp_capabilities";
        let spec: &'static CommandSpec = match self.mode {
            Mode::Negotiating if !is_handshake => {
                return Err(not_now(
                    "Expecting capabilities negotiation with 'qmp_capabilities'",
                ));
            }
            Mode::Negotiating | Mode::Commands => Command::spec(name)?,
        };
        if oob && !spec.oob {
            return Err(QmpError::generic(format_args!(
                "The command {name} does not support OOB"
            )));
        }
        if is_handshake && self.mode == Mode::Commands {
            return Err(not_now(
                "Capabilities negotiation is already complete, command ignored",
            ));
        }
        spec.command(arguments)
    }
}
