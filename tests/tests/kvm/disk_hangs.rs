//! A disk on a host that does not answer: a file system that is frozen while a guest writes to it.
//! Clients are served meanwhile, and what they asked for happens when the host answers again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::control::Client;
use harness::guest::{Guest, status};
use harness::wait::Deadline;
use harness::{obey, skip};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What only a hang takes.
const LIMIT: Duration = Duration::from_secs(60);

/// A file system of its own, which can be frozen; gone with the test.
struct FileSystem(PathBuf);

impl FileSystem {
    /// An ext4 file system of 32 MiB, or a note that there can be none.
    fn mount(parent: &Path) -> Option<Self> {
        let (image, path) = (parent.join("ext4.img"), parent.join("mounted"));
        std::fs::File::create(&image)
            .unwrap()
            .set_len(32 << 20)
            .unwrap();
        std::fs::create_dir(&path).unwrap();
        let make = Command::new(skip::find("mkfs.ext4")?)
            .arg("-q")
            .arg(&image)
            .status();
        assert!(make.unwrap().success());
        let mount = Command::new("mount")
            .arg("-oloop")
            .args([&image, &path])
            .output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(path));
        }
        skip::note("no file system can be mounted; it takes root and loop devices");
        None
    }

    fn freeze(&self, how: &str) {
        let status = Command::new("fsfreeze").arg(how).arg(&self.0).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        // Already so, if all went well. Lazily: the guest may still have its image open.
        for (program, arguments) in [("fsfreeze", ["-u"]), ("umount", ["-l"])] {
            let mut command = Command::new(program);
            let _ = command
                .args(arguments)
                .arg(&self.0)
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// A guest whose write the host has taken and does not answer. The file system is thawed before the
/// guest is waited for, also when a test fails.
struct Hanging {
    place: FileSystem,
    client: Client,
    guest: Guest,
}

#[track_caller]
fn hanging() -> Option<Hanging> {
    hanging_by("write 0 128 5")
}

/// The line is what the guest is told to do when the host no longer answers.
#[track_caller]
fn hanging_by(line: &str) -> Option<Hanging> {
    if skip::without_kvm() || skip::without_program("mkfs.ext4") {
        return None;
    }
    let launch = obey::launch().control();
    let place = FileSystem::mount(&launch.path(""))?;
    let launch = launch.empty_disk("mounted/disk.img", 8 << 20, ",id=disk0");
    let mut guest = launch.start();
    obey::ready(&mut guest);
    let _ = obey::ask(&mut guest, "disk 0");
    let client = guest.client();
    let mut hanging = Hanging {
        place,
        client,
        guest,
    };
    hanging.place.freeze("-f");
    obey::tell(&mut hanging.guest, line);
    wait_until_stuck(&hanging.guest);
    Some(hanging)
}

/// Waits until one of the process's threads is in the kernel and cannot leave it.
#[track_caller]
fn wait_until_stuck(guest: &Guest) {
    let stuck = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
        // After the name, which is in parentheses. A thread may have ended meanwhile.
        stat.is_ok_and(|stat| {
            stat.rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('D'))
        })
    };
    let threads = format!("/proc/{}/task", guest.pid());
    let deadline = Deadline::after(LIMIT);
    while !std::fs::read_dir(&threads).unwrap().any(stuck) {
        assert!(!deadline.left().is_zero(), "the write does not hang");
        std::thread::yield_now();
    }
}

#[track_caller]
fn send(client: &mut Client, command: &str) {
    let line = format!("{{\"execute\":\"{command}\",\"id\":\"{command}\"}}\n");
    client.session().send_raw(line.as_bytes()).unwrap();
}

/// The next thing that is told: a reply's id, or an event's name.
#[track_caller]
fn told(client: &mut Client) -> String {
    let message = client
        .session()
        .next_message(LIMIT)
        .unwrap()
        .unwrap_or_else(|| panic!("nothing is told"));
    let name = message.get("event").or(message.get("id"));
    name.and_then(Value::as_str)
        .unwrap_or_else(|| panic!("{message}"))
        .to_owned()
}

#[test]
fn stop_is_answered_when_the_guest_has_stopped_and_others_meanwhile() {
    let Some(Hanging {
        mut guest,
        client: mut waiting,
        place,
    }) = hanging()
    else {
        return;
    };
    let mut other = guest.client();
    send(&mut waiting, "stop");
    // In its turn: one client's commands are carried out in order.
    send(&mut waiting, "query-name");
    let status = other.execute("query-status", Value::Null);
    assert_eq!(status, json!({"running": true, "status": "running"}));
    let blocks = other.execute("query-named-block-nodes", Value::Null);
    assert_eq!(blocks[0]["image"]["virtual-size"], 8 << 20, "{blocks}");
    place.freeze("-u");
    assert_eq!(told(&mut waiting), "STOP");
    assert_eq!(told(&mut waiting), "stop");
    assert_eq!(told(&mut waiting), "query-name");
    assert_eq!(crate::state(&mut guest), "paused");
    other.execute("cont", Value::Null);
    assert_eq!(obey::answer(&mut guest).text("status"), "0");
    let found = obey::ask(&mut guest, "check 0 128 5");
    assert_eq!((found.text("status"), found.text("wrong")), ("0", "0"));
}

#[test]
fn what_several_clients_asked_happens_in_order() {
    let Some(Hanging {
        mut guest,
        client: mut first,
        place,
    }) = hanging()
    else {
        return;
    };
    let (mut second, mut third) = (guest.client(), guest.client());
    // The guest is not stopped by this: it only has to be held for a moment.
    send(&mut first, "inject-nmi");
    // Answered, so what was sent before has been taken.
    assert_eq!(third.execute("query-status", Value::Null)["running"], true);
    send(&mut second, "system_reset");
    assert_eq!(third.execute("query-status", Value::Null)["running"], true);
    place.freeze("-u");
    assert_eq!(told(&mut first), "inject-nmi");
    assert_eq!(told(&mut first), "RESET");
    assert_eq!(told(&mut second), "RESET");
    assert_eq!(told(&mut second), "system_reset");
    obey::ready(&mut guest);
    assert_eq!(crate::state(&mut guest), "running");
}

/// The guest's last requests are lost, as they are when the power fails. The process itself cannot
/// go before the kernel lets its thread go.
#[test]
fn the_end_does_not_wait_for_the_host() {
    let Some(Hanging {
        mut guest,
        mut client,
        place,
    }) = hanging()
    else {
        return;
    };
    let mut stopping = guest.client();
    send(&mut stopping, "stop");
    send(&mut client, "quit");
    assert_eq!(told(&mut client), "SHUTDOWN");
    assert_eq!(told(&mut client), "quit");
    place.freeze("-u");
    guest.expect_exit(status::CLEAN);
    assert!(
        guest
            .stderr()
            .contains("without waiting any longer for disk0"),
        "{}",
        guest.stderr()
    );
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let Some(Hanging {
        mut guest,
        mut client,
        place,
    }) = hanging()
    else {
        return;
    };
    guest.signal(Signal::TERM);
    // Answered, so the first signal has been taken.
    let _ = client.execute("query-status", Value::Null);
    guest.signal(Signal::TERM);
    assert_eq!(told(&mut client), "SHUTDOWN");
    place.freeze("-u");
    guest.expect_exit(status::CLEAN);
}

#[test]
fn a_reset_happens_when_the_host_answers_and_the_write_was_whole() {
    let Some(Hanging {
        mut guest,
        mut client,
        place,
    }) = hanging()
    else {
        return;
    };
    send(&mut client, "system_reset");
    let mut other = guest.client();
    let blocks = other.execute("query-block", Value::Null);
    assert_eq!(blocks[0]["inserted"]["image"]["virtual-size"], 8 << 20);
    place.freeze("-u");
    assert_eq!(told(&mut client), "RESET");
    assert_eq!(told(&mut client), "system_reset");
    obey::ready(&mut guest);
    let _ = obey::ask(&mut guest, "disk 0");
    let found = obey::ask(&mut guest, "check 0 128 5");
    assert_eq!((found.text("status"), found.text("wrong")), ("0", "0"));
}

/// Two wait, and the one that is served first lets the guest go on: the other holds it again.
#[test]
fn who_waits_is_served_though_the_guest_went_on_in_between() {
    let Some(Hanging {
        mut guest,
        client: mut first,
        place,
    }) = hanging()
    else {
        return;
    };
    let (mut second, mut third) = (guest.client(), guest.client());
    send(&mut first, "stop");
    send(&mut first, "cont");
    // Answered, so what was sent before has been taken.
    assert_eq!(third.execute("query-status", Value::Null)["running"], true);
    send(&mut second, "stop");
    assert_eq!(third.execute("query-status", Value::Null)["running"], true);
    place.freeze("-u");
    for expected in ["STOP", "RESUME", "STOP", "stop"] {
        assert_eq!(told(&mut second), expected);
    }
    for expected in ["STOP", "stop", "RESUME", "cont"] {
        assert_eq!(told(&mut first), expected);
    }
    assert_eq!(crate::state(&mut guest), "paused");
}

/// To wait for the end is for those who really end the machine.
#[test]
fn a_mistyped_quit_waits_for_nothing() {
    let Some(Hanging {
        mut guest,
        mut client,
        place,
    }) = hanging()
    else {
        return;
    };
    for line in ["quit now", "stop now"] {
        let text = client.execute("human-monitor-command", json!({"command-line": line}));
        let text = text.as_str().unwrap_or_default();
        assert!(text.starts_with("unknown command"), "{line}: {text}");
    }
    place.freeze("-u");
    assert_eq!(obey::answer(&mut guest).text("status"), "0");
    // Nobody has given it up: what it does still counts.
    obey::tell(&mut guest, "poweroff");
    assert_eq!(told(&mut client), "SHUTDOWN");
    guest.expect_exit(status::CLEAN);
    assert_eq!(guest.stderr(), "");
}

/// Looking whether a guest has halted for good does not take its processors for as long as a disk
/// hangs.
#[test]
fn an_idle_guest_goes_on_while_its_disk_hangs() {
    let Some(Hanging {
        mut guest,
        mut client,
        place,
    }) = hanging_by("begin 0")
    else {
        return;
    };
    assert_eq!(obey::answer(&mut guest).text("begun"), "0");
    crate::lifecycle::wait_for_looks(&mut client);
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
    place.freeze("-u");
}
