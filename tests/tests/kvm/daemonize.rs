//! `--daemonize` and `--pidfile`.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use harness::control::Client;
use harness::guest::{Guest, LIMIT, Launch, status};
use harness::wait::{self, Deadline};
use harness::{guests, skip};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

/// A guest in the background; the command that started it has returned.
#[track_caller]
fn background(launch: Launch) -> (Guest, u32) {
    let launch = launch
        .control()
        .kernel(guests::SPIN, "")
        .arg("--daemonize")
        .args(["--pidfile", "pid"]);
    let mut starter = launch.start();
    starter.expect_exit(status::CLEAN);
    let text = fs::read_to_string(starter.path("pid")).unwrap();
    let pid = text
        .strip_suffix('\n')
        .and_then(|number| number.parse().ok());
    let Some(pid) = pid else {
        panic!("no number in {text:?}")
    };
    (starter, pid)
}

/// Ends a guest in the background, and waits until its process has gone.
#[track_caller]
fn end(starter: &Guest, pid: u32) {
    let handle = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let handle = pidfd_open(handle, PidfdFlags::empty()).unwrap();
    // It answers as soon as the command has returned: no second try.
    let mut client = Client::connect(&starter.path("control.sock"), LIMIT).unwrap();
    client.execute("quit", Value::Null);
    let ended = wait::readable([handle.as_fd()], Deadline::after(LIMIT));
    assert!(matches!(ended, Ok([true])), "{ended:?}");
}

#[test]
fn the_command_returns_when_the_guest_answers_and_leaves_nothing_behind() {
    if skip::without_kvm() {
        return;
    }
    let (starter, pid) = background(Launch::new());
    assert_ne!(pid, starter.pid());
    let mut client = Client::connect(&starter.path("control.sock"), LIMIT).unwrap();
    assert_eq!(client.execute("query-status", Value::Null)["running"], true);
    assert_eq!(starter.stderr(), "");
    end(&starter, pid);
    assert!(!starter.path("pid").exists());
    assert!(!starter.path("control.sock").exists());
}

#[test]
fn the_process_lets_go_of_terminal_session_and_directory() {
    if skip::without_kvm() {
        return;
    }
    let (starter, pid) = background(Launch::new());
    let proc = format!("/proc/{pid}");
    let proc = Path::new(&proc);
    for fd in 0..3 {
        let open = fs::read_link(proc.join("fd").join(fd.to_string())).unwrap();
        assert_eq!(open, Path::new("/dev/null"), "descriptor {fd}");
    }
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    // Fields 4 to 7 after the name: group, session, terminal (proc_pid_stat(5)).
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap()
        .split_ascii_whitespace()
        .collect();
    let own = pid.to_string();
    assert_eq!(fields[2..5], [own.as_str(), own.as_str(), "0"], "{stat}");
    end(&starter, pid);
}

#[test]
fn a_relative_path_is_where_it_was_when_the_guest_was_started() {
    if skip::without_kvm() {
        return;
    }
    let (starter, pid) = background(Launch::new());
    let mut client = Client::connect(&starter.path("control.sock"), LIMIT).unwrap();
    let save = json!({"val": 0, "size": 4096, "filename": "saved"});
    client.execute("pmemsave", save);
    assert_eq!(fs::metadata(starter.path("saved")).unwrap().len(), 4096);
    let dump = json!({"paging": false, "protocol": "file:core"});
    client.execute("dump-guest-memory", dump);
    assert!(starter.path("core").exists());
    end(&starter, pid);
}

#[test]
fn what_another_process_has_put_in_its_place_is_left_there() {
    if skip::without_kvm() {
        return;
    }
    let launch = Launch::new().args(["--serial", "socket=serial.sock"]);
    let (starter, pid) = background(launch);
    let mut client = Client::connect(&starter.path("control.sock"), LIMIT).unwrap();
    let names = ["pid", "control.sock", "serial.sock"].map(|name| starter.path(name));
    for name in &names {
        fs::remove_file(name).unwrap();
        fs::write(name, "another's").unwrap();
    }
    let handle = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let handle = pidfd_open(handle, PidfdFlags::empty()).unwrap();
    client.execute("quit", Value::Null);
    let ended = wait::readable([handle.as_fd()], Deadline::after(LIMIT));
    assert!(matches!(ended, Ok([true])), "{ended:?}");
    for name in &names {
        assert_eq!(fs::read(name).unwrap(), b"another's", "{name:?}");
    }
}

#[test]
fn a_pid_file_belongs_to_one_process() {
    if skip::without_kvm() {
        return;
    }
    let (starter, pid) = background(Launch::new());
    let file = starter.path("pid");
    let name = file.to_str().unwrap();
    let mut second = Launch::new().args(["--pidfile", name]).start();
    second.expect_exit(status::FAILED);
    let said = second.stderr();
    assert!(said.contains(name) && said.contains("runs"), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{pid}\n"));
    end(&starter, pid);

    // What a dead one left is taken over.
    fs::write(&file, "4194304\n").unwrap();
    let mut third = Launch::new().args(["--pidfile", name]).start();
    third.expect(crate::boot::PROMPT);
    let own = format!("{}\n", third.pid());
    assert_eq!(fs::read_to_string(&file).unwrap(), own);
    third.type_line("poweroff");
    third.expect_exit(status::CLEAN);
    assert!(!file.exists());
}

/// Wants the command to end with `code`, having said `mention`.
#[track_caller]
fn refused(launch: Launch, code: i32, mention: &str) {
    let mut guest = launch.arg("--daemonize").start();
    guest.expect_exit(code);
    let said = guest.stderr();
    assert!(said.contains(mention), "no {mention:?} in {said:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn what_goes_wrong_in_the_background_is_told_in_the_foreground() {
    let mut taken = Launch::new();
    let (kernel, socket) = (taken.path("kernel"), taken.path("taken.sock"));
    fs::write(&kernel, "rubbish").unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    taken = taken.arg("--control").arg(&socket);
    refused(taken, status::FAILED, "taken.sock");
    drop(listener);
    refused(
        Launch::new().args(["--kernel", "absent"]),
        status::FAILED,
        "absent",
    );
    refused(
        Launch::new().args(["--disk", "path=gone.img"]),
        status::FAILED,
        "gone.img",
    );
    refused(
        Launch::new().args(["--memory", "1"]),
        status::USAGE,
        "memory",
    );
    refused(
        Launch::new().args(["--serial", "stdio"]),
        status::USAGE,
        "serial",
    );
    refused(
        Launch::new().args(["--pidfile", "no/such/pid"]),
        status::FAILED,
        "no/such/pid",
    );
    if !skip::without_kvm() {
        let launch = Launch::new();
        let kernel = launch.path("kernel");
        fs::write(&kernel, "rubbish").unwrap();
        refused(launch.kernel(kernel, ""), status::FAILED, "kernel");
    }
}

#[test]
fn without_a_control_socket_signals_end_it() {
    if skip::without_kvm() {
        return;
    }
    let mut starter = Launch::new()
        .args(["--daemonize", "--pidfile", "pid"])
        .start();
    starter.expect_exit(status::CLEAN);
    let text = fs::read_to_string(starter.path("pid")).unwrap();
    let pid = Pid::from_raw(text.trim_end().parse().unwrap()).unwrap();
    let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let early = wait::readable([handle.as_fd()], Deadline::after(Duration::ZERO));
    assert!(matches!(early, Ok([false])), "{early:?}");
    rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::TERM).unwrap();
    let ended = wait::readable([handle.as_fd()], Deadline::after(LIMIT));
    assert!(matches!(ended, Ok([true])), "{ended:?}");
    assert!(!starter.path("pid").exists());
}
