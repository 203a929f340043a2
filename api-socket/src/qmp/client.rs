//! A blocking client, for `thimble qmp`, the tests, and whoever starts a guest.
//!
//! One thread, one connection. Every call has the time limit its caller set; lines have a length
//! limit; events that arrive while a reply is waited for are kept, up to a bound, until they are
//! asked for. What the server sends while it takes nothing is read meanwhile, so that two who both
//! want to be heard first do not wait for each other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::QmpError;
use super::event::Timestamp;
use super::json::to_json;
use super::socket;

/// Longest line taken from a server, as libvirt and qemu.qmp have it.
pub const MAX_LINE: usize = 10 << 20;
/// Events kept until they are asked for; after that the oldest is forgotten.
pub const MAX_KEPT_EVENTS: usize = 4096;
/// How much of what is not QMP is shown, in characters.
const SHOWN: usize = 80;
/// How long a server may take to greet, unless the caller has reasons of its own. One that works
/// does so at once.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a command got no return.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or the path is wrong.
    #[error("cannot connect to {path:?}; {remedy}")]
    Connect {
        /// The path.
        path: PathBuf,
        /// What may be wrong, and what to do.
        remedy: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Reading or writing failed.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The server closed the connection.
    #[error("the connection was closed by the other side")]
    Closed,
    /// The server took the connection and said nothing.
    #[error(
        "no greeting within {} s: either this is no control socket, or its process is stopped, or \
         serves other clients and has no room for more",
        limit.as_secs()
    )]
    NoGreeting {
        /// How long it was waited for.
        limit: Duration,
    },
    /// No answer came in time.
    #[error("no answer within the time limit")]
    TimedOut,
    /// What came is not QMP. The text is its beginning, control characters escaped.
    #[error("the other side does not speak QMP, it sent: {0}")]
    Protocol(String),
    /// The server answered with an error.
    #[error("{0}")]
    Command(QmpError),
}

/// An event as it came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReceivedEvent {
    /// Its name.
    pub event: String,
    /// Its data; `null` if it has none.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// When it happened.
    pub timestamp: Timestamp,
}

/// One connection to a control socket.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    /// Bytes read; those before `taken` are done with.
    buffer: Vec<u8>,
    taken: usize,
    events: VecDeque<ReceivedEvent>,
    greeting: Value,
    timeout: Duration,
    next_id: u64,
}

impl Client {
    /// Connects to `path` and finishes the handshake, out-of-band execution switched on. `timeout`
    /// is for this and for each later command; [`Duration::MAX`] is for ever.
    ///
    /// # Errors
    /// When nobody listens, or what answers does not speak QMP.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let failed = |errno: Errno| ClientError::Connect {
            path: path.to_owned(),
            remedy: remedy(path, errno),
            source: errno.into(),
        };
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        let flags = SocketFlags::CLOEXEC;
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(failed)?;
        // A full accept queue makes connect wait, for as long as a send may.
        let patience = (timeout != Duration::MAX).then_some(timeout);
        net::sockopt::set_socket_timeout(&socket, net::sockopt::Timeout::Send, patience)
            .map_err(failed)?;
        net::connect(&socket, &address).map_err(failed)?;
        Self::from_socket(socket, timeout)
    }

    /// Finishes the handshake on a connected Unix stream socket.
    ///
    /// # Errors
    /// When the other side does not speak QMP.
    pub fn from_socket(socket: OwnedFd, timeout: Duration) -> Result<Self, ClientError> {
        let mut client = Self::without_handshake(socket, timeout)?;
        let offered = client
            .greeting
            .pointer("/QMP/capabilities")
            .and_then(Value::as_array);
        let oob = offered.is_some_and(|list| list.iter().any(|capability| capability == "oob"));
        let arguments = if oob {
            json!({"enable": ["oob"]})
        } else {
            json!({})
        };
        client.execute("qmp_capabilities", arguments)?;
        Ok(client)
    }

    /// Reads the greeting and nothing else: only `qmp_capabilities` will be answered.
    ///
    /// # Errors
    /// When there is no greeting.
    pub fn without_handshake(socket: OwnedFd, timeout: Duration) -> Result<Self, ClientError> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(io::Error::from)?;
        let mut client = Self {
            socket,
            buffer: Vec::new(),
            taken: 0,
            events: VecDeque::new(),
            greeting: Value::Null,
            timeout,
            next_id: 0,
        };
        let greeting = client
            .read_value(deadline(timeout))?
            .ok_or(ClientError::NoGreeting { limit: timeout })?;
        if greeting.pointer("/QMP/version").is_none() {
            return Err(not_qmp(greeting.to_string().as_bytes()));
        }
        client.greeting = greeting;
        Ok(client)
    }

    /// What the server greeted with.
    pub fn greeting(&self) -> &Value {
        &self.greeting
    }

    /// Sets how long later commands may take; [`Duration::MAX`] is for ever.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Runs a command and waits for its return. `arguments` is an object, or `null` for none.
    ///
    /// # Errors
    /// [`ClientError::Command`] with the server's error, or why there is no answer.
    pub fn execute(&mut self, name: &str, arguments: Value) -> Result<Value, ClientError> {
        self.run("execute", name, arguments, &[])
    }

    /// As [`Client::execute`], overtaking commands that wait.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn execute_oob(&mut self, name: &str, arguments: Value) -> Result<Value, ClientError> {
        self.run("exec-oob", name, arguments, &[])
    }

    /// As [`Client::execute`], with descriptors on the command's own message.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn execute_with_fds(
        &mut self,
        name: &str,
        arguments: Value,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Value, ClientError> {
        self.run("execute", name, arguments, fds)
    }

    /// Sends descriptors on a lone space, for the next command that takes one.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send_fds(&mut self, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        self.send(b" ", fds)
    }

    /// Sends bytes as they are; the answer is had by [`Client::next_message`].
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.send(bytes, &[])
    }

    /// The next line, whatever it is, not counting events kept earlier. `None`: none came within
    /// `timeout`.
    ///
    /// # Errors
    /// When the connection is broken or the line is not JSON.
    pub fn next_message(&mut self, timeout: Duration) -> Result<Option<Value>, ClientError> {
        self.read_value(deadline(timeout))
    }

    /// The next event, kept or new. `None`: none came within `timeout`.
    ///
    /// # Errors
    /// When the connection is broken, or a reply comes that nobody waits for.
    pub fn next_event(&mut self, timeout: Duration) -> Result<Option<ReceivedEvent>, ClientError> {
        let deadline = deadline(timeout);
        while self.events.is_empty() {
            let Some(message) = self.read_value(deadline)? else {
                return Ok(None);
            };
            if !self.keep_event(&message)? {
                return Err(not_qmp(message.to_string().as_bytes()));
            }
        }
        Ok(self.events.pop_front())
    }

    /// Waits for an event of a name, and drops those before it. `None`: none came within
    /// `timeout`.
    ///
    /// # Errors
    /// As [`Client::next_event`].
    pub fn wait_for_event(
        &mut self,
        name: &str,
        timeout: Duration,
    ) -> Result<Option<ReceivedEvent>, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next_event(left)? {
                Some(event) if event.event == name => return Ok(Some(event)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// The events kept so far.
    pub fn take_events(&mut self) -> Vec<ReceivedEvent> {
        self.events.drain(..).collect()
    }

    /// Closes the sending side: the server answers what it has and then closes.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn finish(&self) -> Result<(), ClientError> {
        Ok(net::shutdown(&self.socket, net::Shutdown::Write).map_err(io::Error::from)?)
    }

    fn run(
        &mut self,
        verb: &str,
        name: &str,
        arguments: Value,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Value, ClientError> {
        let id = json!(format!("thimble-{}", self.next_id));
        self.next_id += 1;
        let mut command = json!({verb: name, "id": id});
        if !arguments.is_null()
            && let Some(members) = command.as_object_mut()
        {
            members.insert("arguments".into(), arguments);
        }
        let mut text = to_json(&command).map_err(io::Error::from)?;
        text.push(b'\n');
        self.send(&text, fds)?;
        let deadline = deadline(self.timeout);
        loop {
            let mut message = self.read_value(deadline)?.ok_or(ClientError::TimedOut)?;
            if self.keep_event(&message)? {
                continue;
            }
            // An error without id is about something the server could not read: this command.
            let unreadable = message.get("id").is_none() && message.get("error").is_some();
            if message.get("id") != Some(&id) && !unreadable {
                continue;
            }
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            let error = message
                .get_mut("error")
                .map(Value::take)
                .unwrap_or_default();
            return match serde_json::from_value(error) {
                Ok(error) => Err(ClientError::Command(error)),
                Err(_) => Err(not_qmp(message.to_string().as_bytes())),
            };
        }
    }

    /// Whether `message` was an event, which is then kept.
    fn keep_event(&mut self, message: &Value) -> Result<bool, ClientError> {
        if message.get("event").is_none() {
            return Ok(false);
        }
        let event = ReceivedEvent::deserialize(message)
            .map_err(|_| not_qmp(message.to_string().as_bytes()))?;
        if self.events.len() >= MAX_KEPT_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
        Ok(true)
    }

    fn send(&mut self, mut bytes: &[u8], mut fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let deadline = deadline(self.timeout);
        while !bytes.is_empty() {
            match socket::send(&self.socket, bytes, fds) {
                Ok(sent) => {
                    bytes = bytes.get(sent..).unwrap_or_default();
                    // They went with the first byte.
                    fds = &[];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.make_room(deadline)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until the server takes more, and reads what it says meanwhile, up to a line's limit.
    fn make_room(&mut self, deadline: Option<Instant>) -> Result<(), ClientError> {
        let reading = self.buffer.len() <= MAX_LINE;
        let flags = if reading {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::OUT
        };
        if !self.wait(flags, deadline)? {
            return Err(ClientError::TimedOut);
        }
        if reading {
            // Nothing, perhaps; a server that has said its last will not answer this.
            self.fill(Some(Instant::now()))?;
        }
        Ok(())
    }

    /// One line as JSON; `None` when it did not come before `deadline`.
    fn read_value(&mut self, deadline: Option<Instant>) -> Result<Option<Value>, ClientError> {
        let mut searched = self.taken;
        loop {
            let unread = self.buffer.get(searched..).unwrap_or_default();
            if let Some(at) = unread.iter().position(|byte| *byte == b'\n') {
                let end = searched + at;
                let line = self
                    .buffer
                    .get(self.taken..end)
                    .unwrap_or_default()
                    .trim_ascii();
                self.taken = end + 1;
                if line.is_empty() {
                    searched = self.taken;
                    continue;
                }
                return serde_json::from_slice(line)
                    .map(Some)
                    .map_err(|_| not_qmp(line));
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            searched = self.buffer.len();
            if searched > MAX_LINE {
                return Err(ClientError::Protocol("a line of more than 10 MiB".into()));
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Reads more into the buffer; false when nothing came before `deadline`.
    fn fill(&mut self, deadline: Option<Instant>) -> Result<bool, ClientError> {
        let mut chunk = [0; 16 << 10];
        loop {
            match socket::receive(&self.socket, &mut chunk) {
                Ok((0, _)) => return Err(ClientError::Closed),
                Ok((length, _)) => {
                    self.buffer
                        .extend_from_slice(chunk.get(..length).unwrap_or_default());
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait(PollFlags::IN, deadline)? {
                        return Ok(false);
                    }
                }
                // What a server that has ended leaves unread shows like this.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ClientError::Closed);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the socket is ready; false when `deadline` came first.
    fn wait(&self, flags: PollFlags, deadline: Option<Instant>) -> Result<bool, ClientError> {
        loop {
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            let limit = left.map(|left| {
                Timespec::try_from(left).unwrap_or(Timespec {
                    tv_sec: 1,
                    tv_nsec: 0,
                })
            });
            match rustix::event::poll(&mut [PollFd::new(&self.socket, flags)], limit.as_ref()) {
                Ok(0) if deadline.is_some_and(|end| Instant::now() >= end) => return Ok(false),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// When `timeout` is over; `None` for one that never is.
fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// The beginning of something that is not QMP, fit for a terminal.
fn not_qmp(text: &[u8]) -> ClientError {
    let text = String::from_utf8_lossy(text.get(..4 * SHOWN).unwrap_or(text)).into_owned();
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    ClientError::Protocol(shown)
}

/// What to do about a connection that could not be made.
fn remedy(path: &Path, errno: Errno) -> &'static str {
    let is_socket = std::fs::metadata(path).map(|meta| meta.file_type().is_socket());
    match (errno, is_socket) {
        (_, Ok(false)) | (Errno::PROTOTYPE, _) => {
            "it is not a control socket: name the path that --control was given"
        }
        (Errno::CONNREFUSED, _) => "nobody listens there any more: start the guest again",
        (Errno::ACCESS | Errno::PERM, _) => {
            "run this as the user who started the guest: the socket is that user's alone"
        }
        (Errno::AGAIN, _) => "too many clients wait there: its process may be stopped",
        (Errno::NAMETOOLONG, _) => {
            "a socket's path has at most 107 bytes: change the directory and use a relative one"
        }
        _ => "is the guest running?",
    }
}
