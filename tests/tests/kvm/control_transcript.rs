//! The protocol on a running guest's socket, byte by byte: how input may be cut, what is echoed,
//! what is refused, and that nothing a client sends puts it out of step.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use harness::guest::{Guest, LIMIT};
use harness::skip;
use serde_json::{Value, json};

use crate::run_state::ready;

/// A connection on which nothing has been said.
pub(crate) struct Raw {
    pub(crate) socket: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Raw {
    #[track_caller]
    pub(crate) fn connect(guest: &Guest) -> Self {
        let socket = UnixStream::connect(guest.path("control.sock")).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.set_write_timeout(Some(LIMIT)).unwrap();
        let lines = BufReader::new(socket.try_clone().unwrap());
        Self { socket, lines }
    }

    /// The same, past greeting and negotiation, out-of-band execution off.
    #[track_caller]
    pub(crate) fn negotiated(guest: &Guest) -> Self {
        let mut raw = Self::connect(guest);
        assert!(raw.line()["QMP"].is_object());
        assert_eq!(
            raw.ask(r#"{"execute":"qmp_capabilities"}"#),
            json!({"return": {}})
        );
        raw
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).unwrap();
    }

    /// The next line: one JSON value in ASCII, ended by CR LF.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Value {
        let mut line = Vec::new();
        self.lines.read_until(b'\n', &mut line).unwrap();
        let text = line.strip_suffix(b"\r\n");
        let text = text.unwrap_or_else(|| panic!("{:?}", line.escape_ascii().to_string()));
        assert!(text.is_ascii(), "{:?}", text.escape_ascii().to_string());
        serde_json::from_slice(text).unwrap()
    }

    /// The next line that is no event.
    #[track_caller]
    pub(crate) fn reply(&mut self) -> Value {
        loop {
            let line = self.line();
            if line.get("event").is_none() {
                return line;
            }
        }
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, text: &str) -> Value {
        self.send(text);
        self.reply()
    }

    /// The class of the error that is the next reply.
    #[track_caller]
    fn refusal(&mut self) -> String {
        let reply = self.reply();
        assert!(reply["error"]["desc"].is_string(), "{reply}");
        reply["error"]["class"].as_str().unwrap().to_owned()
    }
}

#[test]
fn nothing_is_taken_before_the_negotiation_and_no_event_is_told() {
    if skip::without_kvm() {
        return;
    }
    let (guest, mut other) = ready();
    let mut raw = Raw::connect(&guest);
    let greeting = raw.line();
    assert!(greeting["QMP"]["version"]["qemu"]["major"].is_u64());
    assert_eq!(greeting["QMP"]["capabilities"], json!(["oob"]));
    other.execute("stop", Value::Null);
    raw.send(r#"{"execute":"query-status","id":1}"#);
    let refused = raw.line();
    assert_eq!(refused["error"]["class"], "CommandNotFound", "{refused}");
    assert_eq!(refused["id"], 1);
    raw.send(r#"{"execute":"qmp_capabilities","arguments":{"enable":["warp"]}}"#);
    assert_eq!(raw.refusal(), "GenericError");
    raw.send(r#"{"execute":"qmp_capabilities"}{"execute":"qmp_capabilities"}"#);
    assert_eq!(raw.line(), json!({"return": {}}));
    assert_eq!(raw.refusal(), "CommandNotFound");
    other.execute("cont", Value::Null);
    assert_eq!(raw.line()["event"], "RESUME");
}

#[test]
fn a_command_may_come_byte_by_byte() {
    if skip::without_kvm() {
        return;
    }
    let (guest, _client) = ready();
    let mut raw = Raw::negotiated(&guest);
    for byte in br#" { "execute" : "query-status" , 'id' : "\u00e4\n" } "# {
        raw.send([*byte]);
    }
    let reply = raw.reply();
    assert_eq!(reply["return"]["status"], "running");
    assert_eq!(reply["id"], "\u{e4}\n");
}

#[test]
fn commands_may_be_sent_ahead_and_are_answered_in_order() {
    if skip::without_kvm() {
        return;
    }
    let (guest, _client) = ready();
    let mut raw = Raw::negotiated(&guest);
    let mut text = String::new();
    for id in 0..200 {
        let command = ["stop", "query-status", "cont", "no-such-command"][id % 4];
        text += &format!(r#"{{"execute":"{command}","id":{id}}}"#);
    }
    raw.send(&text);
    for id in 0..200 {
        let reply = raw.reply();
        assert_eq!(reply["id"], id, "{reply}");
        match id % 4 {
            1 => assert_eq!(reply["return"]["status"], "paused"),
            3 => assert_eq!(reply["error"]["class"], "CommandNotFound"),
            _ => assert_eq!(reply["return"], json!({})),
        }
    }
}

#[test]
fn any_value_is_an_id_and_none_is_none() {
    if skip::without_kvm() {
        return;
    }
    let (guest, _client) = ready();
    let mut raw = Raw::negotiated(&guest);
    for id in [
        "null",
        "true",
        "-1",
        "1.5",
        "[1,[2]]",
        r#"{"a":{"b":"c"}}"#,
        "\"\"",
    ] {
        let reply = raw.ask(&format!(r#"{{"execute":"query-name","id":{id}}}"#));
        let id: Value = serde_json::from_str(id).unwrap();
        assert_eq!(reply.get("id"), Some(&id), "{reply}");
    }
    let reply = raw.ask(r#"{"execute":"query-name"}"#);
    assert!(reply.get("id").is_none(), "{reply}");
}

#[test]
fn what_is_wrong_is_told_and_the_next_command_is_found() {
    if skip::without_kvm() {
        return;
    }
    let (guest, _client) = ready();
    let mut raw = Raw::negotiated(&guest);
    let huge = format!(r#"{{"execute":"{}"}}"#, "x".repeat((1 << 20) + 10));
    let deep = "[".repeat(2000) + &"]".repeat(2000);
    let rubbish: [(&[u8], &str); 14] = [
        (b"{]", "GenericError"),
        (b"\xff", "GenericError"),
        (b"[]", "GenericError"),
        (b"7 ", "GenericError"),
        (b"{}", "GenericError"),
        (br#"{"execute":7}"#, "GenericError"),
        (br#"{"execute":"stop","what":1}"#, "GenericError"),
        (br#"{"execute":"stop","arguments":[]}"#, "GenericError"),
        (br#"{"execute":"stop","arguments":{"x":1}}"#, "GenericError"),
        (br#"{"execute":"job-cancel"}"#, "GenericError"),
        (
            br#"{"execute":"job-cancel","arguments":{"id":7}}"#,
            "GenericError",
        ),
        (br#"{"exec-oob":"query-yank"}"#, "GenericError"),
        (huge.as_bytes(), "GenericError"),
        (deep.as_bytes(), "GenericError"),
    ];
    for (bytes, class) in rubbish {
        raw.send(bytes);
        // 0xFF forgets whatever was left half-sent.
        raw.send(b"\xff");
        let shown = bytes.get(..40.min(bytes.len())).unwrap().escape_ascii();
        assert_eq!(raw.refusal(), class, "{shown}");
        // However many errors that made: what is asked now is answered.
        raw.send(r#"{"execute":"query-kvm","id":"after"}"#);
        while raw.reply().get("id") != Some(&json!("after")) {}
    }
}

#[test]
fn a_client_that_has_said_its_last_is_answered_before_the_end() {
    if skip::without_kvm() {
        return;
    }
    let (guest, _client) = ready();
    let mut raw = Raw::negotiated(&guest);
    raw.send(r#"{"execute":"stop"} {"execute":"cont"} {"execute":"query-status","id":9}"#);
    raw.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(raw.reply(), json!({"return": {}}));
    assert_eq!(raw.reply(), json!({"return": {}}));
    assert_eq!(raw.reply()["id"], 9);
    let mut rest = Vec::new();
    assert_eq!(raw.lines.read_until(b'\n', &mut rest).unwrap(), 0);
}

#[test]
fn an_event_comes_before_the_answer_to_what_caused_it() {
    if skip::without_kvm() {
        return;
    }
    let (guest, _client) = ready();
    let mut raw = Raw::negotiated(&guest);
    for (command, event) in [
        ("stop", "STOP"),
        ("cont", "RESUME"),
        ("system_reset", "RESET"),
    ] {
        raw.send(format!(r#"{{"execute":"{command}"}}"#));
        let told = raw.line();
        assert_eq!(told["event"], event);
        assert!(told["timestamp"]["seconds"].is_u64(), "{told}");
        assert_eq!(raw.line(), json!({"return": {}}));
    }
}
