//! A broken command line or configuration: everything that is wrong is named at once, and the
//! exit status is 2.

use harness::guest::{Launch, status};
use harness::skip;

/// Starts, wants the exit status and a mention of each text on stderr, and no panic.
#[track_caller]
pub(crate) fn refused(launch: Launch, code: i32, mentions: &[&str]) {
    let mut guest = launch.start();
    guest.expect_exit(code);
    let said = guest.stderr();
    for text in mentions {
        assert!(said.contains(text), "no mention of {text:?} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert!(said.len() < 20_000, "{} bytes of complaint", said.len());
}

/// A configuration file of `content`.
#[track_caller]
fn configuration(content: &[u8], mentions: &[&str]) {
    let launch = Launch::new();
    let path = launch.path("config.json");
    std::fs::write(&path, content).unwrap();
    refused(launch.arg("--config").arg(path), status::USAGE, mentions);
}

#[test]
fn a_configuration_that_is_cut_short() {
    configuration(b"{\"memory\": ", &["config.json", "line 1"]);
}

#[test]
fn a_configuration_that_is_none() {
    configuration(b"", &["config.json", "empty"]);
    configuration(b"\xff\xfe\x00", &["config.json"]);
    configuration(b"[1, 2]", &["config.json"]);
    configuration(&b"[".repeat(100_000), &["config.json"]);
    configuration(&b" ".repeat(2 << 20), &["config.json", "longer"]);
    configuration(br#"{"memory": {"size": "12 parsecs"}}"#, &["memory.size"]);
    configuration(br#"{"speed": 1, "speed": 2}"#, &["speed"]);
}

#[test]
fn a_configuration_that_cannot_be_read() {
    for (path, why) in [
        ("absent.json", "No such file"),
        (".", "directory"),
        ("/dev/zero", "longer"),
    ] {
        refused(
            Launch::new().args(["--config", path]),
            status::USAGE,
            &[path, why],
        );
    }
    let launch = Launch::new();
    let fifo = launch.path("fifo.json");
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
    // Nobody writes to it.
    refused(
        launch.arg("--config").arg(fifo),
        status::USAGE,
        &["fifo.json"],
    );
}

#[test]
fn every_problem_of_a_configuration_is_named_at_once() {
    let launch = Launch::new().args(["--memory", "3", "--cpus", "0", "--machine", "other"]);
    refused(launch, status::USAGE, &["memory", "cpus", "machine"]);
    let launch = Launch::new();
    let path = launch.path("config.json");
    let content = br#"{"nonsense": 1, "disks": [{"path": "a", "cache": "warm"}], "uuid": "x"}"#;
    std::fs::write(&path, content).unwrap();
    let launch = launch.arg("--config").arg(path).args([
        "--on-panic",
        "dance",
        "--serial",
        "tty",
        "--disk",
        "serial=1",
    ]);
    let all = [
        "nonsense",
        "disks[0].cache",
        "uuid",
        "--on-panic",
        "--serial",
        "--disk[0].path",
    ];
    refused(launch, status::USAGE, &all);
}

#[test]
fn settings_at_odds_with_each_other() {
    refused(
        Launch::new().args(["--disk", "same.img", "--serial", "file=same.img"]),
        status::USAGE,
        &["same file"],
    );
    refused(
        Launch::new().args(["--disk", "a,id=x", "--disk", "b,id=x"]),
        status::USAGE,
        &["id"],
    );
    refused(
        Launch::new().args(["--initrd", "only"]),
        status::USAGE,
        &["kernel"],
    );
}

#[test]
fn an_unknown_flag() {
    refused(
        Launch::new().arg("--no-such-flag"),
        status::USAGE,
        &["--no-such-flag"],
    );
}

#[test]
fn what_was_dumped_is_taken_again() {
    let launch = Launch::new()
        .args(["--memory", "64", "--disk", "a.img,cache=none", "--rng"])
        .arg("--dump-config");
    let mut first = launch.start();
    let dumped = first.expect_exit(status::CLEAN);
    let launch = Launch::new();
    let path = launch.path("config.json");
    std::fs::write(&path, &dumped).unwrap();
    let mut second = launch
        .arg("--config")
        .arg(path)
        .arg("--dump-config")
        .start();
    assert_eq!(second.expect_exit(status::CLEAN), dumped);
}

#[test]
fn a_control_descriptor_that_was_not_inherited() {
    // Numbers that this process uses itself, once it has begun.
    for fd in 3..=6 {
        let socket = format!("fd={fd}");
        for also in [&[][..], &["--daemonize"]] {
            refused(
                Launch::new().args(["--control", &socket]).args(also),
                status::FAILED,
                &[&format!(
                    "control socket fd={fd}: the descriptor is not open"
                )],
            );
        }
    }
}

#[test]
fn a_file_size_limit_is_an_error_and_not_the_end() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    if skip::without_kvm() {
        return;
    }
    let launch = Launch::new()
        .control()
        .disk("disk.img", &[0; 1 << 16], "")
        .arg("--paused");
    let mut guest = launch
        .args(["--cmdline", "op=write requests=64", "--kernel"])
        .arg(harness::guests::BLK_BENCH)
        .start();
    let mut client = guest.client();
    let process = Pid::from_raw(i32::try_from(guest.pid()).unwrap());
    let small = Rlimit {
        current: Some(0),
        maximum: None,
    };
    prlimit(process, Resource::Fsize, small).unwrap();
    client.execute("cont", serde_json::Value::Null);
    guest.expect("errors=64");
    guest.expect_exit(status::CLEAN);
}
