//! Disks on hosts whose io_uring is forbidden, or fails: they are read and written all the same.

use harness::guest::{Launch, status};
use harness::{guests, obey, skip};

/// A guest whose calls of `call` fail with `error`, from the `first` on.
#[track_caller]
fn without(call: &str, error: &str, first: u32) {
    if skip::without_kvm() || skip::without_program("strace") {
        return;
    }
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:error={error}:when={first}+");
    let wrapper = [
        "strace",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        &trace,
        "-e",
        &inject,
    ];
    let launch = Launch::under(&wrapper).kernel(guests::OBEY, "");
    let mut guest = launch.empty_disk("disk.img", 1 << 20, "").start();
    obey::ready(&mut guest);
    let _ = obey::ask(&mut guest, "disk 0");
    for seed in 1..5 {
        let wrote = obey::ask(&mut guest, &format!("write 0 1024 {seed}"));
        assert_eq!(wrote.text("status"), "0", "{call} {error}");
        assert_eq!(obey::ask(&mut guest, "flush").text("status"), "0");
        let found = obey::ask(&mut guest, &format!("check 0 1024 {seed}"));
        assert_eq!((found.text("status"), found.text("wrong")), ("0", "0"));
    }
    obey::tell(&mut guest, "poweroff");
    guest.expect_exit(status::CLEAN);
}

#[test]
fn a_host_that_forbids_rings() {
    without("io_uring_setup", "EPERM", 1);
}

#[test]
fn a_ring_that_takes_nothing() {
    without("io_uring_enter", "ENOMEM", 1);
}

#[test]
fn a_ring_that_takes_nothing_any_more() {
    without("io_uring_enter", "EIO", 4);
}
