//! How a guest's process ends: power-off, halt, signals.

use std::time::Duration;

use harness::control::Client;
use harness::guest::{Launch, status};
use harness::wait::Deadline;
use harness::{guests, obey, skip};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::run_state::ready;

/// What only a hang takes.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_power_off_ends_it() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    obey::tell(&mut guest, "poweroff");
    let shutdown = client.expect_event("SHUTDOWN").data;
    assert_eq!(shutdown, json!({"guest": true, "reason": "guest-shutdown"}));
    guest.expect_exit(status::CLEAN);
    assert_eq!(guest.stderr(), "");
}

#[test]
fn on_poweroff_pause_keeps_it_for_another_life() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = obey::launch()
        .control()
        .args(["--on-poweroff", "pause"])
        .start();
    obey::ready(&mut guest);
    let mut client = guest.client();
    obey::tell(&mut guest, "poweroff");
    client.expect_event("SHUTDOWN");
    client.expect_event("STOP");
    assert_eq!(crate::state(&mut guest), "shutdown");
    client.execute("system_reset", Value::Null);
    client.execute("cont", Value::Null);
    obey::ready(&mut guest);
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
}

/// Every processor halted with interrupts off: nothing more will come of it.
#[test]
fn a_guest_that_halts_for_good_has_ended() {
    if skip::without_kvm() {
        return;
    }
    for cpus in ["1", "3"] {
        let mut guest = Launch::new()
            .kernel(guests::HALT, "")
            .args(["--cpus", cpus])
            .control()
            .start();
        guest.expect("HALT now");
        let mut client = guest.client();
        let told = client.expect_event("SHUTDOWN").data;
        assert_eq!(told, json!({"guest": true, "reason": "guest-shutdown"}));
        guest.expect_exit(status::CLEAN);
    }
}

#[test]
fn a_halted_guest_may_be_kept_and_reset() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new()
        .kernel(guests::HALT, "")
        .args(["--on-poweroff", "pause"])
        .control()
        .start();
    guest.expect("HALT now");
    let mut client = guest.client();
    for _ in 0..2 {
        client.expect_event("STOP");
        assert_eq!(crate::state(&mut guest), "shutdown");
        client.execute("system_reset", Value::Null);
        client.execute("cont", Value::Null);
        guest.expect("HALT now");
    }
    client.execute("quit", Value::Null);
    guest.expect_exit(status::CLEAN);
}

/// Waits until the halt watch has looked at an idle guest twice: each look interrupts its processor,
/// and the second finds it running again.
#[track_caller]
pub(crate) fn wait_for_looks(client: &mut Client) {
    let deadline = Deadline::after(LIMIT);
    let mut interrupted = || {
        let counters = client.execute("x-thimble-query-counters", Value::Null);
        let all = counters[0]["counters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let counter = all
            .iter()
            .find(|counter| counter["name"] == "exits-interrupted");
        let value = counter.and_then(|counter| counter["value"].as_u64());
        value.unwrap_or_else(|| panic!("{counters}"))
    };
    let before = interrupted();
    while interrupted() < before + 2 {
        assert!(!deadline.left().is_zero(), "nobody looks");
        std::thread::yield_now();
    }
}

/// It waits for its console, halted with interrupts on.
#[test]
fn an_idle_guest_has_not_ended() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    // The first looks after a start are close together.
    client.execute("stop", Value::Null);
    client.execute("cont", Value::Null);
    wait_for_looks(&mut client);
    assert_eq!(crate::state(&mut guest), "running");
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
}

/// Whether these tests run under nohup; guests of theirs do then, too, and heed it.
fn hang_ups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap();
    ignored & 1 != 0
}

#[test]
fn each_ending_signal_is_a_clean_end() {
    if skip::without_kvm() {
        return;
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        if signal == Signal::HUP && hang_ups_are_ignored() {
            continue;
        }
        let (mut guest, mut client) = ready();
        guest.signal(signal);
        let told = client.expect_event("SHUTDOWN").data;
        assert_eq!(told, json!({"guest": false, "reason": "host-signal"}));
        guest.expect_exit(status::CLEAN);
        assert!(!guest.path("control.sock").exists());
    }
}

#[test]
fn a_signal_ends_a_guest_that_is_stopped_or_has_not_begun() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    client.execute("stop", Value::Null);
    guest.signal(Signal::TERM);
    guest.expect_exit(status::CLEAN);

    let mut guest = obey::launch().control().arg("--paused").start();
    drop(guest.client());
    guest.signal(Signal::TERM);
    guest.expect_exit(status::CLEAN);
}

#[test]
fn a_guest_that_spins_is_stopped_and_ended_all_the_same() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new()
        .kernel(guests::SPIN, "")
        .control()
        .args(["--cpus", "2"])
        .start();
    guest.expect("SPIN ready");
    let mut client = guest.client();
    for _ in 0..50 {
        client.execute("stop", Value::Null);
        client.execute("cont", Value::Null);
    }
    guest.type_bytes(b"x");
    guest.expect("SPIN count=");
    guest.signal(Signal::TERM);
    guest.expect_exit(status::CLEAN);
}

/// Whoever ends it may be in a hurry, as service managers are that send several signals at once.
#[test]
fn several_signals_at_once_end_it_once() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    // Stopped, it finds all of them together.
    guest.signal(Signal::STOP);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::CONT] {
        guest.signal(signal);
    }
    let mut told = 0;
    while let Ok(Some(message)) = client.session().next_message(LIMIT) {
        told += u32::from(message["event"] == "SHUTDOWN");
    }
    assert_eq!(told, 1);
    guest.expect_exit(status::CLEAN);
}
