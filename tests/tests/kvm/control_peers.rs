//! Several clients: each has its own state, and none can slow down another, or the guest.

use std::io::Read;

use api_socket::qmp::error::ErrorClass;
use harness::control::Client;
use harness::{obey, skip};
use serde_json::{Value, json};

use crate::control_transcript::Raw;
use crate::run_state::ready;

#[test]
fn each_client_has_its_own_negotiation_and_descriptors() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut one) = ready();
    // `one` has out-of-band execution, this one has not, and this one has not even begun.
    let mut plain = Raw::negotiated(&guest);
    let mut silent = Raw::connect(&guest);
    let yank = one.session().execute_oob("query-yank", Value::Null);
    assert_eq!(yank.unwrap(), json!([]));
    let refused = plain.ask(r#"{"exec-oob":"query-yank"}"#);
    assert_eq!(refused["error"]["class"], "GenericError", "{refused}");
    assert!(silent.line()["QMP"].is_object());
    let refused = silent.ask(r#"{"execute":"query-yank"}"#);
    assert_eq!(refused["error"]["class"], "CommandNotFound", "{refused}");

    let file = std::fs::File::open("/dev/null").unwrap();
    let mut other = guest.client();
    let kept = one.session().execute_with_fds(
        "getfd",
        json!({"fdname": "mine"}),
        &[std::os::fd::AsFd::as_fd(&file)],
    );
    assert_eq!(kept.unwrap(), json!({}));
    let refused = other.try_execute("closefd", json!({"fdname": "mine"}));
    assert_eq!(refused.unwrap_err().class, ErrorClass::GenericError);
    one.execute("closefd", json!({"fdname": "mine"}));
}

#[test]
fn events_go_to_everybody_past_the_handshake() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut one) = ready();
    let mut others: Vec<Client> = (0..10).map(|_| guest.client()).collect();
    one.execute("stop", Value::Null);
    for other in &mut others {
        other.expect_event("STOP");
    }
}

#[test]
fn a_client_that_never_reads_slows_nobody_down() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    let mut deaf = Raw::negotiated(&guest);
    // Far more than a socket and a session hold, by commands and by the guest.
    for _ in 0..3000 {
        client.execute("stop", Value::Null);
        client.execute("cont", Value::Null);
    }
    assert_eq!(
        obey::ask(&mut guest, "pvpanic 2 2000").text("written"),
        "2000"
    );
    client.session().take_events();
    assert_eq!(crate::state(&mut guest), "running");
    // It is still connected, has missed some, and gets whole lines and its own answer.
    deaf.send(r#"{"execute":"query-status","id":"late"}"#);
    let mut events = 0;
    loop {
        let line = deaf.line();
        if line.get("id").is_some() {
            assert_eq!(line["return"]["status"], "running");
            break;
        }
        assert!(line["event"].is_string(), "{line}");
        events += 1;
    }
    assert!((1..6000 + 2000).contains(&events), "{events}");
}

#[test]
fn a_client_that_asks_and_never_reads_is_held_back_alone() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, _client) = ready();
    let mut greedy = Raw::negotiated(&guest);
    greedy.socket.set_nonblocking(true).unwrap();
    // Until its socket takes no more: the server has stopped reading from it.
    let question = br#"{"execute":"query-qmp-schema"}"#.repeat(64);
    let mut sent = 0_u64;
    loop {
        match std::io::Write::write(&mut greedy.socket, &question) {
            Ok(count) => sent += count as u64,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                // Full, or only for now? It is full if others have been served meanwhile and it
                // still is.
                for _ in 0..3 {
                    assert_eq!(crate::state(&mut guest), "running");
                }
                if std::io::Write::write(&mut greedy.socket, b" ").is_err() {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
        assert!(
            sent < 64 << 20,
            "a client's questions pile up without bound"
        );
    }
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
}

#[test]
fn clients_that_die_at_any_moment_leave_nothing_behind() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    let descriptors = |guest: &harness::guest::Guest| {
        std::fs::read_dir(format!("/proc/{}/fd", guest.pid()))
            .unwrap()
            .count()
    };
    let before = descriptors(&guest);
    let file = std::fs::File::open("/dev/null").unwrap();
    for _ in 0..20 {
        // Before a word, half-way through a command, with an answer under way, with descriptors.
        drop(Raw::connect(&guest));
        let mut half = Raw::negotiated(&guest);
        half.send(br#"{"execute":"stop","argu"#);
        drop(half);
        let mut asked = Raw::negotiated(&guest);
        asked.send(r#"{"execute":"query-qmp-schema"}"#.repeat(50));
        drop(asked);
        let mut laden = guest.client();
        let fds = [std::os::fd::AsFd::as_fd(&file); 4];
        laden.session().send_fds(&fds).unwrap();
        drop(laden);
    }
    assert_eq!(crate::state(&mut guest), "running");
    // Sooner or later: a client's end is served like anything else it does.
    while descriptors(&guest) > before {
        client.execute("query-status", Value::Null);
    }
}

#[test]
fn the_sixty_fifth_client_waits_for_its_turn() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    let mut others: Vec<Client> = (0..63).map(|_| guest.client()).collect();
    let mut waiting = Raw::connect(&guest);
    waiting.socket.set_nonblocking(true).unwrap();
    for other in &mut others {
        assert_eq!(other.execute("query-status", Value::Null)["running"], true);
    }
    let mut byte = [0];
    let early = waiting.socket.read(&mut byte).map_err(|error| error.kind());
    assert_eq!(early, Err(std::io::ErrorKind::WouldBlock));
    waiting.socket.set_nonblocking(false).unwrap();
    drop(others.pop());
    assert!(waiting.line()["QMP"].is_object());
    client.execute("query-status", Value::Null);
}
