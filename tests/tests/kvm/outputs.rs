//! Files that thimble writes to: what is at their paths is not lost by mistake.

use std::fs;
use std::os::unix::fs::symlink;

use harness::guest::{Guest, Launch, status};
use harness::{obey, skip};

use crate::disk::with_disk;
use crate::hostile::refused;

/// A guest with a disk of its own, and a link to its image from elsewhere.
#[track_caller]
fn linked(launch: &Launch) -> Guest {
    let mut guest = with_disk(1 << 20, "");
    assert_eq!(obey::ask(&mut guest, "write 0 0 7").text("status"), "0");
    symlink(guest.path("disk.img"), launch.path("link")).unwrap();
    guest
}

#[test]
fn the_disk_of_another_guest_is_not_written_to() {
    if skip::without_kvm() {
        return;
    }
    for (flag, value) in [
        ("--serial", "file=link"),
        ("--log-file", "link"),
        ("--pidfile", "link"),
    ] {
        let launch = Launch::new();
        let guest = linked(&launch);
        let before = fs::read(guest.path("disk.img")).unwrap();
        refused(launch.args([flag, value]), status::FAILED, &["link"]);
        assert!(fs::read(guest.path("disk.img")).unwrap() == before);
    }
}

#[test]
fn what_the_guest_is_made_of_is_not_written_to() {
    for input in ["--kernel", "--disk"] {
        for (flag, value) in [
            ("--serial", "file=link"),
            ("--log-file", "link"),
            ("--pidfile", "link"),
        ] {
            let launch = Launch::new();
            let (file, link) = (launch.path("input"), launch.path("link"));
            fs::write(&file, "12345").unwrap();
            symlink("input", link).unwrap();
            refused(
                launch.args([input, "input", flag, value]),
                status::FAILED,
                &["same file", "link", "input"],
            );
            refused(
                {
                    let launch = Launch::new();
                    fs::write(launch.path("input"), "12345").unwrap();
                    fs::hard_link(launch.path("input"), launch.path("link")).unwrap();
                    launch.args([input, "input", flag, value])
                },
                status::FAILED,
                &["same file"],
            );
        }
    }
}

#[test]
fn a_console_goes_to_files_and_to_who_reads() {
    if skip::without_kvm() {
        return;
    }
    // A file is emptied, through a link as well.
    let launch = Launch::new().args(["--serial", "file=link", "--log-level", "off"]);
    fs::write(launch.path("console"), vec![b'x'; 1 << 20]).unwrap();
    symlink("console", launch.path("link")).unwrap();
    let mut guest = launch.control().start();
    let mut client = guest.client();
    client.execute("quit", serde_json::Value::Null);
    guest.expect_exit(status::CLEAN);
    assert!(fs::metadata(guest.path("console")).unwrap().len() < 1 << 20);
    // A disk that is full loses what it does not take, and is told of by the device's name.
    let mut guest = Launch::new().args(["--serial", "file=/dev/full"]).start();
    guest.expect_stderr("serial0: output lost: No space left");
    drop(guest);
    // What cannot take it is refused, and nothing waits.
    for (name, mention) in [(".", "directory"), ("absent/file", "absent/file")] {
        let launch = Launch::new().arg("--serial").arg(format!("file={name}"));
        refused(launch, status::FAILED, &[mention]);
    }
    let launch = Launch::new().args(["--serial", "file=fifo"]);
    crate::hostile_files::fifo(&launch.path("fifo"));
    refused(launch, status::FAILED, &["fifo", "reader"]);
}

#[test]
fn a_log_goes_where_it_can() {
    let launch = Launch::new().args(["--log-file", "fifo"]);
    crate::hostile_files::fifo(&launch.path("fifo"));
    refused(launch, status::FAILED, &["fifo", "reader"]);
    let launch = Launch::new().args(["--log-file", "."]);
    refused(launch, status::FAILED, &["directory"]);
    if skip::without_kvm() {
        return;
    }
    // What a full disk does not take is not lost.
    let launch = Launch::new().args(["--log-file", "log", "--serial", "file=/dev/full"]);
    symlink("/dev/full", launch.path("log")).unwrap();
    let mut guest = launch.start();
    guest.expect_stderr("serial0: output lost");
}

#[test]
fn standard_output_that_is_full_is_named() {
    for arguments in [&["run", "--dump-config"][..], &["completions", "bash"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = std::process::Command::new(harness::built::thimble())
            .args(arguments)
            .stdout(full)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(status::FAILED));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("standard output: No space left"), "{said}");
    }
}

#[test]
fn a_guest_out_of_descriptors_says_so_to_clients() {
    if skip::without_kvm() {
        return;
    }
    let (guest, mut client) = crate::run_state::ready();
    let pid = rustix::process::Pid::from_raw(i32::try_from(guest.pid()).unwrap());
    let none = rustix::process::Rlimit {
        current: Some(3),
        maximum: Some(3),
    };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, none).unwrap();
    let save = serde_json::json!({"val": 0, "size": 4096, "filename": "saved"});
    let refusal = client.try_execute("pmemsave", save).unwrap_err();
    assert!(refusal.desc.contains("ulimit -n"), "{}", refusal.desc);
}
