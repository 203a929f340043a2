//! The serial console's host sides: pipes, files, pseudo-terminals, sockets, and nothing.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use harness::guest::{Guest, Launch, status};
use harness::{guests, obey, skip};
use serde_json::Value;

/// Checks what the flood guest printed: nothing lost, doubled or torn.
#[track_caller]
pub(crate) fn complete(said: &str, kib: usize) {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut count = 0;
    let mut lines = said
        .split("\r\n")
        .skip_while(|line| !line.starts_with("0000"));
    for line in lines.by_ref() {
        let number = line.get(..8).and_then(|digits| digits.parse().ok());
        if number != Some(count) {
            let last = format!("FLOOD DONE lines={count} fnv1a={hash:016x}");
            assert_eq!((line, count), (last.as_str(), kib * 1024 / 64));
            return;
        }
        for byte in line.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        count += 1;
    }
    panic!("the flood ends after {count} lines");
}

fn flood(kib: usize) -> Launch {
    Launch::new().kernel(guests::FLOOD, &format!("kib={kib}"))
}

#[test]
fn a_flood_arrives_complete_through_a_pipe() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = flood(64).start();
    complete(&guest.expect_exit(status::CLEAN), 64);
}

#[test]
fn a_flood_waits_for_a_reader_that_is_slow() {
    if skip::without_kvm() {
        return;
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let room = rustix::pipe::fcntl_getpipe_size(&reader).unwrap();
    let launch = flood(80).control();
    let mut guest = launch.start_on(Stdio::null(), Stdio::from(OwnedFd::from(writer)));
    // Nothing is read until the pipe is full and the guest has to wait.
    let mut client = guest.client();
    while rustix::io::ioctl_fionread(&reader).unwrap() < room as u64 {
        assert_eq!(client.execute("query-status", Value::Null)["running"], true);
    }
    assert_eq!(crate::state(&mut guest), "running");
    guest.attach(reader.into());
    complete(&guest.expect_exit(status::CLEAN), 80);
}

#[test]
fn a_reader_that_goes_away_does_not_end_the_guest() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = flood(16).control().args(["--on-poweroff", "pause"]).start();
    let mut client = guest.client();
    guest.expect("00000010");
    guest.detach();
    client.expect_event("SHUTDOWN");
    client.execute("quit", Value::Null);
    guest.expect_exit(status::CLEAN);
}

#[test]
fn null_takes_everything_and_gives_nothing() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = flood(8).args(["--serial", "null"]).start();
    assert_eq!(guest.expect_exit(status::CLEAN), "");
}

#[test]
fn a_file_gets_everything_and_is_its_owners_alone() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = flood(16).args(["--serial", "file=console.txt"]).start();
    assert_eq!(guest.expect_exit(status::CLEAN), "");
    let path = guest.path("console.txt");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    complete(&std::fs::read_to_string(path).unwrap(), 16);
}

/// The terminal whose path the launcher prints.
#[track_caller]
fn terminal(guest: &mut Guest) -> OwnedFd {
    let said = guest.expect_stderr("(label serial0)\n");
    let path = said
        .split("char device redirected to ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .unwrap_or_else(|| panic!("no path of a terminal in {said:?}"));
    let terminal = File::options().read(true).write(true).open(path);
    terminal.unwrap().into()
}

#[test]
fn a_pseudo_terminal_is_named_and_works_both_ways() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = obey::launch().args(["--serial", "pty"]).start();
    let terminal = terminal(&mut guest);
    guest.attach(terminal);
    obey::ready(&mut guest);
    for turn in 1..=5 {
        let written = obey::ask(&mut guest, &format!("pvpanic 0 {turn}"));
        assert_eq!(written.number::<u32>("written"), turn);
    }
    obey::tell(&mut guest, "poweroff");
    guest.expect_exit(status::CLEAN);
}

/// A guest that has said everything and powered off before anybody looks at its console.
#[track_caller]
fn unheard(serial: &str) -> Guest {
    let launch = flood(1).control().args(["--on-poweroff", "pause"]);
    let mut guest = launch.args(["--paused", "--serial", serial]).start();
    let mut client = guest.client();
    client.execute("cont", Value::Null);
    client.expect_event("SHUTDOWN");
    guest
}

#[test]
fn who_opens_the_pseudo_terminal_late_is_told_what_was_said() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = unheard("pty");
    let terminal = terminal(&mut guest);
    guest.attach(terminal);
    let mut said = guest.expect("FLOOD DONE");
    said += "FLOOD DONE";
    said += &guest.expect("\r\n");
    complete(&(said + "\r\n"), 1);
}

#[test]
fn who_connects_to_the_socket_late_is_told_what_was_said() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = unheard("socket=console.sock");
    let path = guest.path("console.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    guest.attach(UnixStream::connect(path).unwrap().into());
    let mut said = guest.expect("FLOOD DONE");
    said += "FLOOD DONE";
    said += &guest.expect("\r\n");
    complete(&(said + "\r\n"), 1);
}

#[test]
fn a_second_client_of_the_socket_waits_for_the_first_to_leave() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = obey::launch()
        .control()
        .args(["--paused", "--serial", "socket=console.sock"])
        .start();
    let mut client = guest.client();
    let path = guest.path("console.sock");
    guest.attach(UnixStream::connect(&path).unwrap().into());
    let second = UnixStream::connect(&path).unwrap();
    second.set_nonblocking(true).unwrap();
    client.execute("cont", Value::Null);
    obey::ready(&mut guest);
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
    let early = std::io::Read::read(&mut &second, &mut [0]).map_err(|error| error.kind());
    assert_eq!(early, Err(std::io::ErrorKind::WouldBlock));
    // The first leaves.
    guest.attach(second.into());
    // It is told what was said before it came, first.
    obey::tell(&mut guest, "pvpanic 0 7");
    guest.expect("OBEY written=7\r\n");
    client.execute("quit", Value::Null);
    guest.expect_exit(status::CLEAN);
    assert!(!path.exists(), "the socket outlived its process");
}

#[test]
fn a_client_that_never_reads_does_not_stop_the_guest() {
    if skip::without_kvm() {
        return;
    }
    // More than the device keeps for somebody who does not read.
    let mut guest = flood(80)
        .control()
        .args(["--paused", "--serial", "socket=console.sock"])
        .start();
    let mut client = guest.client();
    let deaf = UnixStream::connect(guest.path("console.sock")).unwrap();
    client.execute("cont", Value::Null);
    client.expect_event("SHUTDOWN");
    guest.expect_exit(status::CLEAN);
    drop(deaf);
}

#[test]
fn what_cannot_be_a_console_is_refused_by_name() {
    for (serial, mention, code) in [
        ("file=no/such/place", "no/such/place", status::FAILED),
        ("file=.", "cannot open .", status::FAILED),
        ("socket=no/such/place", "no/such/place", status::FAILED),
        ("tty", "tty", status::USAGE),
    ] {
        let mut guest = Launch::new().args(["--serial", serial]).start();
        guest.expect_exit(code);
        assert!(guest.stderr().contains(mention), "{}", guest.stderr());
    }
}
