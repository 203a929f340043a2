//! The configuration as a whole: every rule of the check, every fault of a text, and the two
//! promises that hold for any input (no panic, and what is written is read back).

use proptest::prelude::*;
use serde_json::{Value, json};

use super::Rng;
use super::*;
use crate::qmp::types::PanicAction;

/// The problems of a configuration, as printed.
fn problems(value: &Value) -> Vec<String> {
    match parse(value.to_string().as_bytes()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

/// Asserts that `value` has exactly the problems that start with `starts`, in this order.
fn assert_problems(value: &Value, starts: &[&str]) {
    let found = problems(value);
    assert_eq!(found.len(), starts.len(), "{value}: {found:#?}");
    for (problem, start) in found.iter().zip(starts) {
        assert!(
            problem.starts_with(start),
            "{value}: {problem:?} is not about {start:?}"
        );
        assert!(problem.contains("; "), "{problem:?} has no remedy");
    }
}

#[test]
fn an_empty_object_is_the_built_in_guest() {
    let checked = parse(b"{}").unwrap();
    assert_eq!(checked.kernel, None);
    assert_eq!(checked.cpus.count, 1);
    assert_eq!(checked.memory_size, 128 << 20);
    assert_eq!(checked.serial, CheckedSerial::Stdio);
    assert_eq!(checked.machine, MachineVersion::Thimble1);
    assert!(checked.disks.is_empty() && checked.control.is_empty() && checked.rng.is_none());
    assert_eq!(check(&Config::default()).unwrap(), checked);
}

#[test]
fn a_full_configuration_is_read() {
    let checked = parse(
        br#"{"name": "web", "uuid": "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
            "machine": "thimble-1",
            "kernel": {"path": "vmlinux", "initrd": "initrd", "cmdline": "quiet"},
            "cpus": {"count": 4, "features": "host,-avx2"},
            "memory": {"size": 1073741824},
            "disks": [{"path": "root.img", "serial": "S1"},
                      {"id": "data", "path": "/dev/sdb", "readonly": true, "cache": "none",
                       "format": "raw", "werror": "stop", "rerror": "stop", "discard": "ignore"}],
            "rng": {"id": "entropy"},
            "nets": [{"tap": "tap0", "mac": "02:00:00:00:00:01", "mtu": 9000, "queues": 4,
                      "rx-bps": "10M", "tx-ops": 1000, "tx-ops-burst": 5}, {"fds": [5, 6]}],
            "vsock": {"cid": 42, "path": "v.sock"},
            "serial": {"backend": "file", "path": "console.log"},
            "control": [{"path": "ctl.sock"}, {"fd": 3}],
            "paused": true, "pidfile": "pid", "daemonize": true,
            "log": {"level": "debug", "file": "log"},
            "actions": {"on-reboot": "shutdown", "on-poweroff": "pause",
                        "on-panic": "exit-failure"}}"#,
    )
    .unwrap();
    assert_eq!(checked.memory_size, 1 << 30);
    assert_eq!(
        checked.cpus.features,
        [FeatureChange::Remove("avx2".into())]
    );
    assert_eq!(checked.disks[0].id, "disk0");
    assert_eq!(checked.disks[1].id, "data");
    assert_eq!(checked.disks[1].cache, Cache::None);
    assert_eq!(checked.rng.unwrap().id, "entropy");
    let [tap, fds] = &checked.nets[..] else {
        panic!("{:?}", checked.nets)
    };
    assert_eq!((tap.id.as_str(), fds.id.as_str()), ("net0", "net1"));
    assert_eq!(
        tap.backend,
        CheckedNetBackend::Tap {
            name: "tap0".into(),
            queues: 4
        }
    );
    assert_eq!(fds.backend, CheckedNetBackend::Fds(vec![5, 6]));
    assert_eq!(
        (tap.mac, tap.mtu),
        (Some(MacAddress([2, 0, 0, 0, 0, 1])), Some(9000))
    );
    let rate = |per_second, burst| Some(CheckedRate { per_second, burst });
    assert_eq!(
        (tap.rx.bytes, tap.rx.operations),
        (rate(10 << 20, None), None)
    );
    assert_eq!(tap.tx.operations, rate(1000, Some(5)));
    let vsock = checked.vsock.unwrap();
    assert_eq!((vsock.id.as_str(), vsock.cid), ("vsock0", 42));
    assert_eq!(checked.serial, CheckedSerial::File("console.log".into()));
    assert_eq!(
        checked.control,
        [
            CheckedControl::Path("ctl.sock".into()),
            CheckedControl::Fd(3)
        ]
    );
    assert_eq!(checked.actions.on_panic, PanicAction::ExitFailure);
    assert_eq!(checked.kernel.unwrap().cmdline, "quiet");
}

/// Asserts that each value has one problem, which starts as given.
fn assert_one_problem_each<const N: usize>(cases: [(Value, &str); N]) {
    for (value, start) in cases {
        assert_problems(&value, &[start]);
    }
}

#[test]
fn every_rule_of_the_machine_names_its_key() {
    let long = "x".repeat(5000);
    assert_one_problem_each([
        (json!({"name": ""}), "name: is empty"),
        (json!({"name": "a\u{7}"}), "name: "),
        (json!({"uuid": "1234"}), "uuid: "),
        (
            json!({"kernel": {"initrd": "i"}}),
            "kernel.path: is missing, but an initrd",
        ),
        (
            json!({"kernel": {"cmdline": "c"}}),
            "kernel.path: is missing, but a command line",
        ),
        (json!({"kernel": {"path": ""}}), "kernel.path: is empty"),
        (
            json!({"kernel": {"path": "k", "initrd": "a\0b"}}),
            "kernel.initrd: holds a NUL",
        ),
        (
            json!({"kernel": {"path": "k", "cmdline": long}}),
            "kernel.cmdline: is 5000 bytes",
        ),
        (
            json!({"kernel": {"path": "k", "cmdline": "a\nb"}}),
            "kernel.cmdline: holds",
        ),
        (
            json!({"cpus": {"count": 0}}),
            "cpus.count: 0 is out of range; use 1 to 32",
        ),
        (json!({"cpus": {"count": 33}}), "cpus.count: 33 is out"),
        (json!({"cpus": {"count": 257}}), "cpus.count: 257 is out"),
        (
            json!({"cpus": {"features": "486"}}),
            "cpus.features: \"486\"",
        ),
        (
            json!({"memory": {"size": "1M"}}),
            "memory.size: 1 MiB is too little",
        ),
        (
            json!({"memory": {"size": 16777217}}),
            "memory.size: 16777217 bytes is not a whole",
        ),
        (
            json!({"memory": {"size": "2T"}}),
            "memory.size: 2 TiB is more",
        ),
        (
            json!({"memory": {"size": "512"}}),
            "memory.size: \"512\" has no unit",
        ),
        (
            json!({"memory": {"size": "512MB"}}),
            "memory.size: \"512MB\" is not a size",
        ),
    ]);
}

#[test]
fn every_rule_of_the_devices_names_its_key() {
    assert_one_problem_each([
        (json!({"disks": [{"path": ""}]}), "disks[0].path: is empty"),
        (
            json!({"disks": [{"path": "a", "id": "0"}]}),
            "disks[0].id: \"0\"",
        ),
        (
            json!({"disks": [{"path": "a"}, {"path": "b", "serial": "123456789012345678901"}]}),
            "disks[1].serial: is 21 bytes",
        ),
        (
            json!({"disks": [{"path": "a", "serial": "\u{e9}"}]}),
            "disks[0].serial: holds",
        ),
        (
            json!({"disks": [{"path": "a"}, {"path": "a"}]}),
            "disks[1].path: names the same file",
        ),
        (
            json!({"disks": [{"path": "a", "readonly": true}, {"path": "./a"}]}),
            "disks[1].path: names the same file",
        ),
        (
            json!({"disks": [{"path": "a", "id": "x"}, {"path": "b", "id": "x"}]}),
            "disks[1].id: \"x\" is the same id as disks[0].id;",
        ),
        (
            json!({"disks": [{"path": "a", "id": "disk1"}, {"path": "b"}]}),
            "disks[1].id: ",
        ),
        (
            json!({"disks": [{"path": "a", "id": "rng0"}], "rng": true}),
            "rng.id: ",
        ),
        (json!({"rng": {"id": "-"}}), "rng.id: "),
        (
            json!({"vsock": {"path": "v", "id": "rng0"}, "rng": true}),
            "vsock.id: ",
        ),
        (json!({"vsock": {"path": "v", "cid": 2}}), "vsock.cid: "),
        (
            json!({"vsock": {"path": "v", "cid": u32::MAX}}),
            "vsock.cid: ",
        ),
        (json!({"vsock": {}}), "vsock.path: "),
        (json!({"vsock": {"path": ""}}), "vsock.path: "),
        (json!({"vsock": {"path": "/tmp/.."}}), "vsock.path: "),
        (
            json!({"vsock": {"path": format!("/{}/v", "d".repeat(94))}}),
            "vsock.path: is 97 bytes long, which leaves no room for _PORT",
        ),
        (
            json!({"vsock": {"path": "n".repeat(76)}}),
            "vsock.path: has a file name of 76 bytes",
        ),
        (
            json!({"vsock": {"path": "c"}, "control": [{"path": "c"}]}),
            "control[0].path: ",
        ),
    ]);
}

#[test]
fn every_rule_of_a_network_card_names_its_key() {
    let net = |net: Value| json!({ "nets": [net] });
    let more = |key: &str, value: Value| {
        let mut all = json!({"tap": "t"});
        all[key] = value;
        json!({ "nets": [all] })
    };
    assert_one_problem_each([
        (net(json!({})), "nets[0]: says neither tap nor fds"),
        (net(json!({"tap": "t", "fds": [3]})), "nets[0]: says both"),
        (net(json!({"tap": ""})), "nets[0].tap: \"\" is not a name"),
        (
            net(json!({"tap": "a b"})),
            "nets[0].tap: \"a b\" is not a name",
        ),
        (
            net(json!({"tap": "tap%d"})),
            "nets[0].tap: \"tap%d\" is not",
        ),
        (
            net(json!({"tap": "sixteen-letters-"})),
            "nets[0].tap: is 16 bytes",
        ),
        (
            net(json!({"fds": [2]})),
            "nets[0].fds[0]: 2 is out of range",
        ),
        (
            net(json!({"fds": [3, 3]})),
            "nets[0].fds[1]: names the same",
        ),
        (
            net(json!({"fds": [3], "queues": 2})),
            "nets[0].queues: does not agree",
        ),
        (
            more("queues", json!(33)),
            "nets[0].queues: 33 is out of range",
        ),
        (
            more("queues", json!(0)),
            "nets[0].queues: 0 is out of range",
        ),
        (more("mtu", json!(67)), "nets[0].mtu: 67 is out of range"),
        (
            more("mac", json!("02:00")),
            "nets[0].mac: \"02:00\" is not an",
        ),
        (
            more("mac", json!("03:00:00:00:00:01")),
            "nets[0].mac: 03:00",
        ),
        (
            more("mac", json!("00:00:00:00:00:00")),
            "nets[0].mac: 00:00",
        ),
        (
            more("rx-bps", json!(0)),
            "nets[0].rx-bps: lets nothing pass",
        ),
        (
            more("rx-bps", json!("10")),
            "nets[0].rx-bps: \"10\" has no unit",
        ),
        (
            more("tx-ops", json!(0)),
            "nets[0].tx-ops: 0 is out of range",
        ),
        (
            more("tx-bps-burst", json!("1M")),
            "nets[0].tx-bps-burst: is of no use",
        ),
        (
            more("rx-ops-burst", json!(1)),
            "nets[0].rx-ops-burst: is of no use",
        ),
        (
            more("id", json!("0")),
            "nets[0].id: \"0\" is not a device id",
        ),
        (
            json!({"nets": [{"tap": "t"}, {"tap": "t"}]}),
            "nets[1].tap: names the same interface as nets[0].tap",
        ),
        (
            json!({"nets": [{"tap": "t", "mac": "02:00:00:00:00:0a"},
                            {"tap": "u", "mac": "02:00:00:00:00:0A"}]}),
            "nets[1].mac: is the same address as nets[0].mac",
        ),
        (
            json!({"nets": [{"fds": [4]}], "control": [{"fd": 4}]}),
            "control[0].fd: names the same descriptor as nets[0].fds[0]",
        ),
        (
            json!({"nets": [{"tap": "t"}], "rng": {"id": "net0"}}),
            "nets[0].id: \"net0\" is the same id as rng.id",
        ),
    ]);
}

#[test]
fn every_rule_of_the_process_names_its_key() {
    assert_one_problem_each([
        (
            json!({"serial": {"backend": "file"}}),
            "serial.path: is missing",
        ),
        (
            json!({"serial": {"backend": "pty", "path": "p"}}),
            "serial.path: is not used",
        ),
        (
            json!({"serial": {"backend": "socket", "path": "s".repeat(108)}}),
            "serial.path: is 108",
        ),
        (
            json!({"serial": {"backend": "stdio"}, "daemonize": true}),
            "serial.backend: stdio",
        ),
        (
            json!({"serial": {"backend": "file", "path": "a"}, "disks": [{"path": "a"}]}),
            "serial.path: names the same file as disks[0].path",
        ),
        (
            json!({"control": [{"path": "c"}, {"path": "c"}]}),
            "control[1].path: names the same file as control[0].path",
        ),
        (
            json!({"control": [{"fd": 4}, {"fd": 4}]}),
            "control[1].fd: names the same descriptor",
        ),
        (
            json!({"control": [{"fd": 2}]}),
            "control[0].fd: 2 is out of range; use 3",
        ),
        (json!({"control": [{"fd": -1}]}), "control[0].fd: -1 is out"),
        (json!({"control": [{}]}), "control[0]: says neither"),
        (
            json!({"control": [{"fd": 3, "path": "c"}]}),
            "control[0]: says both",
        ),
        (
            json!({"control": [{"path": "c".repeat(108)}]}),
            "control[0].path: is 108",
        ),
        (
            json!({"control": (3..20).map(|fd| json!({"fd": fd})).collect::<Vec<_>>()}),
            "control: 17 control sockets",
        ),
        (
            json!({"pidfile": "a", "log": {"file": "a"}}),
            "log.file: names the same file as pidfile",
        ),
        (json!({"pidfile": ""}), "pidfile: is empty"),
        (json!({"log": {"file": ""}}), "log.file: is empty"),
    ]);
}

#[test]
fn what_is_allowed_stays_allowed() {
    let disks = |count: usize| -> Vec<Value> {
        (0..count)
            .map(|n| json!({"path": format!("d{n}.img")}))
            .collect()
    };
    for value in [
        json!({"disks": [{"path": "a", "readonly": true}, {"path": "a", "readonly": true}]}),
        json!({"disks": disks(17)}),
        json!({"disks": disks(16), "rng": true}),
        json!({"log": {"file": "/dev/null"}, "serial": {"backend": "file", "path": "/dev/null"}}),
        json!({"daemonize": true}),
        json!({"memory": {"size": "16M"}}),
        json!({"memory": {"size": "1T"}}),
        json!({"cpus": {"count": 32}}),
        json!({"kernel": {"path": "k", "cmdline": "x".repeat(CMDLINE_LIMIT)}}),
        json!({"name": null, "serial": null}),
    ] {
        assert_eq!(problems(&value), Vec::<String>::new(), "{value}");
    }
    assert_problems(&json!({"disks": disks(18)}), &["disks: 18 virtio devices"]);
    assert_problems(
        &json!({"disks": disks(17), "rng": {}}),
        &["disks: 18 virtio devices"],
    );
    assert_problems(
        &json!({"disks": disks(16), "rng": true, "vsock": {"path": "v"}}),
        &["disks: 18 virtio devices"],
    );
    let longest = format!("/{}/{}", "d".repeat(19), "n".repeat(75));
    let longest = json!({"vsock": {"path": longest, "cid": 4_294_967_294_u32}});
    assert_eq!(problems(&longest), Vec::<String>::new());
    let in_background = parse(br#"{"daemonize": true}"#).unwrap();
    assert_eq!(in_background.serial, CheckedSerial::Null);
}

#[test]
fn unknown_keys_and_wrong_types_are_reported_together_with_broken_rules() {
    assert_problems(
        &json!({
            "nmae": "web",
            "colour": "red",
            "machine": "pc",
            "cpus": {"count": "two", "features": "host,+A"},
            "memory": {"size": 1.5},
            "disks": [
                {"path": "a", "cache": "fast", "serial": "123456789012345678901"},
                {"id": "x"},
                5,
                {"path": "b", "readonly": "yes", "ID": "y"},
                {"path": "b", "id": "9"}
            ],
            "rng": "yes",
            "serial": {"backend": "tty", "path": "p"},
            "control": [{"fd": 99999999999_u64}, {"fd": 1}],
            "paused": 1,
            "uuid": "none"
        }),
        &[
            "nmae: is not a known key; did you mean name?",
            "colour: is not a known key; the keys here are name, uuid",
            "machine: \"pc\" is not one of its words; write thimble-1",
            "cpus.count: \"two\" has the wrong type; write an integer",
            "memory.size: 1.5 has the wrong type; write an integer or a text",
            "disks[0].cache: \"fast\" is not one of its words; write writeback, none,",
            "disks[1].path: is missing",
            "disks[2]: 5 has the wrong type; write an object",
            "disks[3].readonly: \"yes\" has the wrong type; write true or false",
            "disks[3].ID: is not a known key; did you mean id?",
            "rng: \"yes\" has the wrong type; write true or false or an object",
            "serial.backend: \"tty\" is not one of its words; write stdio,",
            "control[0].fd: 99999999999 is out of range; use 3 to 2147483647",
            "control[1].fd: 1 is out of range",
            "paused: 1 has the wrong type",
            // From here the rules, tried on what was right.
            "uuid: \"none\" is not a UUID",
            "cpus.features: \"+A\"",
            "disks[0].serial: is 21 bytes long",
            "disks[4].id: \"9\"",
            "disks[4].path: names the same file as disks[3].path",
        ],
    );
}

#[test]
fn a_part_that_was_left_out_causes_no_second_problem() {
    assert_problems(
        &json!({"kernel": {"path": 5, "initrd": "i"}}),
        &["kernel.path: 5 has"],
    );
    assert_problems(
        &json!({"control": [{"path": 7}]}),
        &["control[0].path: 7 has"],
    );
    assert_problems(
        &json!([]),
        &["(top level): a list has the wrong type; write an object"],
    );
}

#[test]
fn repeated_keys_come_with_the_other_problems() {
    let text = br#"{"name": "a", "name": "b", "disks": [{"path": "x", "path": "y"}], "x": 1}"#;
    let found: Vec<String> = parse(text)
        .unwrap_err()
        .iter()
        .map(|problem| problem.path.to_string())
        .collect();
    assert_eq!(found, ["name", "disks[0].path", "x"]);
}

/// What serde would take beside the documented form: a struct as a list, a word as an object.
#[test]
fn each_setting_has_one_form_only() {
    assert_problems(
        &json!({"cpus": [2, "host"]}),
        &["cpus: a list has the wrong type"],
    );
    assert_problems(
        &json!({"machine": {"thimble-1": null}}),
        &["machine: an object is not"],
    );
    assert_problems(
        &json!({"disks": [["a"]]}),
        &["disks[0]: a list has the wrong type"],
    );
}

/// The rules hold without a text, too: flags make configurations that no schema has seen.
#[test]
fn a_configuration_made_by_hand_meets_the_same_rules() {
    let config = Config {
        cpus: Cpus {
            count: 33,
            features: "host".into(),
        },
        control: vec![Control {
            path: None,
            fd: Some(2),
        }],
        ..Config::default()
    };
    let found: Vec<String> = check(&config)
        .unwrap_err()
        .iter()
        .map(|p| p.to_string())
        .collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("cpus.count: 33 CPUs cannot be given; use 1 to 32"));
    assert!(found[1].starts_with("control[0].fd: 2 is not a descriptor"));
}

#[test]
fn a_flood_of_problems_is_cut_short() {
    let keys: Vec<String> = (0..60_000).map(|n| format!("\"k{n}\": 0")).collect();
    let text = format!("{{{}}}", keys.join(","));
    assert!(text.len() < TEXT_LIMIT);
    let found = parse(text.as_bytes()).unwrap_err();
    assert_eq!(found.len(), 101);
    assert!(found[100].what.contains("59900 more"));
    let disks = json!({"disks": vec![json!({"path": "a"}); 257]});
    assert_problems(&disks, &["disks: has 257 elements; use at most 256"]);
}

fn word<T: Word + std::fmt::Debug>() -> impl Strategy<Value = T> {
    prop::sample::select(T::ALL)
}

fn maybe<T: Strategy>(inner: T) -> impl Strategy<Value = Option<T::Value>>
where
    T::Value: Clone,
{
    prop::option::of(inner)
}

#[test]
fn numbers_that_are_none_for_a_setting_are_named() {
    let texts = [
        (
            r#"{"memory": {"size": 18446744073709551616}}"#,
            "memory.size: 1.8446744073709552e+19 is too large a number",
        ),
        (
            r#"{"cpus": {"count": -99999999999999999999}}"#,
            "cpus.count: -1e+20 is too large a number",
        ),
        (
            r#"{"cpus": {"count": 18446744073709551615}}"#,
            "cpus.count: 18446744073709551615 is out of range",
        ),
        (
            r#"{"cpus": {"count": -0}}"#,
            "cpus.count: -0.0 has the wrong type",
        ),
        (
            r#"{"cpus": {"count": 2.0}}"#,
            "cpus.count: 2.0 has the wrong type",
        ),
        (
            r#"{"memory": {"size": 1e400}}"#,
            "(top level): the text is not valid JSON: number out of range",
        ),
    ];
    for (text, start) in texts {
        let found = parse(text.as_bytes()).unwrap_err();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].to_string().starts_with(start),
            "{} / {start}",
            found[0]
        );
    }
}

/// Texts that are hard for JSON.
fn text() -> impl Strategy<Value = String> {
    "[a-z\"\\\\\u{0}-\u{1f}\u{e9}\u{1f600}/,=]{0,12}"
}

prop_compose! {
    fn any_disk()(
        id in maybe(text()), path in text(), readonly: bool, cache in word(), serial in maybe(text()),
        werror in word(), rerror in word(), discard in word(),
    ) -> Disk {
        let format = DiskFormat::Raw;
        Disk { id, path: path.into(), readonly, format, cache, serial, werror, rerror, discard }
    }
}

prop_compose! {
    fn any_host_side()(
        serial in maybe((word(), maybe(text()))),
        control in prop::collection::vec((maybe(text()), maybe(3..=i32::MAX)), 0..3),
        pidfile in maybe(text()), level in word(), file in maybe(text()),
        on_reboot in word(), on_poweroff in word(), on_panic in word(),
    ) -> Config {
        Config {
            serial: serial.map(|(backend, path)| Serial { backend, path: path.map(Into::into) }),
            control: control
                .into_iter()
                .map(|(path, fd)| Control { path: path.map(Into::into), fd })
                .collect(),
            pidfile: pidfile.map(Into::into),
            log: Log { level, file: file.map(Into::into) },
            actions: Actions { on_reboot, on_poweroff, on_panic },
            ..Config::default()
        }
    }
}

prop_compose! {
    fn any_net()(
        id in maybe(text()), tap in maybe(text()), mac in maybe(text()),
        fds in prop::collection::vec(3..40_i32, 0..4),
        mtu in maybe(68..=u16::MAX), queues in maybe(1..=32_u16),
        rx_bps in maybe(any::<u64>().prop_map(Size::Bytes)),
        tx_bps in maybe(text().prop_map(Size::Text)),
        tx_bps_burst in maybe(any::<u64>().prop_map(Size::Bytes)),
        rx_ops in maybe(1_u32..), rx_ops_burst in maybe(1_u32..),
    ) -> Net {
        Net {
            id, tap, fds, mac, mtu, queues, rx_bps, rx_ops, rx_ops_burst, tx_bps, tx_bps_burst,
            ..Net::default()
        }
    }
}

prop_compose! {
    /// Any configuration within the schema's ranges, whatever rules it breaks.
    fn any_config()(
        host in any_host_side(), name in maybe(text()), uuid in maybe(text()),
        kernel in (maybe(text()), maybe(text()), maybe(text())),
        cpus in (1..=32_u32, text()),
        size in prop_oneof![any::<u64>().prop_map(Size::Bytes), text().prop_map(Size::Text)],
        disks in prop::collection::vec(any_disk(), 0..3),
        nets in prop::collection::vec(any_net(), 0..3),
        rng in prop_oneof![
            any::<bool>().prop_map(RngSetting::Switch),
            maybe(text()).prop_map(|id| RngSetting::Device(Rng { id })),
        ],
        paused: bool, daemonize: bool,
    ) -> Config {
        let (path, initrd, cmdline) = kernel;
        let (path, initrd) = (path.map(Into::into), initrd.map(Into::into));
        Config {
            name,
            uuid,
            kernel: Kernel { path, initrd, cmdline },
            cpus: Cpus { count: cpus.0, features: cpus.1 },
            memory: Memory { size },
            disks,
            rng,
            nets,
            paused,
            daemonize,
            ..host
        }
    }
}

/// A value that is nearly a configuration: some part of a real one replaced.
fn nearly_config() -> impl Strategy<Value = Value> {
    let odd = prop_oneof![
        Just(Value::Null),
        Just(json!(true)),
        Just(json!(-1)),
        Just(json!(1.5)),
        Just(json!(u64::MAX)),
        Just(json!("text")),
        Just(json!([])),
        Just(json!({})),
        Just(json!({"x": [{}]})),
    ];
    let place = prop::sample::select(
        &[
            "",
            "/name",
            "/kernel",
            "/kernel/path",
            "/cpus",
            "/cpus/count",
            "/memory",
            "/memory/size",
            "/disks",
            "/disks/0",
            "/disks/0/path",
            "/disks/0/cache",
            "/rng",
            "/rng/id",
            "/nets",
            "/nets/0",
            "/nets/0/fds",
            "/nets/0/mtu",
            "/nets/0/rx-bps",
            "/vsock",
            "/vsock/cid",
            "/vsock/path",
            "/serial",
            "/serial/backend",
            "/control",
            "/control/0",
            "/control/0/fd",
            "/log/level",
            "/actions",
            "/paused",
        ][..],
    );
    (any_config(), prop::collection::vec((place, odd), 1..4)).prop_map(|(config, changes)| {
        let mut value = serde_json::to_value(config).unwrap();
        for (place, odd) in changes {
            if let Some(target) = value.pointer_mut(place) {
                *target = odd;
            }
        }
        value
    })
}

/// A value that may well be a configuration without faults, in forms that serde takes.
fn maybe_sound() -> impl Strategy<Value = Value> {
    let setting = prop::sample::select(vec![
        ("name", json!("web")),
        ("name", json!(null)),
        ("cpus", json!({"count": 2})),
        ("cpus", json!([2, "host"])),
        ("cpus", json!({"count": 0})),
        ("cpus", json!({"count": 2.0})),
        ("memory", json!({"size": "1G"})),
        ("memory", json!(["1G"])),
        (
            "disks",
            json!([{"path": "a"}, {"path": "b", "cache": "none"}]),
        ),
        ("disks", json!([[null, "a"]])),
        ("disks", json!([{"path": "a", "cache": {"none": null}}])),
        ("rng", json!(true)),
        ("rng", json!({"id": "r"})),
        ("rng", json!([null])),
        ("nets", json!([{"tap": "t", "queues": 2}, {"fds": [3, 4]}])),
        ("nets", json!([{"tap": "t", "mac": null}])),
        ("vsock", json!({"path": "v"})),
        ("vsock", json!({"cid": 7, "path": "v", "id": "x"})),
        ("vsock", json!({"cid": 2, "path": "v"})),
        ("vsock", json!({"cid": 7})),
        ("serial", json!({"backend": "file", "path": "s"})),
        ("serial", json!(null)),
        ("control", json!([{"fd": 3}])),
        ("control", json!([{"fd": 2}])),
        ("paused", json!(true)),
        ("log", json!([])),
        ("actions", json!({"on-panic": "pause"})),
    ]);
    prop::collection::vec(setting, 0..4).prop_map(|settings| {
        let settings = settings.into_iter();
        Value::Object(
            settings
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        )
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(config in any_config()) {
        let text = config.to_json().unwrap();
        let reading = Reading::of(text.as_bytes());
        prop_assert!(reading.readable && reading.problems.is_empty(), "{:?}", reading.problems);
        prop_assert_eq!(&reading.config, &config);
        // And the text is judged as the configuration is, if not always in the same words.
        prop_assert_eq!(parse(text.as_bytes()).ok(), check(&config).ok());
    }

    #[test]
    fn no_text_panics(text: Vec<u8>, tail in "[{}\\[\\]\":,a-z0-9\\\\ ]{0,64}") {
        let _ = parse(&text);
        let _ = parse(tail.as_bytes());
        let _ = parse(format!("{{{tail}}}").as_bytes());
    }

    /// What is taken without a look at the schema, the schema takes as the same.
    #[test]
    fn both_ways_of_reading_agree(value in prop_oneof![
        nearly_config(),
        maybe_sound(),
    ]) {
        let short = Reading::of(value.to_string().as_bytes());
        let long = Reading::by_schema(value, Problems::new());
        prop_assert_eq!(short.readable, long.readable);
        prop_assert_eq!(short.config, long.config);
        prop_assert_eq!(short.problems.into_vec(), long.problems.into_vec());
    }

    /// The walk by the schema knows as much as serde: what serde refuses it explains, and what
    /// it leaves serde takes.
    #[test]
    fn the_schema_explains_every_refusal(value in nearly_config()) {
        let reading = Reading::of(value.to_string().as_bytes());
        if serde_json::from_value::<Config>(value.clone()).is_err() {
            prop_assert!(!reading.problems.is_empty(), "{}", value);
        }
        for problem in reading.problems.kept() {
            prop_assert!(!problem.what.contains("cannot be read"), "{}: {}", value, problem);
        }
    }
}
