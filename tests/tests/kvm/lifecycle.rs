//! How a guest's process ends: power-off, halt, signals.

use harness::guest::{Launch, status};
use harness::{guests, obey, skip};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::run_state::ready;

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

#[test]
fn a_halted_guest_stays_answers_and_can_be_ended() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new().kernel(guests::HALT, "").control().start();
    guest.expect("HALT now");
    let mut client = guest.client();
    assert_eq!(crate::state(&mut guest), "running");
    client.execute("stop", Value::Null);
    client.execute("cont", Value::Null);
    client.execute("inject-nmi", Value::Null);
    assert_eq!(crate::state(&mut guest), "running");
    client.execute("quit", Value::Null);
    guest.expect_exit(status::CLEAN);
}

#[test]
fn each_ending_signal_is_a_clean_end() {
    if skip::without_kvm() {
        return;
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
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
