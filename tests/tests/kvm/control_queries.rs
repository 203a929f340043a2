//! What can be asked of a running guest: processors, threads, counters, memory, names, and the
//! lines of the human monitor.

use harness::control::Client;
use harness::guest::Guest;
use harness::{obey, skip};
use serde_json::{Value, json};

use crate::run_state::ready;

/// A guest with something of everything, and a session.
#[track_caller]
pub(crate) fn furnished() -> (Guest, Client) {
    let mut guest = obey::launch()
        .control()
        .args(["--name", "furnished", "--cpus", "2", "--rng"])
        .args(["--uuid", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"])
        .empty_disk("a.img", 1 << 20, ",id=first")
        .empty_disk("b.img", 1 << 20, ",id=second,readonly=on,cache=none")
        .start();
    obey::ready(&mut guest);
    let client = guest.client();
    (guest, client)
}

/// The name of a thread of a process.
#[track_caller]
fn thread(guest: &Guest, id: &Value) -> String {
    let path = format!("/proc/{}/task/{id}/comm", guest.pid());
    match std::fs::read_to_string(&path) {
        Ok(name) => name.trim_end().to_owned(),
        Err(error) => panic!("{path}: {error}"),
    }
}

#[test]
fn threads_are_those_of_the_process() {
    if skip::without_kvm() {
        return;
    }
    let (guest, mut client) = furnished();
    let cpus = client.execute("query-cpus-fast", Value::Null);
    let cpus = cpus.as_array().unwrap();
    assert_eq!(cpus.len(), 2);
    for (index, cpu) in cpus.iter().enumerate() {
        assert_eq!(cpu["cpu-index"], index);
        assert_eq!(
            thread(&guest, &cpu["thread-id"]),
            format!("thimble-vcpu{index}")
        );
    }
    let threads = client.execute("query-iothreads", Value::Null);
    assert_eq!(thread(&guest, &threads[0]["thread-id"]), "thimble-io");
    let places = client.execute("query-hotpluggable-cpus", Value::Null);
    assert_eq!(places.as_array().unwrap().len(), 2);
    assert_eq!(places[1]["qom-path"], cpus[0]["qom-path"], "{places}");
}

#[test]
fn names_and_sizes_are_as_given() {
    if skip::without_kvm() {
        return;
    }
    let (_guest, mut client) = furnished();
    for (command, expected) in [
        ("query-name", json!({"name": "furnished"})),
        (
            "query-uuid",
            json!({"UUID": "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"}),
        ),
        ("query-kvm", json!({"enabled": true, "present": true})),
        ("query-target", json!({"arch": "x86_64"})),
        (
            "query-status",
            json!({"running": true, "status": "running"}),
        ),
        (
            "query-memory-size-summary",
            json!({"base-memory": 128 << 20, "plugged-memory": 0}),
        ),
        ("query-jobs", json!([])),
        ("query-yank", json!([])),
        ("query-fdsets", json!([])),
    ] {
        assert_eq!(client.execute(command, Value::Null), expected, "{command}");
    }
    let chardevs = client.execute("query-chardev", Value::Null);
    assert_eq!(chardevs[0]["label"], "serial0", "{chardevs}");
}

/// One of our own counters of vCPU 0.
#[track_caller]
fn counter(client: &mut Client, name: &str) -> u64 {
    let groups = client.execute("x-thimble-query-counters", Value::Null);
    let counters = groups[0]["counters"].as_array().unwrap();
    let found = counters.iter().find(|counter| counter["name"] == name);
    match found.and_then(|counter| counter["value"].as_u64()) {
        Some(value) => value,
        None => panic!("no {name} in {groups}"),
    }
}

#[test]
fn our_counters_grow_with_what_the_guest_does() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = furnished();
    let before = ["exits-io", "exits-mmio-write", "exits-mmio-read"]
        .map(|name| (name, counter(&mut client, name)));
    assert_eq!(
        obey::ask(&mut guest, "pvpanic 0 100").text("written"),
        "100"
    );
    let _ = obey::ask(&mut guest, "disk 0");
    for (name, value) in before {
        assert!(counter(&mut client, name) > value, "{name}");
    }
    let io = before[0].1;
    assert!(counter(&mut client, "exits-io") >= io + 100);
}

#[test]
fn kvms_own_counters_are_told_with_their_schema() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = furnished();
    let exits = |client: &mut Client| {
        let all = client.execute("query-stats", json!({"target": "vcpu"}));
        let stats = all[0]["stats"].as_array().unwrap().clone();
        let exits = stats.iter().find(|stat| stat["name"] == "exits");
        exits.unwrap()["value"].as_u64().unwrap()
    };
    let before = exits(&mut client);
    assert_eq!(
        obey::ask(&mut guest, "pvpanic 0 100").text("written"),
        "100"
    );
    assert!(exits(&mut client) > before);

    let schemas = client.execute("query-stats-schemas", Value::Null);
    for (target, place) in [("vm", 0), ("vcpu", 1)] {
        assert_eq!(schemas[place]["target"], target);
        let described = schemas[place]["stats"].as_array().unwrap();
        let names: Vec<_> = described.iter().map(|stat| &stat["name"]).collect();
        let results = client.execute("query-stats", json!({"target": target}));
        let told = results[0]["stats"].as_array().unwrap();
        assert!(!told.is_empty());
        assert_eq!(
            told.iter().map(|stat| &stat["name"]).collect::<Vec<_>>(),
            names
        );
    }
    let path = client.execute("query-cpus-fast", Value::Null)[1]["qom-path"].clone();
    let one = client.execute(
        "query-stats",
        json!({"target": "vcpu", "vcpus": [path],
               "providers": [{"provider": "kvm", "names": ["exits"]}]}),
    );
    assert_eq!(one.as_array().unwrap().len(), 1, "{one}");
    assert_eq!(one[0]["qom-path"], path, "{one}");
    assert_eq!(one[0]["stats"].as_array().unwrap().len(), 1, "{one}");
}

#[track_caller]
fn monitor(client: &mut Client, line: &str) -> String {
    let text = client.execute("human-monitor-command", json!({"command-line": line}));
    text.as_str().unwrap().to_owned()
}

#[test]
fn the_human_monitor_has_its_topics() {
    if skip::without_kvm() {
        return;
    }
    let (_guest, mut client) = furnished();
    for (topic, mention) in [
        ("status", "VM status: running"),
        ("version", "thimble"),
        ("name", "furnished"),
        ("uuid", "0f1e2d3c"),
        ("cpus", "CPU #1: thread_id="),
        ("block", "second"),
        ("blockstats", "rd_bytes="),
        ("kvm", "enabled"),
        ("mtree", "00000000c0000000"),
        ("registers", "RIP="),
        ("qtree", "virtio-rng-device"),
        ("chardev", "serial0"),
    ] {
        let text = monitor(&mut client, &format!("info {topic}"));
        assert!(text.contains(mention), "info {topic}: {text}");
        assert!(text.ends_with("\r\n"), "info {topic}: {text}");
        assert!(monitor(&mut client, "info").contains(topic));
    }
    let text = client.execute(
        "human-monitor-command",
        json!({"command-line": "info registers", "cpu-index": 1}),
    );
    assert!(text.as_str().unwrap().contains("RIP="), "{text}");
    let text = client.execute(
        "human-monitor-command",
        json!({"command-line": "info registers", "cpu-index": 2}),
    );
    assert!(text.as_str().unwrap().contains('2'), "{text}");
    for (which, cpus) in [("-a", ["CPU#0", "CPU#1"]), ("1", ["CPU#1", "RIP="])] {
        let text = monitor(&mut client, &format!("info registers {which}"));
        assert!(cpus.iter().all(|cpu| text.contains(cpu)), "{text}");
        assert_eq!(text.contains("CPU#0"), which == "-a", "{text}");
    }
    for line in [
        "info nonsense",
        "nonsense",
        "info a b",
        "info status -a",
        "info registers -b",
        "info registers 2",
        "",
    ] {
        assert!(!monitor(&mut client, line).contains("RIP"), "{line}");
    }
}

#[test]
fn the_human_monitor_acts() {
    if skip::without_kvm() {
        return;
    }
    let (mut guest, mut client) = ready();
    assert_eq!(monitor(&mut client, "stop"), "");
    assert!(monitor(&mut client, "info status").contains("paused"));
    assert_eq!(monitor(&mut client, "c"), "");
    client.expect_event("RESUME");
    assert_eq!(monitor(&mut client, "system_reset"), "");
    client.expect_event("RESET");
    obey::ready(&mut guest);
    assert_eq!(monitor(&mut client, "system_powerdown"), "");
    client.expect_event("POWERDOWN");
    assert_eq!(monitor(&mut client, "quit"), "");
    guest.expect_exit(0);
}

#[test]
fn what_this_machine_lacks_is_refused_as_qemu_does() {
    if skip::without_kvm() {
        return;
    }
    let (_guest, mut client) = ready();
    for (command, arguments) in [
        ("query-balloon", Value::Null),
        ("balloon", json!({"value": 1 << 26})),
        ("system_wakeup", Value::Null),
        (
            "yank",
            json!({"instances": [{"type": "chardev", "id": "x"}]}),
        ),
        ("set-action", json!({"watchdog": "reset"})),
        ("job-dismiss", json!({"id": "x"})),
    ] {
        let refusal = client.try_execute(command, arguments).unwrap_err();
        assert!(!refusal.desc.is_empty(), "{command}");
    }
}
