//! stop, cont, reset, power button and NMI by command, in the states there are.

use harness::control::Client;
use harness::guest::{Guest, Launch, status};
use harness::{guests, obey, skip};
use serde_json::{Value, json};

/// A guest that obeys, at its prompt, and a session.
#[track_caller]
pub(crate) fn ready() -> (Guest, Client) {
    let mut guest = obey::launch().control().start();
    obey::ready(&mut guest);
    let client = guest.client();
    (guest, client)
}

/// The names of the events that have come by now, in order.
#[track_caller]
fn events(client: &mut Client) -> Vec<String> {
    // Whatever was told before this command's answer has come with it.
    client.execute("query-status", Value::Null);
    let events = client.session().take_events();
    events.into_iter().map(|event| event.event).collect()
}

#[test]
fn stop_and_cont_tell_one_event_each_however_often_they_are_said() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    for command in [
        "cont", "stop", "stop", "stop", "cont", "cont", "stop", "cont",
    ] {
        client.execute(command, Value::Null);
    }
    assert_eq!(events(&mut client), ["STOP", "RESUME", "STOP", "RESUME"]);
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
}

#[test]
fn a_stopped_guest_does_nothing_until_it_goes_on() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new().kernel(guests::SPIN, "").control().start();
    guest.expect("SPIN ready");
    let mut client = guest.client();
    client.execute("stop", Value::Null);
    // Typed while it is stopped; it answers after.
    guest.type_bytes(b"x");
    let counters = |client: &mut Client| {
        client.execute("x-thimble-query-counters", Value::Null)[0]["counters"].clone()
    };
    let before = counters(&mut client);
    assert_eq!(counters(&mut client), before);
    client.execute("cont", Value::Null);
    guest.expect("SPIN count=");
}

#[test]
fn system_reset_works_in_every_state() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = obey::launch().control().arg("--paused").start();
    let mut client = guest.client();
    let reset = |client: &mut Client, guest: &mut Guest, after: &str| {
        client.execute("system_reset", Value::Null);
        let told = client.expect_event("RESET").data;
        assert_eq!(
            told,
            json!({"guest": false, "reason": "host-qmp-system-reset"})
        );
        assert_eq!(crate::state(guest), after);
    };
    assert_eq!(crate::state(&mut guest), "prelaunch");
    reset(&mut client, &mut guest, "prelaunch");
    client.execute("cont", Value::Null);
    obey::ready(&mut guest);
    // Running: it goes on at once, anew.
    reset(&mut client, &mut guest, "running");
    obey::ready(&mut guest);
    client.execute("stop", Value::Null);
    reset(&mut client, &mut guest, "prelaunch");
    client.execute("cont", Value::Null);
    obey::ready(&mut guest);
    // Halted for good.
    obey::tell(&mut guest, "halt");
    reset(&mut client, &mut guest, "running");
    obey::ready(&mut guest);
    // Powered off, but kept.
    client.execute("set-action", json!({"shutdown": "pause"}));
    obey::tell(&mut guest, "poweroff");
    client.expect_event("STOP");
    assert_eq!(crate::state(&mut guest), "shutdown");
    reset(&mut client, &mut guest, "prelaunch");
    client.execute("cont", Value::Null);
    obey::ready(&mut guest);
    // Panicked, and kept.
    client.execute("set-action", json!({"panic": "pause"}));
    obey::tell(&mut guest, "pvpanic 1 1");
    client.expect_event("STOP");
    assert_eq!(crate::state(&mut guest), "guest-panicked");
    reset(&mut client, &mut guest, "prelaunch");
    client.execute("cont", Value::Null);
    obey::ready(&mut guest);
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
}

#[test]
fn an_nmi_reaches_the_guest_running_and_stopped() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    client.execute("inject-nmi", Value::Null);
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "1");
    client.execute("stop", Value::Null);
    client.execute("inject-nmi", Value::Null);
    client.execute("cont", Value::Null);
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "2");
    let said = client.execute("human-monitor-command", json!({"command-line": "nmi"}));
    assert_eq!(said, "");
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "3");
}

#[test]
fn the_power_button_may_be_ignored() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    client.execute("system_powerdown", Value::Null);
    client.expect_event("POWERDOWN");
    assert_eq!(crate::state(&mut guest), "running");
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
}

#[test]
fn set_action_takes_effect_at_once() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    client.execute("set-action", json!({"panic": "none"}));
    let told = obey::ask(&mut guest, "pvpanic 1 1");
    assert_eq!(told.text("written"), "1");
    let panicked = client.expect_event("GUEST_PANICKED").data;
    assert_eq!(panicked, json!({"action": "run"}));
    assert_eq!(crate::state(&mut guest), "running");

    client.execute(
        "set-action",
        json!({"reboot": "shutdown", "shutdown": "pause"}),
    );
    obey::tell(&mut guest, "reset acpi");
    let shutdown = client.expect_event("SHUTDOWN").data;
    assert_eq!(shutdown, json!({"guest": true, "reason": "guest-reset"}));
    client.expect_event("STOP");
    assert_eq!(crate::state(&mut guest), "shutdown");
    let refusal = client.try_execute("cont", Value::Null).unwrap_err();
    assert!(refusal.desc.contains("Resetting"), "{}", refusal.desc);

    client.execute("system_reset", Value::Null);
    client.execute("set-action", json!({"shutdown": "poweroff"}));
    client.execute("cont", Value::Null);
    obey::ready(&mut guest);
    obey::tell(&mut guest, "reset i8042");
    guest.expect_exit(status::CLEAN);

    let (_guest, mut client) = ready();
    let refusal = client
        .try_execute("set-action", json!({"panic": "dance"}))
        .unwrap_err();
    assert!(refusal.desc.contains("dance"), "{}", refusal.desc);
}

#[test]
fn quit_ends_a_guest_in_any_state() {
    if skip::without_kvm() {
        return;
    }
    for before in ["cont", "stop", "system_reset"] {
        let (mut guest, mut client) = ready();
        client.execute(before, Value::Null);
        client.execute("quit", Value::Null);
        let told = client.expect_event("SHUTDOWN").data;
        assert_eq!(told, json!({"guest": false, "reason": "host-qmp-quit"}));
        guest.expect_exit(status::CLEAN);
    }
}
