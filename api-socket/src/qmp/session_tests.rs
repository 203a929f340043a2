//! Whole conversations, without a socket.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::command::Command;
use super::event::{Event, EventLine, Timestamp};
use super::session::*;
use super::types::*;

const HELLO: &[u8] = b"{\"execute\":\"qmp_capabilities\"}";
const HELLO_OOB: &[u8] = b"{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}";

fn stop_event() -> EventLine {
    EventLine::new(
        &Event::Stop,
        Timestamp {
            seconds: 1,
            microseconds: 2,
        },
    )
}

/// What a machine that is always running would answer.
fn answer(command: &Command) -> Reply {
    match command {
        Command::QueryStatus => Reply::of(&StatusInfo {
            running: true,
            status: RunState::Running,
        }),
        Command::QueryCommands => query_commands(),
        Command::QueryYank => Reply::of(&Vec::<YankInstance>::new()),
        _ => Reply::empty(),
    }
}

/// Carries out everything that is ready.
fn serve(session: &mut Session) {
    while let Some(request) = session.next_request() {
        let reply = answer(&request.command);
        session.reply(request.token, Ok(reply));
    }
}

/// Everything the session has to say, as JSON lines.
fn said(session: &mut Session) -> Vec<Value> {
    let text = String::from_utf8(session.output().to_vec()).unwrap();
    session.consume(session.output().len());
    assert!(text.is_empty() || text.ends_with("\r\n"));
    text.split_terminator("\r\n")
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A session past greeting and handshake.
fn ready(hello: &[u8]) -> Session {
    let mut session = Session::default();
    session.feed(hello, vec![]);
    serve(&mut session);
    assert_eq!(said(&mut session).last(), Some(&json!({"return": {}})));
    assert!(session.negotiated());
    session
}

fn ask(session: &mut Session, text: &[u8]) -> Vec<Value> {
    session.feed(text, vec![]);
    serve(session);
    said(session)
}

/// The one error `text` is answered with, as class and text.
fn refusal(session: &mut Session, text: &str) -> (String, String) {
    let all = ask(session, text.as_bytes());
    assert_eq!(all.len(), 1, "{text}: {all:?}");
    let error = &all[0]["error"];
    let word = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    (word("class"), word("desc"))
}

#[test]
fn a_whole_session() {
    let mut session = Session::default();
    let mut transcript = String::from_utf8(session.output().to_vec()).unwrap();
    session.consume(session.output().len());
    for line in [
        r#"{"execute":"query-status","id":0}"#,
        r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":{"a":[1,null]}}"#,
        r#"{"execute":"qmp_capabilities"}"#,
        r#"{"execute":"query-status","arguments":{}}{"exec-oob":"query-yank","id":"o"}"#,
        r#"{"execute":"query-status","id":1e3}"#,
        r#"{"execute":"nope","id":null}"#,
        r#"{"execute":"getfd","arguments":{"name":"x"},"id":"é"}"#,
        r#"{"execute":"stop","control":1}"#,
    ] {
        session.feed(line.as_bytes(), vec![]);
        session.event(&stop_event());
        serve(&mut session);
        transcript.push_str(std::str::from_utf8(session.output()).unwrap());
        session.consume(session.output().len());
    }
    let stop = r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"STOP"}"#;
    let wanted = [
        &format!(
            r#"{{"QMP":{{"version":{{"qemu":{{"major":10,"minor":0,"micro":0}},"package":"thimble {} (QMP 10.0 subset)"}},"capabilities":["oob"]}}}}"#,
            env!("CARGO_PKG_VERSION")
        ),
        r#"{"error":{"class":"CommandNotFound","desc":"Expecting capabilities negotiation with 'qmp_capabilities'"},"id":0}"#,
        r#"{"return":{},"id":{"a":[1,null]}}"#,
        stop,
        r#"{"error":{"class":"CommandNotFound","desc":"Capabilities negotiation is already complete, command ignored"}}"#,
        stop,
        r#"{"return":[],"id":"o"}"#,
        r#"{"return":{"running":true,"status":"running"}}"#,
        stop,
        r#"{"return":{"running":true,"status":"running"},"id":1000}"#,
        stop,
        r#"{"error":{"class":"CommandNotFound","desc":"The command nope has not been found"},"id":null}"#,
        stop,
        r#"{"error":{"class":"GenericError","desc":"Parameter 'fdname' is missing"},"id":"\u00E9"}"#,
        stop,
        r#"{"error":{"class":"GenericError","desc":"QMP input member 'control' is unexpected"}}"#,
    ];
    assert_eq!(
        transcript.split_terminator("\r\n").collect::<Vec<_>>(),
        wanted
    );
}

#[test]
fn the_handshake_is_strict() {
    let mut session = Session::default();
    assert!(said(&mut session)[0]["QMP"]["version"]["qemu"]["major"].is_number());
    session.event(&stop_event());
    assert!(!session.wants_write(), "no event before the handshake");
    for (text, class, desc) in [
        (
            r#"{"execute":"nope"}"#,
            "CommandNotFound",
            "Expecting capabilities negotiation with 'qmp_capabilities'",
        ),
        (
            r#"{"exec-oob":"query-yank"}"#,
            "GenericError",
            "QMP input member 'exec-oob' is unexpected",
        ),
        (
            r#"{"execute":"qmp_capabilities","arguments":{"enable":["foo"]}}"#,
            "GenericError",
            "Parameter 'null' does not accept value 'foo'",
        ),
        (
            r#"{"execute":"qmp_capabilities","arguments":{"bogus":1}}"#,
            "GenericError",
            "Parameter 'bogus' is unexpected",
        ),
    ] {
        let (got_class, got) = refusal(&mut session, text);
        assert_eq!((got_class.as_str(), got.as_str()), (class, desc), "{text}");
        assert!(!session.negotiated());
    }
    assert_eq!(ask(&mut session, HELLO), [json!({"return": {}})]);
}

#[test]
fn the_outer_form_is_checked() {
    let mut session = ready(HELLO_OOB);
    for (text, desc) in [
        ("[]", "QMP input must be a JSON object"),
        ("5 ", "QMP input must be a JSON object"),
        ("null\n", "QMP input must be a JSON object"),
        ("\"s\"", "QMP input must be a JSON object"),
        ("{}", "QMP input lacks member 'execute'"),
        (
            r#"{"execute":1}"#,
            "QMP input member 'execute' must be a string",
        ),
        (
            r#"{"execute":"a","exec-oob":"b"}"#,
            "QMP input member 'execute' clashes with 'exec-oob'",
        ),
        (
            r#"{"execute":"stop","arguments":[]}"#,
            "QMP input member 'arguments' must be an object",
        ),
        (
            r#"{"execute":"stop","arguments":null}"#,
            "QMP input member 'arguments' must be an object",
        ),
        (
            r#"{"execute":"stop","x":1}"#,
            "QMP input member 'x' is unexpected",
        ),
        (
            r#"{"exec-oob":"stop"}"#,
            "The command stop does not support OOB",
        ),
        (
            r#"{"exec-oob":"qmp_capabilities"}"#,
            "The command qmp_capabilities does not support OOB",
        ),
        (
            r#"{"exec-oob":"nope"}"#,
            "The command nope has not been found",
        ),
        ("{\"execute\":@}", "JSON parse error, stray '@'"),
    ] {
        assert_eq!(refusal(&mut session, text).1, desc, "{text}");
    }
    // The id is known as soon as the object is.
    assert_eq!(ask(&mut session, br#"{"id":9,"execute":1}"#)[0]["id"], 9);
}

#[test]
fn in_band_commands_run_one_at_a_time() {
    let mut session = ready(HELLO_OOB);
    session.feed(
        &br#"{"execute":"stop","id":1}{"execute":"cont","id":2}"#.repeat(2),
        vec![],
    );
    let first = session.next_request().unwrap();
    assert_eq!(first.command, Command::Stop);
    assert!(
        session.next_request().is_none(),
        "the second waits for the first"
    );
    session.reply(first.token, Ok(Reply::empty()));
    assert_eq!(session.next_request().unwrap().command, Command::Cont);
}

#[test]
fn errors_keep_their_place_in_the_queue() {
    let mut session = ready(HELLO_OOB);
    session.feed(
        br#"{"execute":"stop","id":1}{"execute":"nope","id":2}[1 2]"#,
        vec![],
    );
    let first = session.next_request().unwrap();
    assert!(session.next_request().is_none());
    assert!(
        !session.wants_write(),
        "nothing overtakes the first command"
    );
    session.reply(first.token, Ok(Reply::empty()));
    assert!(session.next_request().is_none());
    let all = said(&mut session);
    assert_eq!(all[0], json!({"return": {}, "id": 1}));
    assert_eq!(all[1]["id"], 2);
    assert_eq!(
        all[2]["error"]["desc"],
        "JSON parse error, expected separator in list"
    );
}

#[test]
fn out_of_band_overtakes() {
    let mut session = ready(HELLO_OOB);
    session.feed(
        br#"{"execute":"stop","id":1}{"execute":"cont","id":2}"#,
        vec![],
    );
    let first = session.next_request().unwrap();
    session.feed(br#"{"exec-oob":"query-yank","id":3}"#, vec![]);
    let oob = session.next_request().unwrap();
    assert!(oob.oob);
    session.reply(oob.token, Ok(answer(&oob.command)));
    assert_eq!(said(&mut session), [json!({"return": [], "id": 3})]);
    session.reply(first.token, Ok(Reply::empty()));
    serve(&mut session);
    let ids: Vec<_> = said(&mut session)
        .iter()
        .map(|reply| reply["id"].clone())
        .collect();
    assert_eq!(ids, [1, 2]);
}

#[test]
fn eight_commands_wait_and_the_ninth_is_not_read() {
    let mut session = ready(HELLO_OOB);
    let command = br#"{"execute":"stop"}"#;
    session.feed(command, vec![]);
    let running = session.next_request().unwrap();
    for waiting in 0..MAX_QUEUED {
        assert!(session.wants_read(), "{waiting}");
        session.feed(command, vec![]);
        assert!(session.next_request().is_none());
    }
    assert!(!session.wants_read());
    // Not even an out-of-band command is seen now, as in QEMU.
    session.feed(br#"{"exec-oob":"query-yank"}"#, vec![]);
    assert!(session.next_request().is_none());
    session.reply(running.token, Ok(Reply::empty()));
    let next = session.next_request().unwrap();
    assert!(!next.oob);
    let oob = session.next_request().unwrap();
    assert!(oob.oob && session.wants_read());
}

#[test]
fn without_oob_nothing_is_read_while_a_command_runs() {
    let mut session = ready(HELLO);
    session.feed(&br#"{"execute":"stop"}"#.repeat(3), vec![]);
    let mut served = 0;
    while let Some(request) = session.next_request() {
        assert!(!session.wants_read());
        served += 1;
        session.reply(request.token, Ok(Reply::empty()));
    }
    assert_eq!(served, 3);
    assert!(session.wants_read());
}

#[test]
fn a_client_that_does_not_read_is_bounded() {
    let mut session = ready(HELLO_OOB);
    let event = stop_event();
    for _ in 0..20_000 {
        session.event(&event);
    }
    assert!(session.output().len() <= MAX_OUTPUT_FOR_EVENTS + event.as_bytes().len());
    assert!(session.dropped_events() > 0);
    // Commands are answered still, up to a point.
    let mut rounds = 0;
    while session.wants_read() {
        session.feed(&br#"{"execute":"query-commands"}"#.repeat(8), vec![]);
        serve(&mut session);
        rounds += 1;
        assert!(rounds < 10_000);
    }
    let piled_up = session.output().len();
    assert!(piled_up > MAX_OUTPUT_FOR_REQUESTS && piled_up < MAX_OUTPUT_FOR_REQUESTS + (64 << 10));
    assert!(session.next_request().is_none() && !session.closed());
    // When it reads again, all goes on.
    session.consume(piled_up);
    serve(&mut session);
    assert!(session.wants_read());
}

#[test]
fn errors_for_rubbish_are_bounded_too() {
    let mut session = ready(HELLO_OOB);
    let mut rounds = 0;
    while session.wants_read() {
        session.feed(&[0xFF; MAX_INPUT], vec![]);
        serve(&mut session);
        rounds += 1;
        assert!(rounds < 1000);
    }
    assert!(session.output().len() < MAX_OUTPUT_FOR_REQUESTS + 4096);
    assert!(!session.closed());
}

#[test]
fn a_return_value_too_long_becomes_an_error() {
    let mut session = ready(HELLO);
    session.feed(br#"{"execute":"query-name","id":1}"#, vec![]);
    let request = session.next_request().unwrap();
    session.reply(request.token, Ok(Reply::of(&"x".repeat(MAX_REPLY))));
    let all = said(&mut session);
    assert_eq!((all[0]["id"].as_i64(), all.len()), (Some(1), 1));
    assert_eq!(all[0]["error"]["class"], "GenericError");
}

#[test]
fn the_last_words_are_answered() {
    let mut session = ready(HELLO);
    session.feed(br#"{"execute":"query-status"}{"execute":"#, vec![]);
    session.end_input();
    assert!(!session.wants_read() && !session.finished());
    let request = session.next_request().unwrap();
    assert!(!session.finished());
    session.reply(request.token, Ok(Reply::empty()));
    assert!(session.next_request().is_none());
    assert!(!session.finished(), "the reply is not sent yet");
    session.consume(session.output().len());
    assert!(session.finished());
}

// ---- Descriptors --------------------------------------------------------------------------

/// A descriptor that can be told from others.
fn descriptor() -> (OwnedFd, u64) {
    let file = tempfile::tempfile().unwrap();
    let inode = file.metadata().unwrap().ino();
    (file.into(), inode)
}

fn inodes(fds: &[OwnedFd]) -> Vec<u64> {
    fds.iter()
        .map(|fd| rustix::fs::fstat(fd.as_fd()).unwrap().st_ino)
        .collect()
}

const GETFD: &[u8] = br#"{"execute":"getfd","arguments":{"fdname":"a"}}"#;

/// Answers everything and gives the descriptors each `getfd` got.
fn getfds(session: &mut Session) -> Vec<Vec<u64>> {
    let mut out = Vec::new();
    while let Some(request) = session.next_request() {
        if matches!(request.command, Command::Getfd(_)) {
            out.push(inodes(&request.fds));
        } else {
            assert!(request.fds.is_empty());
        }
        session.reply(request.token, Ok(Reply::empty()));
    }
    out
}

#[test]
fn a_descriptor_on_a_space_waits_for_its_command() {
    let mut session = ready(HELLO_OOB);
    let (fd, inode) = descriptor();
    session.feed(b" ", vec![fd]);
    assert_eq!(getfds(&mut session), [[0; 0]; 0]);
    session.feed(br#"{"execute":"stop"}"#, vec![]);
    session.feed(GETFD, vec![]);
    session.feed(GETFD, vec![]);
    assert_eq!(getfds(&mut session), [vec![inode], vec![]], "taken once");
}

#[test]
fn a_descriptor_on_the_command_is_that_commands() {
    let mut session = ready(HELLO_OOB);
    let (fd, inode) = descriptor();
    session.feed(GETFD, vec![fd]);
    assert_eq!(getfds(&mut session), [[inode]]);
    // Also when the command comes in pieces.
    let (fd, inode) = descriptor();
    session.feed(&GETFD[..10], vec![fd]);
    session.feed(&GETFD[10..], vec![]);
    assert_eq!(getfds(&mut session), [[inode]]);
}

#[test]
fn a_later_message_replaces_what_is_pending() {
    let mut session = ready(HELLO_OOB);
    let ((old, _), (new, inode)) = (descriptor(), descriptor());
    session.feed(b" ", vec![old]);
    session.feed(&[GETFD, b"\r\n"].concat(), vec![new]);
    assert_eq!(getfds(&mut session), [[inode]]);
    let ((old, _), (new, inode)) = (descriptor(), descriptor());
    session.feed(b" ", vec![old]);
    session.feed(b" ", vec![new]);
    session.feed(GETFD, vec![]);
    assert_eq!(getfds(&mut session), [[inode]]);
}

#[test]
fn pipelined_commands_get_each_their_own() {
    // A read ends with the message that brought descriptors, and may begin with older bytes.
    let mut session = ready(HELLO_OOB);
    let ((a, first), (b, second)) = (descriptor(), descriptor());
    session.feed(b" ", vec![a]);
    session.feed(&[GETFD, b" "].concat(), vec![b]);
    session.feed(GETFD, vec![]);
    assert_eq!(getfds(&mut session), [[first], [second]]);
    let ((a, first), (b, second)) = (descriptor(), descriptor());
    session.feed(GETFD, vec![a]);
    session.feed(GETFD, vec![b]);
    assert_eq!(getfds(&mut session), [[first], [second]]);
    let ((a, first), (b, second)) = (descriptor(), descriptor());
    session.feed(b" ", vec![a]);
    session.feed(&[GETFD, GETFD].concat(), vec![b]);
    assert_eq!(getfds(&mut session), [[first], [second]]);
    // A command that ends in a space has its own all the same.
    let (a, first) = descriptor();
    session.feed(&[GETFD, b" "].concat(), vec![a]);
    assert_eq!(getfds(&mut session), [[first]]);
}

#[test]
fn a_refused_command_takes_nothing() {
    let mut session = ready(HELLO_OOB);
    let (fd, inode) = descriptor();
    session.feed(br#"{"execute":"getfd"}"#, vec![fd]);
    assert_eq!(getfds(&mut session), [[0; 0]; 0]);
    session.feed(GETFD, vec![]);
    assert_eq!(getfds(&mut session), [[inode]]);
}

#[test]
fn descriptors_are_bounded() {
    let mut session = ready(HELLO_OOB);
    session.feed(br#"{"execute":"stop"}"#, vec![]);
    let running = session.next_request().unwrap();
    let mut fed = 0;
    while session.wants_read() && fed < 1000 {
        session.feed(
            br#"{"execute":"stop"}"#,
            (0..3).map(|_| descriptor().0).collect(),
        );
        fed += 1;
    }
    assert!(
        fed < 20,
        "a client cannot make us hold any number of descriptors"
    );
    session.reply(running.token, Ok(Reply::empty()));
    serve(&mut session);
    session.feed(b" ", (0..100).map(|_| descriptor().0).collect());
    session.feed(GETFD, vec![]);
    assert_eq!(getfds(&mut session)[0].len(), MAX_FDS);
}

// ---- Any client ---------------------------------------------------------------------------

fn message() -> impl Strategy<Value = Vec<u8>> {
    let messages: Vec<&'static [u8]> = vec![
        br#"{"execute":"stop","id":1}"#,
        br#"{"execute":"query-status"}"#,
        br#"{"exec-oob":"query-yank","id":[2]}"#,
        br#"{"execute":"nope"}"#,
        br#"{"execute":"getfd","arguments":{"fdname":"x"}}"#,
        b"{\"a\":",
        b"}",
        b"\xff",
        b" ",
        b"\n",
        HELLO_OOB,
        HELLO,
    ];
    prop::sample::select(messages).prop_map(<[u8]>::to_vec)
}

proptest! {
    #[test]
    fn cutting_a_conversation_changes_nothing(
        messages in prop::collection::vec(message(), 0..30),
        cut in 1_usize..40,
    ) {
        let stream = messages.concat();
        let mut whole = Session::default();
        whole.feed(&stream, vec![]);
        serve(&mut whole);
        let mut pieces = Session::default();
        for piece in stream.chunks(cut) {
            pieces.feed(piece, vec![]);
            serve(&mut pieces);
        }
        // Out-of-band replies may come sooner or later; each lane keeps its order.
        let lanes = |session: &mut Session| {
            let oob = |reply: &Value| reply["id"] == json!([2]);
            let all = said(session);
            all.into_iter().partition::<Vec<_>, _>(oob)
        };
        prop_assert_eq!(lanes(&mut whole), lanes(&mut pieces));
        prop_assert!(whole.wants_read());
    }

    #[test]
    fn any_id_comes_back(text in any::<String>(), number in any::<i64>(), nested in 0_usize..50) {
        let mut id = json!({"t": text, "n": number});
        for _ in 0..nested {
            id = json!([id]);
        }
        let mut session = ready(HELLO);
        let command = json!({"execute": "stop", "id": id}).to_string();
        prop_assert_eq!(ask(&mut session, command.as_bytes()), [json!({"return": {}, "id": id})]);
    }

    #[test]
    fn rubbish_never_harms(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let mut session = ready(HELLO_OOB);
        session.feed(&bytes, vec![]);
        serve(&mut session);
        said(&mut session);
        session.feed(b"\xff", vec![]);
        serve(&mut session);
        said(&mut session);
        prop_assert_eq!(ask(&mut session, br#"{"execute":"stop","id":1}"#).len(), 1);
    }
}
