//! `thimble qmp SOCKET [COMMAND [JSON]]`: a control socket from a shell.
//!
//! One command prints its return value on stdout. Without a command, lines of stdin are commands
//! (`query-status`, `getfd fdname=a`, `balloon {"value":1}`, or a whole QMP object), and replies
//! and events are printed, one per line, until both sides have finished. Runs on the main thread of
//! a process of its own; nothing of the VMM is there.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use api_socket::qmp::client::{Client, ClientError, GREETING_TIMEOUT};
use rustix::event::{PollFd, PollFlags};
use serde_json::{Map, Value, json};

use crate::chain;

/// The longest line of stdin that is looked at.
const MAX_INPUT_LINE: usize = 1 << 20;

/// How many characters of a line are shown that is wrong.
const SHOWN: usize = 80;

/// How `thimble qmp` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every command was answered with a return value.
    Done,
    /// A command failed, or the connection did. The reason was written to `errors`.
    Failed,
    /// The arguments make no sense. The reason was written to `errors`.
    Usage,
}

impl Outcome {
    /// The exit status: 0, 1, 2.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
        }
    }
}

/// Runs one command. The return value goes to `out`, indented; what went wrong to `errors`.
///
/// # Errors
/// When `out` or `errors` cannot be written.
pub fn run_command(
    socket: &Path,
    command: &str,
    arguments: Option<&str>,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> io::Result<Outcome> {
    let arguments = match arguments.map(serde_json::from_str::<Value>) {
        None => Value::Null,
        Some(Ok(Value::Object(members))) => Value::Object(members),
        Some(Ok(_)) => {
            writeln!(
                errors,
                "thimble qmp: the arguments must be a JSON object, such as {{}}"
            )?;
            return Ok(Outcome::Usage);
        }
        Some(Err(error)) => {
            writeln!(errors, "thimble qmp: the arguments are not JSON: {error}")?;
            return Ok(Outcome::Usage);
        }
    };
    let result = connect(socket).and_then(|mut client| client.execute(command, arguments));
    match result {
        Ok(value) => {
            serde_json::to_writer_pretty(&mut *out, &value)?;
            writeln!(out)?;
            out.flush()?;
            Ok(Outcome::Done)
        }
        Err(error) => {
            report(errors, socket, &error)?;
            Ok(Outcome::Failed)
        }
    }
}

/// A session with a server that greets in time. What it is asked after that may take as long as it
/// likes: writing a core takes minutes, and a server that ends closes the connection.
fn connect(socket: &Path) -> Result<Client, ClientError> {
    let mut client = Client::connect(socket, GREETING_TIMEOUT)?;
    client.set_timeout(Duration::MAX);
    Ok(client)
}

/// Takes commands from `input` until its end, and prints replies and events as they come, one JSON
/// object per line. Fails if any command did.
///
/// # Errors
/// When `input` cannot be read, or `out` or `errors` written.
pub fn run_lines(
    socket: &Path,
    input: BorrowedFd<'_>,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> io::Result<Outcome> {
    match connect(socket) {
        Ok(client) => {
            let mut talk = Conversation {
                client,
                outcome: Outcome::Done,
                awaited: 0,
            };
            match talk.run(input, out, errors) {
                Ok(()) => Ok(talk.outcome),
                Err(Broken::Client(error)) => {
                    report(errors, socket, &error)?;
                    Ok(Outcome::Failed)
                }
                Err(Broken::Local(error)) => Err(error),
            }
        }
        Err(error) => {
            report(errors, socket, &error)?;
            Ok(Outcome::Failed)
        }
    }
}

/// Writes an error and its causes on one line, with the socket's name if it is about that, and
/// nothing in it that a terminal would obey.
fn report(errors: &mut dyn Write, socket: &Path, error: &ClientError) -> io::Result<()> {
    let text = match error {
        // As the server put it: what it lacks is not for this process to have.
        ClientError::Command(error) => error.to_string(),
        ClientError::Connect { .. } => chain::text(error),
        _ => format!("{}: {}", socket.display(), chain::text(error)),
    };
    writeln!(errors, "thimble qmp: {}", plain(&text))
}

/// Which side ended a conversation.
enum Broken {
    Client(ClientError),
    Local(io::Error),
}

impl From<ClientError> for Broken {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Local(error)
    }
}

struct Conversation {
    client: Client,
    outcome: Outcome,
    /// Commands sent and not answered.
    awaited: usize,
}

impl Conversation {
    fn run(
        &mut self,
        input: BorrowedFd<'_>,
        out: &mut dyn Write,
        errors: &mut dyn Write,
    ) -> Result<(), Broken> {
        let mut input = std::fs::File::from(input.try_clone_to_owned()?);
        let mut text = Vec::new();
        let mut open = true;
        loop {
            if !self.print_ready(out)? || (!open && self.awaited == 0) {
                return Ok(());
            }
            let mut waits = vec![PollFd::new(&self.client, PollFlags::IN)];
            let source = input.as_fd();
            if open {
                waits.push(PollFd::from_borrowed_fd(source, PollFlags::IN));
            }
            match rustix::event::poll(&mut waits, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
            let typed = waits.get(1).is_some_and(|wait| !wait.revents().is_empty());
            if typed {
                let mut chunk = [0; 4096];
                let length = match input.read(&mut chunk) {
                    Ok(length) => length,
                    Err(error) if is_temporary(&error) => continue,
                    Err(error) => {
                        writeln!(errors, "thimble qmp: cannot read standard input: {error}")?;
                        self.outcome = Outcome::Failed;
                        0
                    }
                };
                text.extend_from_slice(chunk.get(..length).unwrap_or_default());
                open = length > 0;
                self.send_lines(&mut text, !open, errors)?;
            }
        }
    }

    /// Prints what has come; false when the server has closed.
    fn print_ready(&mut self, out: &mut dyn Write) -> Result<bool, Broken> {
        loop {
            for event in self.client.take_events() {
                let line = serde_json::to_string(&event).map_err(io::Error::from)?;
                writeln!(out, "{line}")?;
            }
            match self.client.next_message(Duration::ZERO) {
                Ok(Some(message)) => {
                    if message.get("error").is_some() {
                        self.outcome = Outcome::Failed;
                    }
                    if message.get("event").is_none() {
                        self.awaited = self.awaited.saturating_sub(1);
                    }
                    writeln!(out, "{message}")?;
                }
                Ok(None) => {
                    out.flush()?;
                    return Ok(true);
                }
                // The guest ended, for instance because it was told to.
                Err(ClientError::Closed) if self.awaited == 0 => {
                    out.flush()?;
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends the complete lines of `text`; with `all`, also the last one.
    fn send_lines(
        &mut self,
        text: &mut Vec<u8>,
        all: bool,
        errors: &mut dyn Write,
    ) -> Result<(), Broken> {
        if text.len() > MAX_INPUT_LINE && !text.contains(&b'\n') {
            writeln!(errors, "thimble qmp: a line of more than 1 MiB is left out")?;
            self.outcome = Outcome::Failed;
            text.clear();
        }
        let complete = match text.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            None => 0,
        };
        let lines: Vec<u8> = text
            .drain(..if all { text.len() } else { complete })
            .collect();
        for line in String::from_utf8_lossy(&lines).lines() {
            match command_of(line) {
                Ok(None) => {}
                Ok(Some(command)) => {
                    self.client.send_raw(command.to_string().as_bytes())?;
                    self.awaited += 1;
                }
                Err(reason) => {
                    writeln!(errors, "thimble qmp: {reason}")?;
                    self.outcome = Outcome::Failed;
                }
            }
        }
        Ok(())
    }
}

/// Whether a read may go well the next time: the starter has made our standard input non-blocking.
fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// The beginning of a line, for a message.
fn shown(line: &str) -> String {
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => plain(line.get(..end).unwrap_or(line)) + "...",
        None => plain(line),
    }
}

/// `text` without anything that a terminal would obey.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        if c.is_control() {
            plain.extend(c.escape_debug());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// The QMP command a line means; `None` for an empty line or a comment.
fn command_of(line: &str) -> Result<Option<Value>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let read = |text: &str| {
        serde_json::from_str::<Value>(text)
            .map_err(|error| format!("not JSON: {}: {error}", shown(text)))
    };
    if line.starts_with('{') {
        return read(line).map(Some);
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let arguments = if rest.starts_with('{') {
        read(rest)?
    } else {
        let mut members = Map::new();
        for word in rest.split_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                return Err(format!(
                    "{}: expected name=value, or one JSON object",
                    shown(word)
                ));
            };
            // What reads as JSON is that; anything else is a string.
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            if members.insert(key.to_owned(), value).is_some() {
                return Err(format!("{} is given twice", shown(key)));
            }
        }
        Value::Object(members)
    };
    Ok(Some(json!({"execute": name, "arguments": arguments})))
}

#[cfg(test)]
mod tests {
    use api_socket::qmp::command::Command;
    use api_socket::qmp::error::QmpError;
    use api_socket::qmp::event::{Event, EventLine, Timestamp};
    use api_socket::qmp::session::Reply;
    use api_socket::qmp::socket::Listener;

    use super::*;

    #[test]
    fn lines_are_commands_in_three_spellings() {
        let command = |line: &str| command_of(line).unwrap().unwrap();
        assert_eq!(command("stop"), json!({"execute": "stop", "arguments": {}}));
        assert_eq!(
            command("  x-y a=1 b=yes c=true d=\"7\" e=[1,2] f= "),
            json!({"execute": "x-y", "arguments":
                {"a": 1, "b": "yes", "c": true, "d": "7", "e": [1, 2], "f": ""}})
        );
        assert_eq!(
            command("balloon {\"value\": 5}"),
            json!({"execute": "balloon", "arguments": {"value": 5}})
        );
        let whole = json!({"execute": "stop", "id": 3});
        assert_eq!(command(&whole.to_string()), whole);
        assert_eq!(command_of("   "), Ok(None));
        assert_eq!(command_of("# a comment"), Ok(None));
    }

    /// Serves one client at `socket` until it has finished, and answers each command but `stop`,
    /// which is announced, with an error.
    fn serve_one(socket: &Path) -> std::thread::JoinHandle<io::Result<()>> {
        let listener = Listener::bind(socket).unwrap();
        std::thread::spawn(move || {
            rustix::event::poll(&mut [PollFd::new(&listener, PollFlags::IN)], None)?;
            let mut connection = listener.accept()?.unwrap();
            while !connection.done() {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, connection.wants_read());
                flags.set(PollFlags::OUT, connection.wants_write());
                rustix::event::poll(&mut [PollFd::new(&connection, flags)], None)?;
                connection.receive()?;
                while let Some(request) = connection.session().next_request() {
                    let session = connection.session();
                    let result = match request.command {
                        Command::Stop => {
                            session.event(&EventLine::new(&Event::Stop, Timestamp::UNKNOWN));
                            Ok(Reply::empty())
                        }
                        _ => Err(QmpError::no_balloon()),
                    };
                    session.reply(request.token, result);
                }
                connection.transmit()?;
            }
            Ok(())
        })
    }

    #[test]
    fn one_command_prints_its_return_or_its_error() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control");
        for (command, outcome, said) in [
            ("stop", Outcome::Done, ("{}\n", "")),
            (
                "query-balloon",
                Outcome::Failed,
                ("", "thimble qmp: No balloon device has been activated\n"),
            ),
        ] {
            let server = serve_one(&socket);
            let (mut out, mut errors) = (Vec::new(), Vec::new());
            assert_eq!(
                run_command(&socket, command, Some("{}"), &mut out, &mut errors).unwrap(),
                outcome
            );
            let (out, errors) = (
                String::from_utf8(out).unwrap(),
                String::from_utf8(errors).unwrap(),
            );
            assert_eq!((out.as_str(), errors.as_str()), said);
            server.join().unwrap().unwrap();
        }
    }

    #[test]
    fn lines_of_stdin_are_carried_out_to_the_last() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control");
        let server = serve_one(&socket);
        let mut input = tempfile::tempfile().unwrap();
        // The last line has no end.
        input
            .write_all(b"# stop it\nstop\n\n{\"execute\":\"stop\",\"id\":1}\nballoon value=5")
            .unwrap();
        io::Seek::rewind(&mut input).unwrap();
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let outcome = run_lines(&socket, input.as_fd(), &mut out, &mut errors).unwrap();
        assert_eq!((outcome, errors.len()), (Outcome::Failed, 0));
        let lines: Vec<Value> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert_eq!(lines[0]["event"], "STOP");
        assert_eq!(lines[1], json!({"return": {}}));
        assert_eq!(lines[3], json!({"return": {}, "id": 1}));
        assert_eq!(lines[4]["error"]["class"], "DeviceNotActive");
        server.join().unwrap().unwrap();
    }

    #[test]
    fn bad_lines_say_why() {
        for line in ["stop now", "{\"execute\":", "a {x}", "a b=1 b=2"] {
            assert!(command_of(line).is_err(), "{line}");
        }
        let long = format!("{{\"\u{1b}[2J\": {}", "x".repeat(1000));
        let reason = command_of(&long).unwrap_err();
        assert!(reason.contains("{\"\\u{1b}[2J\": xxx"), "{reason}");
        assert!(reason.len() < 200, "{reason}");
    }

    #[test]
    fn an_input_that_cannot_be_read_ends_it() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control");
        let server = serve_one(&socket);
        let input = std::fs::File::open(directory.path()).unwrap();
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let outcome = run_lines(&socket, input.as_fd(), &mut out, &mut errors).unwrap();
        assert_eq!(outcome, Outcome::Failed);
        let said = String::from_utf8(errors).unwrap();
        assert!(said.contains("standard input: Is a directory"), "{said}");
        server.join().unwrap().unwrap();
    }

    #[test]
    fn bad_arguments_are_a_usage_error_before_anything_is_connected() {
        for arguments in ["{", "[]", "5"] {
            let (mut out, mut errors) = (Vec::new(), Vec::new());
            let nowhere = Path::new("/nonexistent/socket");
            let outcome =
                run_command(nowhere, "stop", Some(arguments), &mut out, &mut errors).unwrap();
            assert_eq!((outcome, outcome.code()), (Outcome::Usage, 2));
            assert!(out.is_empty() && !errors.is_empty());
        }
    }

    /// A server that says `greeting` to its only client, reads one command, and closes.
    fn curt(socket: &Path, greeting: &'static [u8]) -> std::thread::JoinHandle<()> {
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(greeting).unwrap();
            if !greeting.is_empty() {
                drop(stream.read(&mut [0; 100]));
            }
        })
    }

    #[test]
    fn a_server_that_ends_amid_things_or_is_another_is_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        for (name, greeting, mention) in [
            ("early", &b""[..], "closed"),
            (
                "late",
                b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n",
                "closed",
            ),
            ("web", b"HTTP/1.1 400 Bad Request\r\n\r\n", "not speak QMP"),
            (
                "rude",
                b"{\"QMP\": {\"version\": {}}}\r\n\
                  {\"error\": {\"class\": \"GenericError\", \"desc\": \"\\u001b[2J\"}}\r\n",
                "\\u{1b}[2J",
            ),
        ] {
            let socket = directory.path().join(name);
            let server = curt(&socket, greeting);
            let (mut out, mut errors) = (Vec::new(), Vec::new());
            let outcome = run_command(&socket, "stop", None, &mut out, &mut errors).unwrap();
            assert_eq!((outcome, out.len()), (Outcome::Failed, 0));
            let text = String::from_utf8(errors).unwrap();
            let named = name == "rude" || text.contains(socket.to_str().unwrap());
            assert!(named && text.contains(mention), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
            server.join().unwrap();
        }
    }

    #[test]
    fn nobody_there_is_a_failure_with_a_reason() {
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let nowhere = Path::new("/nonexistent/socket");
        let outcome = run_command(nowhere, "stop", None, &mut out, &mut errors).unwrap();
        assert_eq!(outcome, Outcome::Failed);
        let text = String::from_utf8(errors).unwrap();
        assert!(
            text.contains("/nonexistent/socket") && text.contains("No such file"),
            "{text}"
        );
    }
}
