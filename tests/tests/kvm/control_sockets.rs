//! The control sockets themselves: whose they are, several of them, inherited ones, and what is
//! there before.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use harness::control::Client;
use harness::guest::{LIMIT, Launch, status};
use harness::{guests, obey, skip};
use serde_json::{Value, json};

#[test]
fn a_socket_is_its_owners_alone_and_goes_with_the_process() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = crate::run_state::ready();
    let path = guest.path("control.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    client.execute("quit", Value::Null);
    guest.expect_exit(status::CLEAN);
    assert!(!path.exists(), "the socket outlived its process");
}

#[test]
fn several_sockets_lead_to_one_guest() {
    if skip::without_kvm() {
        return;
    }
    let launch = obey::launch().control();
    let second = launch.path("second.sock");
    let mut guest = launch.arg("--control").arg(&second).start();
    let mut one = guest.client();
    let mut other = Client::connect(&second, LIMIT).unwrap();
    other.execute("stop", Value::Null);
    one.expect_event("STOP");
    drop(guest);
}

#[test]
fn a_dead_socket_is_replaced_a_live_one_and_a_file_are_not() {
    if skip::without_kvm() {
        return;
    }
    let launch = obey::launch().control();
    let path = launch.path("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let mut guest = launch.start();
    drop(guest.client());

    let live = path.to_str().unwrap();
    let mut second = Launch::new().args(["--control", live]).start();
    second.expect_exit(status::FAILED);
    assert!(second.stderr().contains(live), "{}", second.stderr());
    drop(guest.client());

    let file = guest.path("precious");
    std::fs::write(&file, "precious").unwrap();
    let name = file.to_str().unwrap();
    let mut third = Launch::new().args(["--control", name]).start();
    third.expect_exit(status::FAILED);
    assert!(third.stderr().contains(name), "{}", third.stderr());
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_socket_may_be_inherited() {
    if skip::without_kvm() {
        return;
    }
    // The shell moves its standard input, the socket, to the number that is named.
    let launch = Launch::under(&["sh", "-c", "exec \"$0\" \"$@\" 9<&0 < /dev/null"])
        .kernel(guests::OBEY, "")
        .args(["--control", "fd=9"]);
    let path = launch.path("inherited.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut guest = launch.start_on(Stdio::from(OwnedFd::from(listener)), Stdio::piped());
    guest.expect("OBEY ready");
    let mut client = Client::connect(&path, LIMIT).unwrap();
    assert_eq!(client.execute("query-status", Value::Null)["running"], true);
    client.execute("quit", Value::Null);
    guest.expect_exit(status::CLEAN);
    assert!(path.exists(), "what was inherited is not ours to remove");
}

#[test]
fn a_number_that_is_no_listening_socket_is_refused() {
    let mut closed = Launch::new().args(["--control", "fd=77"]).start();
    closed.expect_exit(status::FAILED);
    assert!(closed.stderr().contains("fd=77"), "{}", closed.stderr());
    let mut file = Launch::under(&["sh", "-c", "exec \"$0\" \"$@\" 9< /dev/null"])
        .args(["--control", "fd=9"])
        .start();
    file.expect_exit(status::FAILED);
    assert!(file.stderr().contains("socket"), "{}", file.stderr());
    let mut low = Launch::new().args(["--control", "fd=0"]).start();
    low.expect_exit(status::USAGE);
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let mut guest = Launch::new()
        .args(["--control", "no/such/place.sock"])
        .start();
    guest.expect_exit(status::FAILED);
    assert!(guest.stderr().contains("no/such/place.sock"));
    let long = format!("/tmp/{}", "x".repeat(200));
    let mut guest = Launch::new().args(["--control", &long]).start();
    guest.expect_exit(status::USAGE);
    assert!(guest.stderr().contains("107"), "{}", guest.stderr());
}

#[test]
fn thimble_qmp_talks_to_it_from_a_shell() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, _client) = crate::run_state::ready();
    let socket = guest.path("control.sock");
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(harness::built::thimble())
            .arg("qmp")
            .arg(&socket)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), said)
    };
    let (code, said) = run(&["query-status"]);
    assert_eq!(code, Some(0));
    let status: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(status, json!({"running": true, "status": "running"}));
    assert_eq!(run(&["set-action", r#"{"panic":"none"}"#]).0, Some(0));
    assert_eq!(run(&["no-such-command"]).0, Some(1));
    assert_eq!(run(&["stop", "no json"]).0, Some(2));
    assert_eq!(run(&["quit"]).0, Some(0));
    guest.expect_exit(status::CLEAN);
    assert_eq!(run(&["query-status"]).0, Some(1));
}
