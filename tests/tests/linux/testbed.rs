//! The testbed itself, without the launcher: what a failing test above it rests on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use harness::host::Host;
use harness::{skip, testbed};

/// How long a script may take.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn scripts_run_and_their_status_comes_back() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let reply = host.run("echo out; echo err >&2; exit 7");
    assert_eq!((reply.text().as_str(), reply.status), ("out\nerr\n", 7));
    let reply = host.run("true");
    assert_eq!((reply.text().as_str(), reply.status), ("", 0));
}

#[test]
fn files_go_in_and_come_out_unchanged() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    host.put("file", &content);
    assert_eq!(
        host.run("wc -c < file").text().trim(),
        content.len().to_string()
    );
    assert!(host.get("file") == content, "the file came back changed");
}

#[test]
fn kvm_is_there() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let reply = host.run("exec 9<> /dev/kvm && grep -qwE 'svm|vmx' /proc/cpuinfo");
    assert_eq!(reply.status, 0, "{}", reply.text());
}

#[test]
fn the_launcher_runs_there() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let reply = host.run(&format!("{} --version", host.thimble()));
    assert_eq!(reply.status, 0, "{}", reply.text());
    assert!(reply.text().starts_with("thimble "), "{}", reply.text());
}

#[test]
fn the_host_passes_the_launchers_own_check() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let reply = host.run(&format!("{} check", host.thimble()));
    assert_eq!(reply.status, 0, "{}", reply.text());
}

#[test]
fn a_machine_that_does_not_answer_is_described() {
    if let Err(reason) = testbed::possible() {
        skip::note(&reason);
        return;
    }
    let mut loan = testbed::take();
    // The only use of a machine that leaves it unusable.
    let failed = catch_unwind(AssertUnwindSafe(|| {
        loan.machine()
            .run("echo so far; tail -f /dev/null", Duration::from_secs(2));
    }));
    loan.discard();
    let said = failed.unwrap_err().downcast::<String>().unwrap();
    for text in ["so far", "---- console", "---- registers", "RIP="] {
        assert!(said.contains(text), "no {text:?} in: {said}");
    }
}

/// KVM in a machine with a rough idea of its clock gives guests no TSC of their own: the offset is
/// 0, and every timer of theirs comes late by as long as the machine is up.
#[test]
fn guests_have_a_clock_of_their_own() {
    if let Err(reason) = testbed::possible() {
        skip::note(&reason);
        return;
    }
    let script = "cd /tmp && mount -t debugfs debugfs /sys/kernel/debug
        /disk/thimble run --paused --daemonize --serial null --control /tmp/control.sock || exit 1
        cat /sys/kernel/debug/kvm/*/vcpu0/tsc-offset
        /disk/thimble qmp /tmp/control.sock quit > /dev/null
        umount /sys/kernel/debug";
    let reply = testbed::take().machine().run(script, LIMIT);
    assert_eq!(reply.status, 0, "{}", reply.text());
    let offset: i64 = reply.text().trim().parse().unwrap();
    assert!(offset < 0, "the TSC's offset is {offset}");
}
