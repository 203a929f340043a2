//! The signal that makes a vCPU thread come back, when it comes and nobody waits for the vCPU.
#![expect(
    unsafe_code,
    reason = "signalling one thread of another process has no safe wrapper"
)]

use harness::guest::{Launch, status};
use harness::skip;
use serde_json::Value;

use crate::boot::PROMPT;

#[test]
fn a_kick_that_comes_late_does_not_keep_the_guest_out() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new().control().start();
    guest.expect(PROMPT);
    let vcpus = guest.client().execute("query-cpus-fast", Value::Null);
    let thread = vcpus[0]["thread-id"].as_i64().unwrap();
    let kick = libc::SIGRTMIN();
    // SAFETY: the call takes numbers only.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, guest.pid(), thread, kick) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    guest.type_line("still here");
    guest.expect("still here");
    guest.expect(PROMPT);
    guest.type_line("poweroff");
    guest.expect_exit(status::CLEAN);
}
