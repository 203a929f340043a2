//! Broken input from outside: each gives an error that names the thing, and an exit status.

use harness::guest::{Launch, status};
use harness::skip;

/// Starts with `arguments`, wants the exit status and a mention of each text on stderr.
#[track_caller]
fn refused(launch: Launch, code: i32, mentions: &[&str]) {
    let mut guest = launch.start();
    guest.expect_exit(code);
    let said = guest.stderr();
    for text in mentions {
        assert!(said.contains(text), "no mention of {text:?} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_kernel_that_is_not_there() {
    refused(
        Launch::new().args(["--kernel", "absent"]),
        status::FAILED,
        &["absent"],
    );
}

#[test]
fn a_kernel_that_is_a_directory() {
    refused(
        Launch::new().args(["--kernel", "."]),
        status::FAILED,
        &["directory"],
    );
}

#[test]
fn a_kernel_that_is_empty_or_rubbish() {
    if skip::without_kvm() {
        return;
    }
    for content in [&b""[..], b"rubbish", &[0xFF; 4096]] {
        let launch = Launch::new();
        let path = launch.path("kernel");
        std::fs::write(&path, content).unwrap();
        refused(
            launch.arg("--kernel").arg(path),
            status::FAILED,
            &["kernel"],
        );
    }
}

#[test]
fn a_disk_that_is_not_there() {
    refused(
        Launch::new().args(["--disk", "path=absent"]),
        status::FAILED,
        &["absent"],
    );
}

#[test]
fn a_configuration_that_is_cut_short() {
    let launch = Launch::new();
    let path = launch.path("config.json");
    std::fs::write(&path, b"{\"memory\": ").unwrap();
    refused(
        launch.arg("--config").arg(path),
        status::USAGE,
        &["config.json"],
    );
}

#[test]
fn every_problem_of_a_configuration_is_named_at_once() {
    let launch = Launch::new().args(["--memory", "3", "--cpus", "0"]);
    refused(launch, status::USAGE, &["memory", "cpus"]);
}

#[test]
fn an_unknown_flag() {
    refused(
        Launch::new().arg("--no-such-flag"),
        status::USAGE,
        &["--no-such-flag"],
    );
}
