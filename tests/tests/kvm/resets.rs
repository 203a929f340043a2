//! Resets in place, by each way a guest can ask for one.

use harness::guest::{Guest, Launch, status};
use harness::{guests, obey, skip};

use crate::passes;
use crate::run_state::ready;
use serde_json::json;

/// Resets three times in place; the counter in CMOS says so, and the guest checks that it was
/// loaded anew each time.
#[track_caller]
fn loops(by: &str) {
    if skip::without_kvm() {
        return;
    }
    let line = format!("resets=3 by={by}");
    let said = passes(Launch::new().kernel(guests::RESET_LOOP, &line));
    for turn in 1..=3 {
        assert!(said.contains(&format!("RESET {turn}\r\n")), "{said}");
    }
    assert!(said.contains("TEST resets ok 3"), "{said}");
}

#[test]
fn by_acpi() {
    loops("acpi");
}

#[test]
fn by_the_keyboard_controller() {
    loops("i8042");
}

#[test]
fn by_triple_fault() {
    loops("triple-fault");
}

#[test]
fn many_in_a_row_with_several_processors_and_devices() {
    if skip::without_kvm() {
        return;
    }
    let launch = Launch::new()
        .kernel(guests::RESET_LOOP, "resets=40")
        .empty_disk("disk.img", 1 << 20, "")
        .args(["--cpus", "4", "--rng"]);
    let said = passes(launch);
    assert!(said.contains("TEST resets ok 40"), "{said}");
}

#[track_caller]
fn told(guest: &mut Guest, client: &mut harness::control::Client, line: &str) {
    let pid = guest.pid();
    obey::tell(guest, line);
    let reset = client.expect_event("RESET").data;
    assert_eq!(reset, json!({"guest": true, "reason": "guest-reset"}));
    obey::ready(guest);
    assert_eq!(guest.pid(), pid);
}

#[test]
fn each_is_told_and_leaves_disks_and_sessions_as_they_are() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    for by in ["acpi", "i8042", "triple-fault"] {
        told(&mut guest, &mut client, &format!("reset {by}"));
    }
    // State of before the reset is gone.
    client.execute("inject-nmi", serde_json::Value::Null);
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "1");
    told(&mut guest, &mut client, "reset acpi");
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
}

#[test]
fn on_reboot_shutdown_ends_the_guest_at_each() {
    if skip::without_kvm() {
        return;
    }
    for by in ["acpi", "i8042", "triple-fault"] {
        let line = format!("by={by}");
        let mut guest = Launch::new()
            .kernel(guests::RESET_LOOP, &line)
            .args(["--on-reboot", "shutdown"])
            .start();
        let said = guest.expect_exit(status::CLEAN);
        assert!(!said.contains("RESET 2"), "{said}");
    }
    let mut guest = Launch::new()
        .kernel(guests::TRIPLE_FAULT, "")
        .args(["--on-reboot", "shutdown"])
        .start();
    guest.expect_exit(status::CLEAN);
}
