//! The command line as a user types it: every flag, files and flags together, and the promises
//! of help, man pages and documentation.

use std::ffi::OsStr;
use std::fs;
use std::io::empty;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use api_socket::config::{
    Cache, Checked, CheckedControl, CheckedNetBackend, CheckedRate, CheckedSerial, Discard,
    FeatureChange, LogLevel, MacAddress, MachineVersion, ReadErrorAction, WriteErrorAction, parse,
    schema,
};
use api_socket::qmp::types::{PanicAction, RebootAction, ShutdownAction};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use proptest::prelude::*;

use super::run::{ConfigErrors, Effective, effective_config};
use super::*;

fn run_args(flags: &[&str]) -> RunArgs {
    let line = ["thimble", "run"].iter().chain(flags);
    match Cli::try_parse_from(line).unwrap().command {
        Command::Run(args) => *args,
        other => panic!("{other:?}"),
    }
}

/// What the flags make of the configuration text `file`.
fn over(file: &str, flags: &[&str]) -> Result<Effective, ConfigErrors> {
    let flags: Vec<&str> = ["--config", "-"].iter().chain(flags).copied().collect();
    effective_config(&run_args(&flags), &mut file.as_bytes())
}

fn checked(flags: &[&str]) -> Checked {
    effective_config(&run_args(flags), &mut empty())
        .unwrap()
        .checked
}

fn problems(flags: &[&str]) -> Vec<String> {
    match effective_config(&run_args(flags), &mut empty()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.problems().iter().map(ToString::to_string).collect(),
    }
}

fn usage_error(line: &[&str]) -> ErrorKind {
    let error = Cli::try_parse_from([&["thimble"], line].concat()).unwrap_err();
    assert_eq!(
        error.exit_code(),
        i32::from(ExitStatus::Usage.code()),
        "{line:?}"
    );
    error.kind()
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn no_flag_is_the_built_in_guest() {
    assert_eq!(checked(&[]), parse(b"{}").unwrap());
    assert_eq!(run_args(&[]), RunArgs::default());
}

#[test]
fn flag_config_reads_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vm.json");
    fs::write(&file, r#"{"name": "web"}"#).unwrap();
    let flags = ["--config", file.to_str().unwrap()];
    assert_eq!(checked(&flags).name.as_deref(), Some("web"));
}

#[test]
fn flag_config_reads_standard_input() {
    assert_eq!(
        over(r#"{"name": "web"}"#, &[])
            .unwrap()
            .checked
            .name
            .as_deref(),
        Some("web")
    );
}

#[test]
fn flag_dump_config() {
    assert!(run_args(&["--dump-config"]).dump_config);
    assert!(!run_args(&[]).dump_config);
}

#[test]
fn flag_name() {
    assert_eq!(checked(&["--name", "web"]).name.as_deref(), Some("web"));
    assert!(problems(&["--name", ""])[0].starts_with("--name: is empty"));
}

#[test]
fn flag_uuid() {
    let text = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
    assert_eq!(checked(&["--uuid", text]).uuid.unwrap().to_string(), text);
    assert!(problems(&["--uuid", "1"])[0].starts_with("--uuid: \"1\" is not a UUID"));
}

#[test]
fn flag_machine() {
    assert_eq!(
        checked(&["--machine", "thimble-1"]).machine,
        MachineVersion::Thimble1
    );
    assert_eq!(
        problems(&["--machine", "pc"]),
        ["--machine: \"pc\" is not one of its words; write thimble-1"]
    );
}

#[test]
fn flag_cpus() {
    assert_eq!(checked(&["--cpus", "32"]).cpus.count, 32);
    assert!(problems(&["--cpus", "33"])[0].starts_with("--cpus: 33 CPUs"));
    for text in ["two", "", "-1", "4294967296", "1.5"] {
        let found = problems(&[&format!("--cpus={text}")]);
        let named = format!("--cpus: {text:?} is not a number of CPUs; write 1 to 32");
        assert_eq!(found, [named]);
    }
    assert!(problems(&["--cpus", "0"])[0].starts_with("--cpus: 0 CPUs"));
}

#[test]
fn flag_cpu() {
    let hidden = [FeatureChange::Remove("avx2".into())];
    assert_eq!(checked(&["--cpu", "host,-avx2"]).cpus.features, hidden);
    assert_eq!(checked(&["--cpu", "-avx2"]).cpus.features, hidden);
    assert!(problems(&["--cpu", "486"])[0].starts_with("--cpu: \"486\""));
}

#[test]
fn flag_memory_counts_in_mib() {
    assert_eq!(checked(&["--memory", "512"]).memory_size, 512 << 20);
    assert_eq!(checked(&["--memory", "4G"]).memory_size, 4 << 30);
    assert_eq!(checked(&["--memory", "16MiB"]).memory_size, 16 << 20);
    for (text, what) in [
        ("0", "0 bytes is too little"),
        ("15M", "15 MiB is too little"),
        ("16777215", "16777215 MiB is more than"),
        ("1048577K", "1048577 KiB is not"),
        ("16383K", "16383 KiB is too little"),
        ("1025G", "1025 GiB is more than"),
        (
            "18446744073709551616",
            "18446744073709551616 MiB is more than 64 bits",
        ),
        ("4 GiB", "\"4 GiB\" is not a size"),
        (" 1G", "\" 1G\" is not a size"),
        ("1.5G", "\"1.5G\" is not a size"),
        ("1GB", "\"1GB\" is not a size"),
        ("", "\"\" is not a size"),
    ] {
        let found = problems(&["--memory", text]);
        let named = format!("--memory: {what}");
        assert!(found[0].starts_with(&named), "{found:?} / {named}");
    }
    assert_eq!(checked(&["--memory", "4g"]).memory_size, 4 << 30);
    assert_eq!(checked(&["--memory", "1T"]).memory_size, 1 << 40);
    assert!(problems(&["--memory", "5"])[0].starts_with("--memory: 5 MiB is too little"));
    assert!(problems(&["--memory", "lots"])[0].starts_with("--memory: \"lots\" is not a size"));
}

#[test]
fn flag_kernel() {
    assert_eq!(
        checked(&["--kernel", "vmlinux"]).kernel.unwrap().path,
        Path::new("vmlinux")
    );
    assert_eq!(
        usage_error(&["run", "--kernel", ""]),
        ErrorKind::InvalidValue
    );
    let odd = OsStr::from_bytes(b"vm\xff");
    let args = Cli::try_parse_from([
        OsStr::new("thimble"),
        "run".as_ref(),
        "--kernel".as_ref(),
        odd,
    ]);
    let Command::Run(args) = args.unwrap().command else {
        panic!("not run")
    };
    let error = effective_config(&args, &mut empty()).unwrap_err();
    assert!(
        error.to_string().contains("--kernel: is not UTF-8"),
        "{error}"
    );
}

#[test]
fn flag_initrd() {
    let kernel = checked(&["--kernel", "k", "--initrd", "i"]).kernel.unwrap();
    assert_eq!(kernel.initrd.as_deref(), Some(Path::new("i")));
    assert!(problems(&["--initrd", "i"])[0].starts_with("kernel.path: is missing"));
}

#[test]
fn flag_cmdline() {
    let kernel = checked(&["--kernel", "k", "--cmdline", "-x, y=1"])
        .kernel
        .unwrap();
    assert_eq!(kernel.cmdline, "-x, y=1");
    let long = "x".repeat(2048);
    assert!(problems(&["--kernel", "k", "--cmdline", &long])[0].starts_with("--cmdline: is 2048"));
}

#[test]
fn flag_disk() {
    let text = "path=a,,b.img,id=root,readonly=on,format=raw,cache=none,serial=S=1,werror=stop,\
                rerror=ignore,discard=ignore";
    let disks = checked(&["--disk", text, "--disk", "/dev/sdb"]).disks;
    assert_eq!(disks.len(), 2);
    assert_eq!(disks[0].path, Path::new("a,b.img"));
    assert_eq!(disks[0].id, "root");
    assert!(disks[0].readonly);
    assert_eq!(disks[0].cache, Cache::None);
    assert_eq!(disks[0].serial.as_deref(), Some("S=1"));
    assert_eq!(disks[0].werror, WriteErrorAction::Stop);
    assert_eq!(disks[0].rerror, ReadErrorAction::Ignore);
    assert_eq!(disks[0].discard, Discard::Ignore);
    assert_eq!(
        (disks[1].path.as_path(), disks[1].id.as_str()),
        (Path::new("/dev/sdb"), "disk1")
    );
}

#[test]
fn flag_disk_reports_every_fault() {
    let found = problems(&[
        "--disk",
        "cache=fast,readonly=maybe",
        "--disk",
        "a,bus=ide,id=1",
    ]);
    let starts = [
        "--disk[0].path: is missing",
        "--disk[0].readonly: \"maybe\" is not a switch",
        "--disk[0].cache: \"fast\" is not one of its words; write writeback",
        "--disk[1].bus: is not a known key; the keys here are path, id, readonly",
        "--disk[1].id: \"1\" is not a device id",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (problem, start) in found.iter().zip(starts) {
        assert!(problem.starts_with(start), "{problem}");
    }
}

#[test]
fn flag_vsock() {
    let vsock = checked(&["--vsock", "cid=42,path=a,,b"]).vsock.unwrap();
    assert_eq!((vsock.cid, vsock.path.as_path()), (42, Path::new("a,b")));
    assert_eq!(vsock.id, "vsock0");
    let file = r#"{"vsock": {"path": "a", "cid": 7}}"#;
    let over_file = over(file, &["--vsock", "b,id=v"]).unwrap().checked;
    let vsock = over_file.vsock.unwrap();
    assert_eq!((vsock.cid, vsock.id.as_str()), (3, "v"));
    for (list, problem) in [
        ("cid=42", "--vsock.path: is missing"),
        ("a,cid=x", "--vsock.cid: \"x\" is not an address"),
        ("a,cid=2", "--vsock.cid: 2 cannot be a guest's address"),
        ("a,uds=b", "--vsock.uds: is not a known key"),
    ] {
        let found = problems(&["--vsock", list]);
        assert!(found[0].starts_with(problem), "{found:?}");
    }
}

#[test]
fn flag_rng() {
    assert_eq!(checked(&["--rng"]).rng.unwrap().id, "rng0");
    let file = r#"{"rng": {"id": "entropy"}}"#;
    assert_eq!(over(file, &["--rng=no"]).unwrap().checked.rng, None);
    assert_eq!(
        over(file, &["--rng"]).unwrap().checked.rng.unwrap().id,
        "entropy"
    );
}

#[test]
fn flag_net() {
    let text = "tap=tap0,id=lan,mac=02:00:00:00:00:01,mtu=9000,queues=4,rx-bps=10M,\
                rx-bps-burst=1M,rx-ops=5,rx-ops-burst=6,tx-bps=1G,tx-bps-burst=2k,tx-ops=7,\
                tx-ops-burst=8";
    let nets = checked(&["--net", text, "--net", "br-tap", "--net", "fd=5:6"]).nets;
    let [lan, named, inherited] = &nets[..] else {
        panic!("{nets:?}")
    };
    let tap = |name: &str, queues| CheckedNetBackend::Tap {
        name: name.to_owned(),
        queues,
    };
    assert_eq!((lan.id.as_str(), &lan.backend), ("lan", &tap("tap0", 4)));
    assert_eq!(
        (lan.mac, lan.mtu),
        (Some(MacAddress([2, 0, 0, 0, 0, 1])), Some(9000))
    );
    let rate = |per_second, burst| {
        let burst = Some(burst);
        Some(CheckedRate { per_second, burst })
    };
    assert_eq!(lan.rx.bytes, rate(10 << 20, 1 << 20));
    assert_eq!(lan.rx.operations, rate(5, 6));
    assert_eq!(lan.tx.bytes, rate(1 << 30, 2 << 10));
    assert_eq!(lan.tx.operations, rate(7, 8));
    assert_eq!(
        (named.id.as_str(), &named.backend),
        ("net1", &tap("br-tap", 1))
    );
    assert_eq!(inherited.backend, CheckedNetBackend::Fds(vec![5, 6]));
}

#[test]
fn flag_net_reports_every_fault() {
    let found = problems(&[
        "--net",
        "fd=3:x:-4,mtu=+1500,queues=70000,rx-bps=1000,ip=dhcp",
        "--net",
        "id=a",
    ]);
    let starts = [
        "--net[0].fd: \"x\" is not a number",
        "--net[0].fd: \"-4\" is not a number",
        "--net[0].mtu: \"+1500\" is not a number",
        "--net[0].queues: \"70000\" is not a number",
        "--net[0].ip: is not a known key; the keys here are tap, fd, id",
        "--net[0].rx-bps: \"1000\" has no unit; add M",
        "--net[1]: says neither tap nor fds",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (problem, start) in found.iter().zip(starts) {
        assert!(problem.starts_with(start), "{problem}");
    }
}

#[test]
fn flag_serial() {
    for (text, want) in [
        ("stdio", CheckedSerial::Stdio),
        ("null", CheckedSerial::Null),
        ("pty", CheckedSerial::Pty),
        ("file=a=b", CheckedSerial::File("a=b".into())),
        ("socket=s", CheckedSerial::Socket("s".into())),
    ] {
        assert_eq!(checked(&["--serial", text]).serial, want);
    }
    for text in ["", "file", "stdio=x", "tcp=1"] {
        let found = problems(&["--serial", text]);
        assert!(
            found.len() == 1 && found[0].starts_with("--serial: "),
            "{found:?}"
        );
    }
    assert!(problems(&["--serial", "file="])[0].starts_with("--serial: is empty"));
}

#[test]
fn flag_control() {
    let control = checked(&["--control", "c.sock", "--control", "fd=3"]).control;
    assert_eq!(
        control,
        [CheckedControl::Path("c.sock".into()), CheckedControl::Fd(3)]
    );
    let found = problems(&["--control", "fd=x", "--control", "fd=1", "--control", ""]);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found[0].starts_with("--control[0]: \"x\" is not a descriptor's number"),
        "{found:?}"
    );
    assert!(
        found[1].starts_with("--control[1].fd: 1 is not a descriptor that"),
        "{found:?}"
    );
    assert!(
        found[2].starts_with("--control[2].path: is empty"),
        "{found:?}"
    );
}

#[test]
fn flag_paused() {
    assert!(checked(&["--paused"]).paused);
    assert!(
        !over(r#"{"paused": true}"#, &["--paused=no"])
            .unwrap()
            .checked
            .paused
    );
    assert!(over(r#"{"paused": true}"#, &[]).unwrap().checked.paused);
}

#[test]
fn flag_pidfile() {
    assert_eq!(
        checked(&["--pidfile", "p"]).pidfile.as_deref(),
        Some(Path::new("p"))
    );
}

#[test]
fn flag_daemonize() {
    let in_background = checked(&["--daemonize"]);
    assert!(in_background.daemonize);
    assert_eq!(in_background.serial, CheckedSerial::Null);
    let found = problems(&["--daemonize", "--serial", "stdio"]);
    assert!(
        found[0].starts_with("--serial: stdio cannot be used with daemonize"),
        "{found:?}"
    );
}

#[test]
fn flag_log_level() {
    assert_eq!(
        checked(&["--log-level", "trace"]).log.level,
        LogLevel::Trace
    );
    assert_eq!(checked(&[]).log.level, LogLevel::Warn);
    assert!(
        problems(&["--log-level", "loud"])[0]
            .starts_with("--log-level: \"loud\" is not one of its words; write off, error")
    );
}

#[test]
fn flag_log_file() {
    assert_eq!(
        checked(&["--log-file", "l"]).log.file.as_deref(),
        Some(Path::new("l"))
    );
}

#[test]
fn flag_on_reboot() {
    let shutdown = checked(&["--on-reboot", "shutdown"]).actions.on_reboot;
    assert_eq!(shutdown, RebootAction::Shutdown);
}

#[test]
fn flag_on_poweroff() {
    assert_eq!(
        checked(&["--on-poweroff", "pause"]).actions.on_poweroff,
        ShutdownAction::Pause
    );
}

#[test]
fn flag_on_panic() {
    let failure = checked(&["--on-panic", "exit-failure"]).actions.on_panic;
    assert_eq!(failure, PanicAction::ExitFailure);
}

#[test]
fn flags_override_settings_and_add_to_lists() {
    let file = r#"{"name": "a", "memory": {"size": "1G"}, "disks": [{"path": "a.img"}],
                   "kernel": {"path": "k", "cmdline": "quiet"}, "control": [{"fd": 3}]}"#;
    let flags = [
        "--name",
        "b",
        "--kernel",
        "k2",
        "--disk",
        "b.img",
        "--control",
        "c.sock",
    ];
    let made = over(file, &flags).unwrap().checked;
    assert_eq!(made.name.as_deref(), Some("b"));
    assert_eq!(made.memory_size, 1 << 30);
    let disks: Vec<_> = made
        .disks
        .iter()
        .map(|disk| (disk.id.as_str(), &disk.path))
        .collect();
    assert_eq!(
        disks,
        [("disk0", &"a.img".into()), ("disk1", &"b.img".into())]
    );
    assert_eq!(
        made.control,
        [CheckedControl::Fd(3), CheckedControl::Path("c.sock".into())]
    );
    let kernel = made.kernel.unwrap();
    assert_eq!(
        (kernel.path.to_str(), kernel.cmdline.as_str()),
        (Some("k2"), "quiet")
    );
}

#[test]
fn problems_of_file_flags_and_rules_come_together_under_their_own_names() {
    let file = r#"{"colour": 1, "disks": [7, {"path": "a.img"}], "cpus": {"count": "x"}}"#;
    let flags = [
        "--disk",
        "a.img",
        "--disk",
        "id=z",
        "--disk",
        "b,serial=\u{e9}",
        "--memory",
        "1",
    ];
    let found: Vec<String> = over(file, &flags)
        .unwrap_err()
        .problems()
        .iter()
        .map(ToString::to_string)
        .collect();
    let starts = [
        "colour: is not a known key",
        "disks[0]: 7 has the wrong type",
        "cpus.count: \"x\" has the wrong type",
        "--disk[1].path: is missing",
        "--memory: 1 MiB is too little",
        "--disk[2].serial: holds",
        "--disk[0].path: names the same file as disks[1].path; give each disk its own image",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (problem, start) in found.iter().zip(starts) {
        assert!(problem.starts_with(start), "{problem} / {start}");
    }
}

#[test]
fn a_flood_of_problems_is_counted_once() {
    let keys: Vec<String> = (0..150).map(|n| format!("\"k{n}\": 1")).collect();
    let file = format!("{{{}}}", keys.join(","));
    let errors = over(&file, &["--memory", "1"]).unwrap_err();
    let last = errors.problems().last().unwrap().to_string();
    assert!(last.contains(": 51 more problems are not shown"), "{last}");
}

#[test]
fn an_unreadable_file_is_one_problem_beside_those_of_the_flags() {
    let flags = [
        "--config",
        "/no/such/file",
        "--initrd",
        "i",
        "--serial",
        "?",
    ];
    let error = effective_config(&run_args(&flags), &mut empty()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("2 problems in the configuration:\n  --config: "),
        "{text}"
    );
    assert!(text.contains("No such file"), "{text}");
    let error = over("{", &[]).unwrap_err().to_string();
    assert!(
        error.starts_with("wrong configuration: --config: standard input: the text is not"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_no_configuration_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vm.json");
    for text in ["{\"memory\": ", "[]", ""] {
        fs::write(&file, text).unwrap();
        let found = problems(&["--config", file.to_str().unwrap()]);
        assert_eq!(found.len(), 1, "{found:?}");
        let named = format!("--config: {file:?}: ");
        assert!(found[0].starts_with(&named), "{found:?}");
    }
}

#[test]
fn a_cpu_feature_that_does_not_exist_is_a_problem_among_others() {
    let found = problems(&["--cpu", "host,+warp-drive,-avx3", "--cpus", "99"]);
    let starts = [
        "--cpus: 99 CPUs",
        "--cpu: there is no CPU feature \"warp-drive\"; ",
        "--cpu: there is no CPU feature \"avx3\"; did you mean avx",
    ];
    assert_eq!(found.len(), starts.len(), "{found:?}");
    for (problem, start) in found.iter().zip(starts) {
        assert!(problem.starts_with(start), "{problem} / {start}");
    }
}

#[test]
fn cpu_features_that_contradict_each_other_are_problems() {
    assert_eq!(
        problems(&["--cpu", "+avx512bw,-avx"]),
        ["--cpu: +avx512bw cannot be with -avx; leave one of the two out"]
    );
    assert_eq!(
        problems(&["--cpu", "+sse4_1,-sse4.1"]),
        ["--cpu: names sse4.1 twice, in two spellings; keep one of the two"]
    );
}

/// One wrong word does not hide what else is wrong.
#[test]
fn wrong_words_are_problems_among_others() {
    let flags = [
        "--machine",
        "pc",
        "--memory",
        "3",
        "--on-reboot",
        "x",
        "--on-poweroff",
        "x",
        "--on-panic",
        "x",
        "--log-level",
        "x",
    ];
    let found = problems(&flags);
    for flag in [
        "--machine",
        "--memory",
        "--on-reboot",
        "--on-poweroff",
        "--on-panic",
        "--log-level",
    ] {
        let start = format!("{flag}: ");
        assert!(
            found.iter().any(|one| one.starts_with(&start)),
            "{flag}: {found:?}"
        );
    }
    assert_eq!(found.len(), 6, "{found:?}");
    let help = Cli::command()
        .find_subcommand_mut("run")
        .unwrap()
        .render_long_help();
    assert!(help.to_string().contains("exit-failure"), "{help}");
}

#[test]
fn command_qmp() {
    let line = ["thimble", "qmp", "s.sock", "block_resize", r#"{"size": 1}"#];
    let Command::Qmp(args) = Cli::try_parse_from(line).unwrap().command else {
        panic!("not qmp")
    };
    assert_eq!(args.socket, Path::new("s.sock"));
    assert_eq!(args.command.as_deref(), Some("block_resize"));
    assert_eq!(args.arguments.unwrap()["size"], 1);
    let only_socket = Cli::try_parse_from(&line[..3]).unwrap();
    assert!(matches!(
        only_socket.command,
        Command::Qmp(QmpArgs { command: None, .. })
    ));
    assert_eq!(usage_error(&["qmp"]), ErrorKind::MissingRequiredArgument);
    for json in ["[1]", "{", "{}}"] {
        assert_eq!(
            usage_error(&["qmp", "s", "c", json]),
            ErrorKind::ValueValidation,
            "{json}"
        );
    }
}

#[test]
fn command_check() {
    for (line, want) in [
        (&["thimble", "check"][..], false),
        (&["thimble", "check", "--json"], true),
    ] {
        let command = Cli::try_parse_from(line).unwrap().command;
        assert_eq!(command, Command::Check(CheckArgs { json: want }));
    }
}

#[test]
fn command_completions() {
    let line = ["thimble", "completions", "zsh"];
    let command = Cli::try_parse_from(line).unwrap().command;
    assert_eq!(
        command,
        Command::Completions(CompletionsArgs { shell: Shell::Zsh })
    );
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut text = Vec::new();
        completions(shell, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("on-poweroff") && text.contains("exit-failure"),
            "{shell}"
        );
    }
    /// A full disk.
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    assert!(completions(Shell::Bash, &mut Full).is_err());
    assert!(man(None, &mut Full).is_err());
}

#[test]
fn command_man() {
    let line = ["thimble", "man", "pages"];
    let command = Cli::try_parse_from(line).unwrap().command;
    assert_eq!(
        command,
        Command::Man(ManArgs {
            dir: Some("pages".into())
        })
    );
    let mut page = Vec::new();
    man(None, &mut page).unwrap();
    assert!(String::from_utf8(page).unwrap().contains(".TH thimble"));
    let dir = tempfile::tempdir().unwrap();
    man(Some(&dir.path().join("man1")), &mut Vec::new()).unwrap();
    let mut names: Vec<_> = fs::read_dir(dir.path().join("man1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "thimble-check.1",
            "thimble-qmp.1",
            "thimble-run.1",
            "thimble.1"
        ]
    );
    let run = fs::read_to_string(dir.path().join("man1/thimble-run.1")).unwrap();
    assert!(
        run.contains("on\\-poweroff") && run.contains("Exit status"),
        "{run}"
    );
}

#[test]
fn usage_errors_end_with_status_2() {
    assert_eq!(
        usage_error(&["no-such-command"]),
        ErrorKind::InvalidSubcommand
    );
    assert_eq!(
        usage_error(&[]),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
}

/// A reader who scrolled to the end of the help sees how it is done.
#[test]
fn every_help_ends_with_an_example() {
    let mut command = Cli::command();
    command.build();
    let commands: Vec<_> = command
        .get_subcommands()
        .cloned()
        .chain([command.clone()])
        .collect();
    assert_eq!(commands.len(), 6);
    for mut command in commands {
        for help in [command.render_help(), command.render_long_help()] {
            let help = help.to_string();
            let examples = help.rsplit("\n\n").next().unwrap();
            assert!(
                examples.starts_with("Example"),
                "{}: {examples}",
                command.get_name()
            );
            assert!(
                examples.contains("  thimble"),
                "{}: {examples}",
                command.get_name()
            );
        }
    }
}

#[test]
fn every_visible_help_documents_the_exit_status() {
    let command = Cli::command();
    for sub in command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .chain([&command])
    {
        let text = sub.get_after_help().unwrap().to_string();
        assert!(
            text.contains("Exit status:\n  0  ") && text.contains("\n  2  "),
            "{text}"
        );
    }
    assert_eq!(ExitStatus::Clean.code(), 0);
    assert_eq!(ExitStatus::Failed.code(), 1);
    assert_eq!(ExitStatus::GuestCrashed.code(), 3);
}

/// The path of every value of a schema: `kernel.path`, `disks[].id`.
fn collect_keys(root: &Value, schema: &Value, at: &str, keys: &mut Vec<String>) {
    if let Some(target) = schema["$ref"].as_str() {
        return collect_keys(root, root.pointer(&target[1..]).unwrap(), at, keys);
    }
    if let Some(branches) = schema["anyOf"].as_array() {
        branches
            .iter()
            .for_each(|branch| collect_keys(root, branch, at, keys));
    } else if let Some(properties) = schema["properties"].as_object() {
        for (key, inner) in properties {
            let at = if at.is_empty() {
                key.clone()
            } else {
                format!("{at}.{key}")
            };
            collect_keys(root, inner, &at, keys);
        }
    } else if schema.get("items").is_some() {
        collect_keys(root, &schema["items"], &format!("{at}[]"), keys);
    } else if schema["type"] != "null" {
        keys.push(at.to_owned());
    }
}

/// docs/configuration.md names every key and every flag, and its examples are accepted.
#[test]
fn the_documentation_is_complete() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = fs::read_to_string(file).unwrap();
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    for flag in run.get_arguments().filter_map(|arg| arg.get_long()) {
        assert!(
            text.contains(&format!("`--{flag}")),
            "--{flag} is not documented"
        );
    }
    let schema = schema();
    let mut keys = Vec::new();
    collect_keys(&schema, &schema, "", &mut keys);
    assert!(keys.len() > 30, "{keys:?}");
    for key in &keys {
        assert!(
            text.contains(&format!("`{key}`")),
            "{key} is not documented"
        );
    }
    // And the tables name nothing else.
    let mut named = 0;
    for cell in text.lines().filter_map(|line| line.strip_prefix("| `")) {
        let cell = cell.split(" |").next().unwrap().replace('`', "");
        for key in cell.split(", ") {
            let has = |known: &String| known == key || known.starts_with(&format!("{key}."));
            assert!(keys.iter().any(has), "{key} is no key");
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
    for word in text.split("`--").skip(1) {
        let flag = word.split([' ', '`', '=']).next().unwrap();
        let known = run.get_arguments().any(|arg| arg.get_long() == Some(flag));
        assert!(known, "--{flag} is no flag");
    }
    let examples: Vec<&str> = text
        .split("```json\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(!examples.is_empty());
    for example in examples {
        if let Err(problems) = parse(example.as_bytes()) {
            panic!("{problems:#?}");
        }
    }
}

/// Flags of a configuration without problems, in random company.
fn any_flags() -> impl Strategy<Value = Vec<String>> {
    let path = "[a-z,=/ \"\u{e9}]{0,10}";
    let disk = (path, any::<bool>(), "[a-z,]{0,5}").prop_map(|(path, readonly, serial)| {
        let (path, serial) = (path.replace(',', ",,"), serial.replace(',', ",,"));
        format!(
            "path=/{path},serial={serial},readonly={}",
            if readonly { "on" } else { "off" }
        )
    });
    let each = vec![
        prop_oneof![Just("--rng"), Just("--paused"), Just("--daemonize")]
            .prop_map(|flag| vec![flag.to_owned()])
            .boxed(),
        (16..1_000_000_u32)
            .prop_map(|mib| vec!["--memory".to_owned(), mib.to_string()])
            .boxed(),
        (1..33_u8)
            .prop_map(|cpus| vec!["--cpus".to_owned(), cpus.to_string()])
            .boxed(),
        path.prop_map(|path| vec!["--kernel".to_owned(), format!("/{path}k")])
            .boxed(),
        "[ -~]{0,20}"
            .prop_map(|text| vec![format!("--name={text}")])
            .boxed(),
        "[ -~]{0,20}"
            .prop_map(|text| vec![format!("--cmdline={text}")])
            .boxed(),
        path.prop_map(|path| vec!["--serial".to_owned(), format!("file=/{path}s")])
            .boxed(),
        path.prop_map(|path| vec!["--control".to_owned(), format!("/{path}c")])
            .boxed(),
        disk.prop_map(|disk| vec!["--disk".to_owned(), disk])
            .boxed(),
        Just(vec!["--on-panic".to_owned(), "exit-failure".to_owned()]).boxed(),
        Just(vec!["--cpu".to_owned(), "host,-avx2,+aes".to_owned()]).boxed(),
    ];
    let all: Vec<_> = each.into_iter().map(prop::option::of).collect();
    all.prop_map(|flags| flags.into_iter().flatten().flatten().collect())
}

proptest! {
    /// What `--dump-config` prints, `--config` takes back as the same.
    #[test]
    fn a_dumped_configuration_is_read_back(flags in any_flags()) {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        // Some of them break a rule, such as a command line without a kernel.
        if let Ok(effective) = effective_config(&run_args(&flags), &mut empty()) {
            let dumped = effective.config.to_json().unwrap();
            prop_assert_eq!(over(&dumped, &[]), Ok(effective));
        }
    }

    /// Texts of flags never panic.
    #[test]
    fn no_flag_text_panics(text in "[a-z=,/0-9\u{0}-\u{20}]{0,40}") {
        for flag in ["--disk", "--serial", "--control", "--cpu", "--memory", "--uuid"] {
            let value = format!("{flag}={text}");
            let _ = effective_config(&run_args(&[&value]), &mut empty());
        }
    }
}
