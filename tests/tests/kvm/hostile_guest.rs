//! Guests that misbehave: the machine lives on, its devices work after a reset, its log and memory
//! stay small, and its control socket answers.

use harness::control::Client;
use harness::guest::{Guest, Launch, status};
use harness::{guests, obey, skip};
use serde_json::Value;

use crate::passes;

#[test]
fn rubbish_in_every_register() {
    if skip::without_kvm() {
        return;
    }
    for seed in 1..=4 {
        let launch = Launch::new()
            .kernel(guests::HOSTILE_REGS, &format!("seed={seed}"))
            .empty_disk("disk.img", 1 << 20, "")
            .arg("--rng");
        let said = passes(launch);
        assert_eq!(said.matches("TEST works ok").count(), 2, "{said}");
    }
}

#[test]
fn broken_rings_and_chains() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new()
        .kernel(guests::HOSTILE_RING, "")
        .empty_disk("disk.img", 1 << 20, "")
        .arg("--rng")
        .start();
    let said = guest.expect_exit(status::CLEAN);
    assert!(said.contains(" failed=0\r\n"), "{said}");
    assert!(!guest.stderr().contains("panicked"), "{}", guest.stderr());
}

/// A guest that obeys, with a disk, and a session.
#[track_caller]
fn ready(arguments: &[&str]) -> (Guest, Client) {
    let mut guest = obey::launch()
        .control()
        .empty_disk("disk.img", 1 << 20, ",id=disk0")
        .args(arguments)
        .start();
    obey::ready(&mut guest);
    let client = guest.client();
    (guest, client)
}

/// KiB of memory of the process's own; the guest's is in a file.
#[track_caller]
fn own_memory(guest: &Guest) -> u64 {
    let path = format!("/proc/{}/status", guest.pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let digits = line.and_then(|rest| rest.split_ascii_whitespace().next());
    digits.unwrap().parse().unwrap()
}

#[test]
fn a_device_that_stops_is_told_of_once_and_no_more_than_some_times() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, _client) = ready(&[]);
    let mentions = |guest: &Guest| {
        let said = guest.stderr();
        said.matches("disk0: stopped until its driver resets it")
            .count()
    };
    assert_eq!(obey::ask(&mut guest, "break 1").text("needs_reset"), "1");
    // The log line is written by a thread that need not have come to it.
    guest.expect_stderr("disk0: stopped");
    assert_eq!(mentions(&guest), 1);
    assert_eq!(
        obey::ask(&mut guest, "break 300").text("needs_reset"),
        "300"
    );
    assert!(mentions(&guest) <= 15, "{}", guest.stderr());
    let taken = obey::ask(&mut guest, "disk 0");
    assert_eq!(taken.text("sectors"), "2048");
    assert_eq!(obey::ask(&mut guest, "write 0 2048 1").text("status"), "0");
}

/// A guest that does `line`, which ends with `written=`, while the control socket is asked.
#[track_caller]
fn flood(arguments: &[&str], line: &str, event: &str, events_at_most: usize) {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready(arguments);
    let _deaf = crate::control_transcript::Raw::negotiated(&guest);
    // What the first answers take is not what the flood takes.
    client.execute("query-qmp-schema", Value::Null);
    let before = own_memory(&guest);
    obey::tell(&mut guest, line);
    for _ in 0..200 {
        client.execute("query-status", Value::Null);
    }
    let _ = obey::answer(&mut guest).number::<u64>("written");
    let grown = own_memory(&guest).saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB more after the flood");
    client.execute("query-status", Value::Null);
    let told = client.session().take_events();
    let count = told.iter().filter(|one| one.event == event).count();
    assert!(count <= events_at_most, "{count} {event}");
    assert!(!told.is_empty());
    assert_eq!(crate::state(&mut guest), "running");
}

#[test]
fn a_flood_of_panics_that_change_nothing() {
    let arguments = ["--on-panic", "none", "--cpus", "2"];
    flood(&arguments, "pvpanic 1 5000", "GUEST_PANICKED", 5000);
}

#[test]
fn a_flood_of_crash_kernels() {
    flood(&[], "pvpanic 2 20000", "GUEST_CRASHLOADED", 20_000);
}

#[test]
fn a_flood_of_clock_changes_is_told_once_a_second() {
    // Never more than one a second, and this is over in less than a minute.
    flood(&[], "clock 5000", "RTC_CHANGE", 60);
}

#[test]
fn a_guest_that_does_nothing_but_reset_is_asked_and_ended_all_the_same() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new()
        .kernel(guests::RESET_LOOP, "resets=200 by=i8042")
        .control()
        .start();
    let mut client = guest.client();
    guest.expect("RESET 2\r\n");
    let before = own_memory(&guest);
    for _ in 0..50 {
        client.execute("query-status", Value::Null);
    }
    guest.expect("RESET 20\r\n");
    let grown = own_memory(&guest).saturating_sub(before);
    assert!(grown < 4 << 10, "{grown} KiB more after 18 resets");
    client.execute("stop", Value::Null);
    client.execute("query-status", Value::Null);
    client.execute("quit", Value::Null);
    guest.expect_exit(status::CLEAN);
}
