//! The built-in guest, at its console: what a newcomer's first command shows.

use harness::guest::{Launch, status};
use harness::skip;

/// What the built-in guest says when it takes lines.
pub(crate) const PROMPT: &str = "thimble> ";

#[test]
fn it_says_what_it_sees_and_echoes() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new().start();
    let seen = guest.expect(PROMPT);
    assert!(seen.contains("thimble"), "{seen}");
    guest.type_line("a line of text");
    guest.expect("a line of text");
    guest.expect(PROMPT);
    guest.type_line("poweroff");
    guest.expect_exit(status::CLEAN);
}

#[test]
fn reset_starts_it_again_in_place() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new().start();
    let pid = guest.pid();
    let first = guest.expect(PROMPT);
    guest.type_line("reset");
    let second = guest.expect(PROMPT);
    assert_eq!(guest.pid(), pid);
    let greeting = first.lines().find(|line| !line.trim().is_empty()).unwrap();
    assert!(
        second.contains(greeting.trim()),
        "no greeting after the reset: {second}"
    );
    guest.type_line("poweroff");
    guest.expect_exit(status::CLEAN);
}

#[test]
fn a_reset_can_be_made_to_end_it() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new().args(["--on-reboot", "shutdown"]).start();
    guest.expect(PROMPT);
    guest.type_line("reset");
    guest.expect_exit(status::CLEAN);
}

#[test]
fn a_panic_is_a_crash() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new().start();
    guest.expect(PROMPT);
    guest.type_line("panic");
    guest.expect_exit(status::CRASHED);
}

#[test]
fn a_console_that_hangs_up_does_not_end_it() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new().control().start();
    guest.expect(PROMPT);
    guest.hang_up();
    let mut client = guest.client();
    assert_eq!(
        client.execute("query-status", serde_json::Value::Null)["status"],
        "running"
    );
    client.execute("quit", serde_json::Value::Null);
    guest.expect_exit(status::CLEAN);
}

#[test]
fn memory_and_cpus_are_as_asked() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new()
        .args(["--memory", "16M", "--cpus", "2"])
        .start();
    guest.expect(PROMPT);
    guest.type_line("poweroff");
    guest.expect_exit(status::CLEAN);
}

/// As with `echo poweroff | thimble run`: what is typed before the guest listens is heard.
#[test]
fn what_was_typed_ahead_is_heard_from_the_first_byte() {
    if skip::without_kvm() {
        return;
    }
    for _ in 0..5 {
        let mut guest = Launch::new().start();
        guest.type_line("poweroff");
        guest.expect("thimble> poweroff");
        guest.expect_exit(status::CLEAN);
    }
}
