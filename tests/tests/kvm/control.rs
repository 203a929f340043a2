//! The control socket of a running guest.

use api_socket::qmp::error::ErrorClass;
use harness::guest::{Guest, Launch, status};
use harness::skip;
use serde_json::{Value, json};

use crate::boot::PROMPT;

/// A built-in guest at its prompt, with a control socket.
#[track_caller]
fn ready() -> Guest {
    let mut guest = Launch::new().control().start();
    guest.expect(PROMPT);
    guest
}

#[test]
fn it_greets_as_qmp_does() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = ready();
    let client = guest.client();
    let version = &client.greeting()["QMP"]["version"]["qemu"];
    assert!(version["major"].is_u64(), "{}", client.greeting());
}

#[test]
fn stop_and_cont_tell_their_events_to_every_client() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = ready();
    let mut one = guest.client();
    let mut other = guest.client();
    one.execute("stop", Value::Null);
    other.expect_event("STOP");
    assert_eq!(
        other.execute("query-status", Value::Null)["status"],
        "paused"
    );
    other.execute("cont", Value::Null);
    one.expect_event("RESUME");
    assert_eq!(one.execute("query-status", Value::Null)["running"], true);
}

#[test]
fn a_guest_started_paused_says_nothing_until_cont() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new().control().arg("--paused").start();
    let mut client = guest.client();
    assert_eq!(
        client.execute("query-status", Value::Null)["status"],
        "prelaunch"
    );
    client.execute("cont", Value::Null);
    guest.expect(PROMPT);
}

#[test]
fn the_power_button_ends_the_guest() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = ready();
    let mut client = guest.client();
    client.execute("system_powerdown", Value::Null);
    client.expect_event("POWERDOWN");
    let shutdown = client.expect_event("SHUTDOWN");
    assert_eq!(shutdown.data["guest"], true, "{shutdown:?}");
    guest.expect_exit(status::CLEAN);
}

#[test]
fn system_reset_starts_the_guest_again() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = ready();
    let mut client = guest.client();
    client.execute("system_reset", Value::Null);
    let reset = client.expect_event("RESET");
    assert_eq!(reset.data["reason"], "host-qmp-system-reset", "{reset:?}");
    guest.expect(PROMPT);
}

#[test]
fn quit_ends_the_process() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = ready();
    let mut client = guest.client();
    client.execute("quit", Value::Null);
    let shutdown = client.expect_event("SHUTDOWN");
    assert_eq!(shutdown.data["reason"], "host-qmp-quit", "{shutdown:?}");
    guest.expect_exit(status::CLEAN);
}

#[test]
fn an_unknown_command_is_refused_by_name() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = ready();
    let refusal = guest
        .client()
        .try_execute("no-such-command", json!({}))
        .unwrap_err();
    assert_eq!(refusal.class, ErrorClass::CommandNotFound);
    assert!(refusal.desc.contains("no-such-command"), "{}", refusal.desc);
}

#[test]
fn the_socket_is_its_owners_alone_and_goes_with_the_process() {
    use std::os::unix::fs::PermissionsExt;
    if skip::without_kvm() {
        return;
    }
    let mut guest = ready();
    let path = guest.path("control.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    guest.type_line("poweroff");
    guest.expect_exit(status::CLEAN);
    assert!(!path.exists(), "the socket outlived its process");
}
