//! Two clients at once that stop, continue and reset, without waiting for answers, a guest that
//! resets itself all the time.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use harness::control::Client;
use harness::guest::{LIMIT, Launch, status};
use harness::{guests, skip};
use serde_json::{Value, json};

/// Commands of one client. A few in each hundred reset the guest, so that it gets as far as
/// resetting itself in between.
const COMMANDS: usize = 600;
/// Rounds after which something is broken: a few do, some hundred on a machine that is very busy.
const ROUNDS: usize = 2000;
/// The storm lasts until the guest has reset itself so often meanwhile.
const OWN_RESETS: usize = 8;
const RESET: &str = "system_reset";

/// The orders of one client. Each follows each of the others somewhere.
fn orders(turn: usize) -> Vec<&'static str> {
    (0..COMMANDS)
        .map(|at| match (at + 30 * turn) % 61 {
            7 | 20 | 21 => RESET,
            place if place % 2 == turn => "stop",
            _ => "cont",
        })
        .collect()
}

/// Sends all of them in one go and reads until the last is answered: everything the client was
/// told, in order.
#[track_caller]
fn storm(client: &mut Client, turn: usize) -> Vec<Value> {
    let text: String = orders(turn)
        .iter()
        .enumerate()
        .map(|(id, name)| format!("{{\"execute\":\"{name}\",\"id\":{id}}}"))
        .collect();
    let session = client.session();
    session.send_raw(text.as_bytes()).unwrap();
    let mut told = Vec::new();
    loop {
        let message = session.next_message(LIMIT).unwrap().unwrap();
        let last = message["id"] == COMMANDS - 1;
        told.push(message);
        if last {
            return told;
        }
    }
}

/// Wants each command answered, in order and without an error.
#[track_caller]
fn all_answered(told: &[Value]) {
    let replies: Vec<&Value> = told.iter().filter(|m| m.get("id").is_some()).collect();
    assert_eq!(replies.len(), COMMANDS);
    for (id, reply) in replies.into_iter().enumerate() {
        assert_eq!(*reply, json!({"return": {}, "id": id}));
    }
}

/// How often the guest was reset: by itself, or by command.
fn resets(told: &[Value], by_itself: bool) -> usize {
    told.iter()
        .filter(|m| m["event"] == "RESET" && m["data"]["guest"] == by_itself)
        .count()
}

/// Storms until `enough` says so, given what was told, and counts the rounds.
#[track_caller]
fn storms(
    client: &mut Client,
    turn: usize,
    enough: impl Fn(&[Value]) -> bool,
) -> (Vec<Value>, usize) {
    let (mut told, mut rounds) = (Vec::new(), 0);
    while !enough(&told) {
        assert!(rounds < ROUNDS, "the guest never gets to reset itself");
        let round = storm(client, turn);
        all_answered(&round);
        told.extend(round);
        rounds += 1;
    }
    (told, rounds)
}

#[test]
fn ends_in_one_state_with_every_change_told_once() {
    if skip::without_kvm() {
        return;
    }
    // It starts anew for ever: its triple fault is a reset.
    let launch = Launch::new().kernel(guests::TRIPLE_FAULT, "").control();
    let mut guest = launch.start();
    guest.expect("TRIPLE FAULT now");
    let (mut first, mut second) = (guest.client(), guest.client());
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let other = std::thread::spawn(move || {
        let (_, rounds) = storms(&mut second, 1, |_| is_over.load(Relaxed));
        (second, rounds)
    });
    let (mut told, rounds) = storms(&mut first, 0, |told| resets(told, true) >= OWN_RESETS);
    over.store(true, Relaxed);
    let (mut second, rounds_of_second) = other.join().unwrap();

    // What came since, up to the answer that tells the state.
    let session = first.session();
    session
        .send_raw(br#"{"execute":"query-status","id":"status"}"#)
        .unwrap();
    let state = loop {
        let message = session.next_message(LIMIT).unwrap().unwrap();
        if message["id"] == "status" {
            break message["return"].clone();
        }
        told.push(message);
    };
    let changes: Vec<&str> = told
        .iter()
        .filter_map(|message| message["event"].as_str())
        .filter(|name| ["STOP", "RESUME"].contains(name))
        .collect();
    for (at, name) in changes.iter().enumerate() {
        assert_eq!(*name, ["STOP", "RESUME"][at % 2], "change {at}");
    }
    let running = changes.last() != Some(&"STOP");
    assert_eq!(state["running"], running, "{state}");
    let asked = |turn| orders(turn).iter().filter(|o| **o == RESET).count();
    let wanted = rounds * asked(0) + rounds_of_second * asked(1);
    assert_eq!(resets(&told, false), wanted);

    // It lives: it resets itself again, until it is stopped, and then no more.
    second.execute("cont", Value::Null);
    first.session().take_events();
    while first.expect_event("RESET").data["guest"] == false {}
    second.execute("stop", Value::Null);
    assert_eq!(crate::state(&mut guest), "paused");
    first.execute("quit", Value::Null);
    guest.expect_exit(status::CLEAN);
}
