//! Flags over a configuration file: a flag overrides one setting or adds to one list.
//!
//! Pure. Remembers which settings came from flags, so that a problem found later is reported
//! under the name that the user typed.

use api_socket::config::{
    CID_MAX, CID_MIN, CPUS_MAX, Config, Control, Disk, KeyPath, Net, Problem, Problems, RngSetting,
    Serial, SerialBackend, Size, Vsock, Word, quoted,
};

use super::keyval::KeyVal;
use super::run::RunArgs;

/// Which settings came from flags.
#[derive(Debug, Default)]
pub(super) struct Origins(Vec<(KeyPath, KeyPath)>);

impl Origins {
    /// A problem as the user should read it: under the flag if a flag made the setting.
    pub(super) fn name(&self, problem: Problem) -> Problem {
        Problem {
            path: self.flag_of(&problem.path),
            other: problem.other.as_ref().map(|other| self.flag_of(other)),
            ..problem
        }
    }

    fn flag_of(&self, path: &KeyPath) -> KeyPath {
        let Some((setting, flag)) = self.0.iter().find(|(setting, _)| path.is_within(setting))
        else {
            return path.clone();
        };
        let mut steps = flag.steps().to_vec();
        steps.extend(path.steps().iter().skip(setting.steps().len()).cloned());
        KeyPath::from_steps(steps)
    }

    /// Notes that the setting at `path` (`a.b`) comes from `flag`.
    fn note(&mut self, path: &str, flag: &str) {
        let setting = path.split('.').fold(KeyPath::root(), |at, key| at.key(key));
        self.0.push((setting, flag.into()));
    }

    /// Notes that the element last added to a list comes from the `nth` use, from 0, of `flag`.
    fn note_last(&mut self, list: &str, length: usize, flag: &KeyPath) {
        self.0.push((
            KeyPath::from(list).index(length.saturating_sub(1)),
            flag.clone(),
        ));
    }

    /// Overrides a setting if its flag was given.
    fn set<T>(&mut self, setting: &mut T, value: Option<T>, path: &str, flag: &str) {
        if let Some(value) = value {
            *setting = value;
            self.note(path, flag);
        }
    }
}

/// Puts the flags over `base`. What is wrong with a flag's own text goes to `problems`; the
/// rules are for the check of the result.
pub(super) fn merge(base: Config, args: &RunArgs, problems: &mut Problems) -> (Config, Origins) {
    let mut config = base;
    let mut from = Origins::default();
    merge_machine(&mut config, args, &mut from, problems);
    merge_devices(&mut config, args, &mut from, problems);
    merge_process(&mut config, args, &mut from, problems);
    (config, from)
}

fn merge_machine(config: &mut Config, args: &RunArgs, from: &mut Origins, problems: &mut Problems) {
    let kernel = &mut config.kernel;
    from.set(
        &mut config.name,
        args.name.clone().map(Some),
        "name",
        "--name",
    );
    from.set(
        &mut config.uuid,
        args.uuid.clone().map(Some),
        "uuid",
        "--uuid",
    );
    let machine = word(args.machine.as_deref(), "--machine", problems);
    from.set(&mut config.machine, machine, "machine", "--machine");
    from.set(
        &mut kernel.path,
        args.kernel.clone().map(Some),
        "kernel.path",
        "--kernel",
    );
    from.set(
        &mut kernel.initrd,
        args.initrd.clone().map(Some),
        "kernel.initrd",
        "--initrd",
    );
    from.set(
        &mut kernel.cmdline,
        args.cmdline.clone().map(Some),
        "kernel.cmdline",
        "--cmdline",
    );
    let count = count(args.cpus.as_deref(), problems);
    from.set(&mut config.cpus.count, count, "cpus.count", "--cpus");
    from.set(
        &mut config.cpus.features,
        args.cpu.clone(),
        "cpus.features",
        "--cpu",
    );
    let size = args.memory.as_deref().map(Size::from_flag);
    from.set(&mut config.memory.size, size, "memory.size", "--memory");
}

fn merge_devices(config: &mut Config, args: &RunArgs, from: &mut Origins, problems: &mut Problems) {
    for (nth, text) in args.disk.iter().enumerate() {
        let at = KeyPath::from("--disk").index(args.place("--disk", nth));
        if let Some(disk) = disk(text, &at, problems) {
            config.disks.push(disk);
            from.note_last("disks", config.disks.len(), &at);
        }
    }
    match args.rng {
        // What the file says of the device stays.
        Some(true) if config.rng != RngSetting::Switch(false) => {}
        Some(present) => {
            config.rng = RngSetting::Switch(present);
            from.note("rng", "--rng");
        }
        None => {}
    }
    for (nth, text) in args.net.iter().enumerate() {
        let at = KeyPath::from("--net").index(nth);
        config.nets.push(net(text, &at, problems));
        from.note_last("nets", config.nets.len(), &at);
    }
    if let Some(text) = &args.vsock
        && let Some(vsock) = vsock(text, problems)
    {
        config.vsock = Some(vsock);
        from.note("vsock", "--vsock");
    }
    if let Some(text) = &args.serial
        && let Some(serial) = serial(text, problems)
    {
        config.serial = Some(serial);
        from.note("serial.backend", "--serial");
        from.note("serial.path", "--serial");
    }
}

fn merge_process(config: &mut Config, args: &RunArgs, from: &mut Origins, problems: &mut Problems) {
    for (nth, text) in args.control.iter().enumerate() {
        let at = KeyPath::from("--control").index(args.place("--control", nth));
        if let Some(control) = control(text, &at, problems) {
            config.control.push(control);
            let length = config.control.len();
            from.note_last("control", length, &at);
        }
    }
    let (log, actions) = (&mut config.log, &mut config.actions);
    from.set(&mut config.paused, args.paused, "paused", "--paused");
    from.set(
        &mut config.pidfile,
        args.pidfile.clone().map(Some),
        "pidfile",
        "--pidfile",
    );
    from.set(
        &mut config.daemonize,
        args.daemonize,
        "daemonize",
        "--daemonize",
    );
    let level = word(args.log_level.as_deref(), "--log-level", problems);
    from.set(&mut log.level, level, "log.level", "--log-level");
    from.set(
        &mut log.file,
        args.log_file.clone().map(Some),
        "log.file",
        "--log-file",
    );
    from.set(
        &mut actions.on_reboot,
        word(args.on_reboot.as_deref(), "--on-reboot", problems),
        "actions.on-reboot",
        "--on-reboot",
    );
    from.set(
        &mut actions.on_poweroff,
        word(args.on_poweroff.as_deref(), "--on-poweroff", problems),
        "actions.on-poweroff",
        "--on-poweroff",
    );
    from.set(
        &mut actions.on_panic,
        word(args.on_panic.as_deref(), "--on-panic", problems),
        "actions.on-panic",
        "--on-panic",
    );
}

/// The value of `--cpus`, if it was given and is a number.
fn count(text: Option<&str>, problems: &mut Problems) -> Option<u32> {
    let text = text?;
    let count = text.parse().ok();
    if count.is_none() {
        let what = format!("{} is not a number of CPUs", quoted(text));
        problems.push("--cpus".into(), what, format!("write 1 to {CPUS_MAX}"));
    }
    count
}

/// The value of a flag that takes one word out of a few, if it was given and is one of them.
fn word<T: Word>(text: Option<&str>, flag: &str, problems: &mut Problems) -> Option<T> {
    let text = text?;
    let value = T::from_word(text);
    if value.is_none() {
        let what = format!("{} is not one of its words", quoted(text));
        problems.push(flag.into(), what, format!("write {}", T::choices()));
    }
    value
}

/// `path=FILE,key=value,...` or `FILE,key=value,...`.
fn disk(text: &str, at: &KeyPath, problems: &mut Problems) -> Option<Disk> {
    let mut list = KeyVal::split(text, "path", at, problems);
    let path = list.required("path");
    let disk = Disk {
        path: path.clone().unwrap_or_default().into(),
        id: list.text("id"),
        readonly: list.switch("readonly"),
        format: list.word("format"),
        cache: list.word("cache"),
        serial: list.text("serial"),
        werror: list.word("werror"),
        rerror: list.word("rerror"),
        discard: list.word("discard"),
    };
    list.finish();
    path.map(|_| disk)
}

/// `tap=NAME,key=value,...` or `fd=N:N,key=value,...`.
fn net(text: &str, at: &KeyPath, problems: &mut Problems) -> Net {
    let mut list = KeyVal::split(text, "tap", at, problems);
    // A bare number would be MiB elsewhere, and bytes to those who know QEMU: it needs a suffix.
    let size = |text: Option<String>| text.map(Size::Text);
    let net = Net {
        tap: list.text("tap"),
        fds: list.numbers("fd"),
        id: list.text("id"),
        mac: list.text("mac"),
        mtu: list.number("mtu"),
        queues: list.number("queues"),
        rx_bps: size(list.text("rx-bps")),
        rx_bps_burst: size(list.text("rx-bps-burst")),
        rx_ops: list.number("rx-ops"),
        rx_ops_burst: list.number("rx-ops-burst"),
        tx_bps: size(list.text("tx-bps")),
        tx_bps_burst: size(list.text("tx-bps-burst")),
        tx_ops: list.number("tx-ops"),
        tx_ops_burst: list.number("tx-ops-burst"),
    };
    list.finish();
    net
}

/// `path=PATH,key=value,...` or `PATH,key=value,...`.
fn vsock(text: &str, problems: &mut Problems) -> Option<Vsock> {
    let at = KeyPath::from("--vsock");
    let mut list = KeyVal::split(text, "path", &at, problems);
    let path = list.required("path");
    let (id, cid) = (list.text("id"), list.text("cid"));
    list.finish();
    let number = cid.as_deref().map(str::parse);
    if let (Some(Err(_)), Some(cid)) = (&number, &cid) {
        let what = format!("{} is not an address", quoted(cid));
        problems.push(at.key("cid"), what, format!("write {CID_MIN} to {CID_MAX}"));
        return None;
    }
    Some(Vsock {
        id,
        cid: number.and_then(Result::ok),
        path: path?.into(),
    })
}

/// `stdio`, `null`, `pty`, `file=PATH` or `socket=PATH`.
fn serial(text: &str, problems: &mut Problems) -> Option<Serial> {
    let with_path = |backend, path: &str| Serial {
        backend,
        path: Some(path.into()),
    };
    Some(match text.split_once('=') {
        None if text == "stdio" => Serial::plain(SerialBackend::Stdio),
        None if text == "null" => Serial::plain(SerialBackend::Null),
        None if text == "pty" => Serial::plain(SerialBackend::Pty),
        Some(("file", path)) => with_path(SerialBackend::File, path),
        Some(("socket", path)) => with_path(SerialBackend::Socket, path),
        _ => {
            let what = format!("{} is not a connection", quoted(text));
            let remedy = "write stdio, null, pty, file=PATH or socket=PATH";
            problems.push("--serial".into(), what, remedy);
            return None;
        }
    })
}

/// `fd=N`, or a path.
fn control(text: &str, at: &KeyPath, problems: &mut Problems) -> Option<Control> {
    let Some(number) = text.strip_prefix("fd=") else {
        return Some(Control {
            path: Some(text.into()),
            fd: None,
        });
    };
    match number.parse() {
        Ok(fd) => Some(Control {
            path: None,
            fd: Some(fd),
        }),
        Err(_) => {
            let what = format!("{} is not a descriptor's number", quoted(number));
            let remedy = "write fd=3 or higher; a path that starts so is written ./fd=...";
            problems.push(at.clone(), what, remedy);
            None
        }
    }
}
