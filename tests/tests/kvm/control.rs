//! The control socket and the built-in guest: what the README's reader tries.

use harness::guest::{Guest, Launch, status};
use harness::skip;
use serde_json::{Value, json};

use crate::boot::PROMPT;

/// A built-in guest at its prompt, with a control socket.
#[track_caller]
fn ready() -> Guest {
    let mut guest = Launch::new().control().start();
    guest.expect(PROMPT);
    guest
}

#[test]
fn stop_and_cont_tell_their_events_to_every_client() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = ready();
    let mut one = guest.client();
    let mut other = guest.client();
    one.execute("stop", Value::Null);
    other.expect_event("STOP");
    assert_eq!(crate::state(&mut guest), "paused");
    other.execute("cont", Value::Null);
    one.expect_event("RESUME");
    assert_eq!(crate::state(&mut guest), "running");
}

#[test]
fn a_guest_started_paused_says_nothing_until_cont() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new().control().arg("--paused").start();
    let mut client = guest.client();
    assert_eq!(crate::state(&mut guest), "prelaunch");
    let counters = client.execute("x-thimble-query-counters", Value::Null);
    for counter in counters[0]["counters"].as_array().unwrap() {
        assert_eq!(counter["value"], 0, "{counters}");
    }
    client.execute("cont", Value::Null);
    guest.expect(PROMPT);
}

#[test]
fn the_power_button_ends_the_guest() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = ready();
    let mut client = guest.client();
    client.execute("system_powerdown", Value::Null);
    client.expect_event("POWERDOWN");
    guest.expect("power button pressed");
    let shutdown = client.expect_event("SHUTDOWN").data;
    assert_eq!(shutdown, json!({"guest": true, "reason": "guest-shutdown"}));
    guest.expect_exit(status::CLEAN);
}

#[test]
fn a_button_pressed_while_it_is_stopped_counts_when_it_goes_on() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = ready();
    let mut client = guest.client();
    client.execute("stop", Value::Null);
    client.execute("system_powerdown", Value::Null);
    assert_eq!(crate::state(&mut guest), "paused");
    client.execute("cont", Value::Null);
    guest.expect_exit(status::CLEAN);
}

#[test]
fn the_generation_id_is_the_one_the_guest_sees() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new().control().start();
    let seen = guest.expect(PROMPT);
    let told = guest
        .client()
        .execute("query-vm-generation-id", Value::Null);
    let guid = told["guid"].as_str().unwrap();
    assert!(seen.contains(guid), "{guid} in {seen}");
}

#[test]
fn a_refused_or_failed_dump_leaves_files_that_were_there() {
    if skip::without_kvm() {
        return;
    }
    let content = [0x5a; 1 << 16];
    let mut guest = Launch::new()
        .control()
        .disk("disk.img", &content, "")
        .start();
    guest.expect(PROMPT);
    let mine = guest.path("mine");
    std::fs::write(&mine, "precious").unwrap();
    let mut client = guest.client();
    // No RAM is there.
    let nowhere = json!({"val": 0xd000_0000u64, "size": 4096, "filename": mine});
    client.try_execute("pmemsave", nowhere).unwrap_err();
    assert_eq!(std::fs::read(&mine).unwrap(), b"precious");

    let disk = guest.path("disk.img");
    let onto_disk = json!({"val": 0, "size": 4096, "filename": disk});
    client.try_execute("pmemsave", onto_disk).unwrap_err();
    let protocol = format!("file:{}", disk.display());
    let onto_disk = json!({"paging": false, "protocol": protocol});
    let error = client
        .try_execute("dump-guest-memory", onto_disk)
        .unwrap_err();
    assert!(error.desc.contains("disk in use"), "{}", error.desc);
    assert_eq!(std::fs::read(&disk).unwrap(), content);
}

#[test]
fn a_moment_without_descriptors_does_not_deafen_the_socket() {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixStream;

    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    if skip::without_kvm() {
        return;
    }
    let mut guest = Launch::new().control().start();
    guest.expect(PROMPT);
    let process = Pid::from_raw(i32::try_from(guest.pid()).unwrap());
    let roomy = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        ..roomy
    };
    prlimit(process, Resource::Nofile, none).unwrap();
    let client = UnixStream::connect(guest.path("control.sock")).unwrap();
    // The same thread serves the console: it has seen the client by then.
    guest.type_line("help");
    guest.expect(PROMPT);
    assert!(
        guest.stderr().contains("cannot accept"),
        "{}",
        guest.stderr()
    );
    prlimit(process, Resource::Nofile, roomy).unwrap();
    client
        .set_read_timeout(Some(std::time::Duration::from_secs(30)))
        .unwrap();
    let mut greeting = String::new();
    BufReader::new(client).read_line(&mut greeting).unwrap();
    assert!(greeting.contains("QMP"), "{greeting}");
}

#[test]
fn a_serial_socket_goes_with_the_process() {
    if skip::without_kvm() {
        return;
    }
    let launch = Launch::new().control();
    let path = launch.path("serial.sock");
    let serial = format!("socket={}", path.display());
    let mut guest = launch.args(["--serial", &serial]).start();
    guest.client().execute("quit", Value::Null);
    guest.expect_exit(status::CLEAN);
    assert!(!path.exists(), "the socket outlived its process");
}

#[test]
fn sets_of_descriptors_go_with_the_last_client() {
    use std::os::fd::AsFd;
    if skip::without_kvm() {
        return;
    }
    let mut guest = ready();
    let sets = |client: &mut harness::control::Client| client.execute("query-fdsets", Value::Null);
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut giver = guest.client();
    giver
        .session()
        .execute_with_fds("add-fd", json!({"fdset-id": 7}), &[null.as_fd()])
        .unwrap();
    let mut other = guest.client();
    drop(giver);
    assert_eq!(sets(&mut other)[0]["fdset-id"], 7);
    drop(other);
    assert_eq!(sets(&mut guest.client()), json!([]));
}
