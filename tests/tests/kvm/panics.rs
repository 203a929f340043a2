//! What follows when a guest crashes: each `--on-panic`, the exit status, and guests that KVM
//! cannot run any further.

use harness::guest::{Launch, status};
use harness::{guests, obey, skip};
use serde_json::{Value, json};

#[test]
fn unattended_a_panic_ends_with_its_own_status() {
    if skip::without_kvm() {
        return;
    }
    for by in ["panic", "exception"] {
        let mut guest = Launch::new()
            .kernel(guests::PANIC, &format!("by={by}"))
            .start();
        let said = guest.expect_exit(status::CRASHED);
        assert!(said.contains("FATAL"), "{said}");
    }
}

#[test]
fn on_panic_shutdown_and_exit_failure_end_it() {
    if skip::without_kvm() {
        return;
    }
    for action in ["shutdown", "exit-failure"] {
        let mut guest = obey::launch()
            .control()
            .args(["--on-panic", action])
            .start();
        obey::ready(&mut guest);
        let mut client = guest.client();
        obey::tell(&mut guest, "pvpanic 1 1");
        let panicked = client.expect_event("GUEST_PANICKED").data;
        assert_eq!(panicked, json!({"action": "poweroff"}));
        let shutdown = client.expect_event("SHUTDOWN").data;
        assert_eq!(shutdown, json!({"guest": true, "reason": "guest-panic"}));
        guest.expect_exit(status::CRASHED);
    }
}

#[test]
fn on_panic_pause_keeps_it_and_it_may_go_on() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = obey::launch()
        .control()
        .args(["--on-panic", "pause"])
        .start();
    obey::ready(&mut guest);
    let mut client = guest.client();
    obey::tell(&mut guest, "pvpanic 1 1");
    let panicked = client.expect_event("GUEST_PANICKED").data;
    assert_eq!(panicked, json!({"action": "pause"}));
    client.expect_event("STOP");
    assert_eq!(crate::state(&mut guest), "guest-panicked");
    client.execute("cont", Value::Null);
    assert_eq!(obey::answer(&mut guest).text("written"), "1");
}

#[test]
fn on_panic_none_lets_it_go_on() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = obey::launch()
        .args(["--on-panic", "none", "--cpus", "2"])
        .start();
    obey::ready(&mut guest);
    let written = obey::ask(&mut guest, "pvpanic 1 200");
    assert_eq!(written.text("written"), "200");
}

#[test]
fn a_crash_kernel_is_told_and_changes_nothing() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = obey::launch().control().start();
    obey::ready(&mut guest);
    let mut client = guest.client();
    assert_eq!(obey::ask(&mut guest, "pvpanic 2 1").text("written"), "1");
    let told = client.expect_event("GUEST_CRASHLOADED").data;
    assert_eq!(told, json!({"action": "run"}));
    assert_eq!(crate::state(&mut guest), "running");
}

#[test]
fn a_power_off_by_pvpanic_is_one() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = obey::launch().control().start();
    obey::ready(&mut guest);
    let mut client = guest.client();
    obey::tell(&mut guest, "pvpanic 4 1");
    client.expect_event("GUEST_PVSHUTDOWN");
    let shutdown = client.expect_event("SHUTDOWN").data;
    assert_eq!(shutdown, json!({"guest": true, "reason": "guest-shutdown"}));
    guest.expect_exit(status::CLEAN);
}

/// An instruction that no KVM emulates, on a device's register.
#[test]
fn unattended_a_guest_that_kvm_cannot_run_ends_with_a_clear_message() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = obey::launch().start();
    obey::ready(&mut guest);
    obey::tell(&mut guest, "unknown-instruction");
    guest.expect_exit(status::CRASHED);
    let said = guest.stderr();
    assert!(
        said.contains("vCPU 0") && said.contains("thimble check"),
        "{said}"
    );
}

#[test]
fn attended_it_stays_to_be_looked_at_and_can_be_reset() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = obey::launch().control().start();
    obey::ready(&mut guest);
    let mut client = guest.client();
    obey::tell(&mut guest, "unknown-instruction");
    client.expect_event("STOP");
    assert_eq!(crate::state(&mut guest), "internal-error");
    let registers = client.execute(
        "human-monitor-command",
        json!({"command-line": "info registers"}),
    );
    assert!(registers.as_str().unwrap().contains("RIP="), "{registers}");
    let refusal = client.try_execute("cont", Value::Null).unwrap_err();
    assert!(refusal.desc.contains("Resetting"), "{}", refusal.desc);
    client.execute("system_reset", Value::Null);
    client.execute("cont", Value::Null);
    obey::ready(&mut guest);
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
}
