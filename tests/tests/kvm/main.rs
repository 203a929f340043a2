//! Floor 2: the launcher with the project's own guests, on this machine's KVM. One module per
//! subject. docs/testing.md tells how it works; `cargo xtask test --floor kvm` runs it.

#![expect(
    clippy::unwrap_used,
    reason = "in a test's helpers, as in the tests themselves, it is an assertion"
)]

mod boot;
mod clients;
mod console;
mod control;
mod control_fds;
mod control_peers;
mod control_queries;
mod control_schema;
mod control_sockets;
mod control_transcript;
mod daemonize;
mod disk;
mod disk_block_device;
mod disk_failures;
mod disk_hangs;
mod disk_locks;
mod disk_policies;
mod disk_ring;
mod dump;
mod dump_panicked;
mod entry;
mod host_check;
mod hostile;
mod hostile_files;
mod hostile_guest;
mod kick;
mod lifecycle;
mod log;
mod net;
mod outputs;
mod panics;
mod resets;
mod run_state;
mod storm;
mod terminal;
mod vsock;

use harness::guest::{Guest, Launch, status};
use serde_json::Value;

/// Runs a test guest to its end and wants each of its tests passed. Returns the console, and the
/// guest for what it left behind.
#[track_caller]
fn passed(launch: Launch) -> (String, Guest) {
    let mut guest = launch.start();
    let said = guest.expect_exit(status::CLEAN);
    assert!(
        said.contains("TESTS DONE passed=") && said.contains(" failed=0\r\n"),
        "not every test of the guest passed"
    );
    (said, guest)
}

/// The same, for the console alone.
#[track_caller]
fn passes(launch: Launch) -> String {
    passed(launch).0
}

/// `query-status`'s state.
#[track_caller]
fn state(guest: &mut Guest) -> String {
    let status = guest.client().execute("query-status", Value::Null);
    status["status"].as_str().unwrap_or_default().to_owned()
}
