//! A session of the control protocol, reached by every client of a control socket.
//!
//! Commands by the schema and broken ones, cut anywhere, fed and answered in any order the session
//! allows, among events, to a client that reads when it likes. Every line that comes out is JSON;
//! memory is bounded; a command the schema calls valid is given out; every command is answered
//! once, those in band in their order; and when the client is done, so is the session.
#![no_main]

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;

use api_socket::qmp::command::COMMANDS;
use api_socket::qmp::error::QmpError;
use api_socket::qmp::event::{Event, EventLine, Timestamp};
use api_socket::qmp::session::{
    MAX_FDS, MAX_INPUT, MAX_OUTPUT, MAX_QUEUED, MAX_REPLY, Reply, Request, Session,
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use thimble_fuzz::source::Source;
use thimble_fuzz::{json, qmp_schema};

const WORDS: &[&str] = &[
    "execute",
    "exec-oob",
    "arguments",
    "id",
    "query-status",
    "stop",
    "qmp_capabilities",
    "enable",
    "oob",
    "getfd",
    "fdname",
];

/// What was asked for, by id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Asked {
    oob: bool,
    /// Valid by the schema: it has to be given out.
    valid: bool,
}

struct Client {
    asked: Vec<Asked>,
    /// Bytes sent and not fed yet.
    outgoing: VecDeque<u8>,
    /// Whether something was sent that is not one of `asked`.
    broken: bool,
    /// Whether the handshake switched out-of-band execution on.
    oob: bool,
    /// What the session put out and was consumed.
    received: Vec<u8>,
    /// Commands that the session gave out.
    given_out: usize,
}

impl Client {
    fn ask(&mut self, source: &mut Source<'_>) {
        let spec = &COMMANDS[1 + source.below(COMMANDS.len() - 1)];
        let mut arguments = qmp_schema::arguments(source, spec.name);
        let valid = !source.rarely(8);
        if !valid {
            json::vary(&mut arguments, source, WORDS, 3);
        }
        let oob = self.oob && spec.oob && source.coin();
        let verb = if oob { "exec-oob" } else { "execute" };
        let message = json!({verb: spec.name, "arguments": arguments, "id": self.asked.len()});
        self.asked.push(Asked { oob, valid });
        self.send(&message);
    }

    fn send(&mut self, message: &Value) {
        self.outgoing.extend(message.to_string().bytes());
        self.outgoing.push_back(b'\n');
    }

    fn rubbish(&mut self, source: &mut Source<'_>) {
        self.broken = true;
        let mut message = json!({"execute": "query-status", "id": "x"});
        json::vary(&mut message, source, WORDS, 2);
        let mut text = message.to_string().into_bytes();
        source.damage(&mut text);
        self.outgoing.extend(text);
    }
}

fn feed(session: &mut Session, client: &mut Client, source: &mut Source<'_>) {
    if !session.wants_read() || client.outgoing.is_empty() {
        return;
    }
    let limit = match source.u8() % 4 {
        0 => MAX_INPUT,
        1 => 1,
        _ => 1 + source.below(200),
    };
    let length = limit.min(client.outgoing.len());
    let bytes: Vec<u8> = client.outgoing.drain(..length).collect();
    let mut fds = Vec::new();
    if source.rarely(16) {
        for _ in 0..source.below(MAX_FDS + 2) {
            fds.push(OwnedFd::from(File::open("/dev/null").expect("it is there")));
        }
    }
    session.feed(&bytes, fds);
}

fn consume(session: &mut Session, client: &mut Client, count: usize) {
    let output = session.output();
    let count = count.min(output.len());
    client.received.extend_from_slice(&output[..count]);
    session.consume(count);
}

fn take(session: &mut Session, client: &mut Client, running: &mut Vec<Request>) {
    if let Some(request) = session.next_request() {
        client.given_out += 1;
        running.push(request);
    }
}

fn answer(session: &mut Session, request: Request, source: &mut Source<'_>) {
    assert!(request.fds.len() <= MAX_FDS);
    let result = match source.u8() % 8 {
        0 => Err(QmpError::generic("no \"such\" thing\n")),
        1 => Ok(Reply::of(&"é".repeat(source.below(300)))),
        2 if source.rarely(16) => Ok(Reply::of(&"x".repeat(MAX_REPLY))),
        _ => Ok(Reply::empty()),
    };
    session.reply(request.token, result);
}

/// Every reply that was sent: its id, if it is a number.
fn replies(received: &[u8]) -> Vec<Option<u64>> {
    let text = received.strip_suffix(b"\r\n").expect("whole lines");
    let mut ids = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let value: Value = serde_json::from_slice(line).expect("a line is JSON");
        let has = |name: &str| value.get(name).is_some();
        let kinds = ["QMP", "return", "error", "event"].map(has);
        assert_eq!(kinds.iter().filter(|kind| **kind).count(), 1, "{value}");
        assert_eq!(kinds[0], number == 0, "{value}");
        if kinds[1] || kinds[2] {
            ids.push(value.get("id").and_then(Value::as_u64));
        }
    }
    ids
}

fn run(source: &mut Source<'_>) {
    let mut session = Session::default();
    let mut client = Client {
        asked: Vec::new(),
        outgoing: VecDeque::new(),
        broken: false,
        oob: source.coin(),
        received: Vec::new(),
        given_out: 0,
    };
    let mut running: Vec<Request> = Vec::new();
    let enable = if client.oob {
        json!(["oob"])
    } else {
        json!([])
    };
    client.send(&json!({"execute": "qmp_capabilities", "arguments": {"enable": enable}}));
    let event = EventLine::new(&Event::Stop, Timestamp::UNKNOWN);
    while !source.is_empty() && !session.closed() {
        match source.u8() % 16 {
            0..=3 => client.ask(source),
            4 if source.rarely(4) => client.rubbish(source),
            4..=8 => feed(&mut session, &mut client, source),
            9 | 10 if running.len() <= MAX_QUEUED => {
                take(&mut session, &mut client, &mut running);
            }
            11 | 12 if !running.is_empty() => {
                let request = running.swap_remove(source.below(running.len()));
                answer(&mut session, request, source);
            }
            13 => (0..source.below(40)).for_each(|_| session.event(&event)),
            _ => {
                let count = source.below(2000);
                consume(&mut session, &mut client, count);
            }
        }
        assert!(session.output().len() <= MAX_OUTPUT + MAX_REPLY + 4096);
        let in_band = running.iter().filter(|request| !request.oob).count();
        assert!(in_band <= 1, "in-band commands run one at a time");
    }
    finish(&mut session, &mut client, running, source);
}

/// The client sends the rest, reads everything and is done; so must the session be.
fn finish(
    session: &mut Session,
    client: &mut Client,
    mut running: Vec<Request>,
    source: &mut Source<'_>,
) {
    if session.closed() {
        return;
    }
    let mut rounds = client.outgoing.len() + client.asked.len() + 64;
    loop {
        consume(session, client, usize::MAX);
        feed(session, client, &mut Source::new(&[]));
        for request in running.drain(..) {
            answer(session, request, source);
        }
        take(session, client, &mut running);
        if client.outgoing.is_empty() {
            session.end_input();
        }
        if session.finished() {
            break;
        }
        rounds = rounds.checked_sub(1).expect("the session comes to an end");
    }
    let replies = replies(&client.received);
    if client.broken {
        return;
    }
    // One for the handshake, which had no id.
    assert_eq!(replies.len(), client.asked.len() + 1);
    let valid = client.asked.iter().filter(|asked| asked.valid).count();
    assert!(
        client.given_out >= valid,
        "what the schema allows is given out"
    );
    let ids = || {
        replies
            .iter()
            .flatten()
            .map(|id| usize::try_from(*id).expect("small"))
    };
    let mut sorted: Vec<_> = ids().collect();
    sorted.sort_unstable();
    assert!(
        sorted.into_iter().eq(0..client.asked.len()),
        "each is answered once"
    );
    let in_band: Vec<_> = ids().filter(|id| !client.asked[*id].oob).collect();
    assert!(in_band.is_sorted(), "{in_band:?}");
}

fuzz_target!(|data: &[u8]| run(&mut Source::new(data)));
