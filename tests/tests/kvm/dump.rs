//! Guest memory to files: `dump-guest-memory` as a job and as a command, `pmemsave`, and what can
//! go wrong with the file.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use api_socket::qmp::error::ErrorClass;
use harness::control::Client;
use harness::guest::{Guest, LIMIT, status};
use harness::{obey, skip};
use serde_json::{Value, json};

use crate::run_state::ready;

/// The id of the job.
const JOB: &str = "x-thimble-dump";

fn arguments(protocol: &str) -> Value {
    json!({"paging": false, "protocol": protocol})
}

/// What a program prints about a file.
#[track_caller]
fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {said}{complaints}");
    said
}

#[test]
fn a_dump_is_an_elf_core_that_readelf_and_gdb_open() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = obey::launch().control().args(["--cpus", "2"]).start();
    obey::ready(&mut guest);
    let mut client = guest.client();
    let path = guest.path("core");
    let name = path.to_str().unwrap().to_owned();
    client.execute("dump-guest-memory", arguments(&format!("file:{name}")));
    // The guest was stopped meanwhile and runs again.
    client.expect_event("STOP");
    client.expect_event("DUMP_COMPLETED");
    client.expect_event("RESUME");
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
    let mut start = [0; 4];
    File::open(&path).unwrap().read_exact(&mut start).unwrap();
    assert_eq!(&start, b"\x7fELF");
    if !skip::without_program("readelf") {
        let said = tool("readelf", &["-h", "-l", "-n", &name]);
        assert!(said.contains("CORE (Core file)"), "{said}");
        assert_eq!(said.matches("NT_PRSTATUS").count(), 2, "{said}");
        // 128 MiB of RAM in as many segments as the memory map has.
        let bytes: u64 = said
            .lines()
            .filter_map(|line| line.trim().strip_prefix("0x"))
            .filter_map(|line| line.split_ascii_whitespace().next())
            .filter_map(|size| u64::from_str_radix(size, 16).ok())
            .filter(|size| *size >= 1 << 20)
            .max()
            .unwrap_or_default();
        assert!(bytes >= 126 << 20, "{said}");
    }
    if !skip::without_program("gdb") {
        let line = [
            "-batch",
            "-nx",
            "-ex",
            "info threads",
            "-ex",
            "info registers rip",
        ];
        let said = tool("gdb", &[&line[..], &["-c", &name]].concat());
        assert!(said.contains("rip"), "{said}");
        assert_eq!(said.matches("New LWP").count(), 2, "{said}");
    }
}

/// A dump into a pipe that nobody reads, detached: it goes on until somebody does.
#[track_caller]
fn stalled(client: &mut Client) -> std::io::PipeReader {
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = File::from(OwnedFd::from(writer));
    client
        .session()
        .execute_with_fds("getfd", json!({"fdname": "pipe"}), &[writer.as_fd()])
        .unwrap();
    client.execute(
        "dump-guest-memory",
        json!({"paging": false, "protocol": "fd:pipe", "detach": true}),
    );
    reader
}

#[test]
fn a_detached_dump_is_a_job_with_progress_beside_which_all_else_is_answered() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    let mut reader = stalled(&mut client);
    client.expect_event("STOP");
    let mut other = guest.client();
    let jobs = other.execute("query-jobs", Value::Null);
    assert_eq!(jobs[0]["id"], JOB, "{jobs}");
    assert_eq!(jobs[0]["status"], "running", "{jobs}");
    assert!(jobs[0]["total-progress"].as_u64().unwrap() > 127 << 20);
    let dump = other.execute("query-dump", Value::Null);
    assert_eq!(dump["status"], "active", "{dump}");
    // The guest has to stay as it is.
    for command in ["cont", "system_reset"] {
        let refusal = other.try_execute(command, Value::Null).unwrap_err();
        assert!(refusal.desc.contains("dump"), "{}", refusal.desc);
    }
    let again = other.try_execute("dump-guest-memory", arguments("file:/dev/null"));
    assert!(again.unwrap_err().desc.contains("dump"));

    let copy = std::thread::spawn(move || {
        let mut count = 0_u64;
        let mut buffer = vec![0; 1 << 20];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            count += length as u64;
        }
        count
    });
    let done = client.expect_event("DUMP_COMPLETED").data;
    assert_eq!(done["result"]["status"], "completed", "{done}");
    client.expect_event("RESUME");
    let bytes = copy.join().unwrap();
    assert_eq!(done["result"]["total"], bytes, "{done}");
    let dump = client.execute("query-dump", Value::Null);
    assert_eq!(dump, done["result"]);
    assert_eq!(client.execute("query-jobs", Value::Null), json!([]));
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
}

#[test]
fn the_states_of_the_job_are_told_in_order() {
    if skip::without_kvm() {
        return;
    }
    let (guest, mut client) = ready();
    let name = guest.path("core");
    client.execute(
        "dump-guest-memory",
        arguments(&format!("file:{}", name.display())),
    );
    let mut states = Vec::new();
    while states.last() != Some(&json!("null")) {
        let change = client.expect_event("JOB_STATUS_CHANGE").data;
        assert_eq!(change["id"], JOB);
        states.push(change["status"].clone());
    }
    assert_eq!(states.first(), Some(&json!("created")));
    assert!(states.contains(&json!("concluded")), "{states:?}");
}

#[test]
fn out_of_band_commands_overtake_a_dump_that_is_waited_for() {
    if skip::without_kvm() {
        return;
    }
    let (_guest, mut client) = ready();
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = File::from(OwnedFd::from(writer));
    let session = client.session();
    session
        .execute_with_fds("getfd", json!({"fdname": "pipe"}), &[writer.as_fd()])
        .unwrap();
    drop(writer);
    session
        .send_raw(
            br#"{"execute":"dump-guest-memory","id":"dump",
            "arguments":{"paging":false,"protocol":"fd:pipe"}}
            {"execute":"query-status","id":"after"}"#,
        )
        .unwrap();
    assert_eq!(
        session.execute_oob("query-yank", Value::Null).unwrap(),
        json!([])
    );
    // Nobody will ever read it.
    drop(reader);
    let mut replies = Vec::new();
    while replies.len() < 2 {
        let message = session.next_message(LIMIT).unwrap().unwrap();
        if message.get("id").is_some() {
            replies.push(message);
        }
    }
    assert_eq!(replies[0]["id"], "dump", "{replies:?}");
    assert!(replies[0]["error"].is_object(), "{replies:?}");
    assert_eq!(replies[1]["id"], "after", "{replies:?}");
}

#[test]
fn a_dump_can_be_cancelled_though_its_reader_sleeps() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    let _reader = stalled(&mut client);
    let unknown = client.try_execute("job-cancel", json!({"id": "other"}));
    assert_eq!(unknown.unwrap_err().class, ErrorClass::GenericError);
    let refusal = client
        .try_execute("job-pause", json!({"id": JOB}))
        .unwrap_err();
    assert!(refusal.desc.contains("pause"), "{}", refusal.desc);
    client.execute("job-cancel", json!({"id": JOB}));
    let done = client.expect_event("DUMP_COMPLETED").data;
    assert_eq!(done["result"]["status"], "failed", "{done}");
    assert!(done["error"].as_str().unwrap().contains("cancel"), "{done}");
    client.expect_event("RESUME");
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
}

#[test]
fn quit_does_not_wait_for_a_reader_that_sleeps() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    let _reader = stalled(&mut client);
    client.execute("quit", Value::Null);
    guest.expect_exit(status::CLEAN);
}

/// Wants a dump or save to fail with a text that has `why`, and the guest to run on.
#[track_caller]
fn fails(guest: &mut Guest, client: &mut Client, command: &str, arguments: Value, why: &str) {
    let refusal = client.try_execute(command, arguments).unwrap_err();
    assert!(
        refusal.desc.contains(why),
        "no {why:?} in {:?}",
        refusal.desc
    );
    assert_eq!(crate::state(guest), "running");
}

#[test]
fn a_dump_that_cannot_be_written_says_why_and_leaves_nothing() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    let directory = guest.path("");
    let dump = "dump-guest-memory";
    for (protocol, why) in [
        ("file:/dev/full".to_owned(), "No space left"),
        ("file:/no/such/core".to_owned(), "/no/such/core"),
        (format!("file:{}", directory.display()), "directory"),
        ("fd:nobody".to_owned(), "nobody"),
        ("core".to_owned(), "protocol"),
    ] {
        fails(&mut guest, &mut client, dump, arguments(&protocol), why);
    }
    let fifo = guest.path("fifo");
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
    let protocol = format!("file:{}", fifo.display());
    fails(&mut guest, &mut client, dump, arguments(&protocol), "fifo");
    let mut filter = arguments("file:core");
    filter["begin"] = json!(0);
    fails(&mut guest, &mut client, dump, filter, "length");
    let mut paging = arguments("file:core");
    paging["paging"] = json!(true);
    fails(&mut guest, &mut client, dump, paging, "paging");
    assert!(!guest.path("core").exists());
    assert_eq!(obey::ask(&mut guest, "nmi").text("nmi"), "0");
}

#[test]
fn pmemsave_writes_what_is_there() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    let path = guest.path("image.bin");
    client.execute(
        "pmemsave",
        json!({"val": 0xe_0000, "size": 0x2_0000, "filename": path}),
    );
    // The ACPI root pointer stands at the start of this range.
    let saved = std::fs::read(&path).unwrap();
    assert_eq!(saved.len(), 0x2_0000);
    assert_eq!(&saved[..8], b"RSD PTR ");
    let nowhere = json!({"val": 0xc000_0000_u64, "size": 16, "filename": path});
    fails(&mut guest, &mut client, "pmemsave", nowhere, "RAM");
    let full = json!({"val": 0, "size": 4096, "filename": "/dev/full"});
    fails(&mut guest, &mut client, "pmemsave", full, "No space left");
}
