//! The rules of a configuration. Pure: no file is opened, no clock read, and every problem is
//! reported, not the first. Called on the main thread before anything is built.
//!
//! The rules of one setting are in that setting's module; here are those between settings.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use super::control::CONTROL_LIMIT;
use super::names::{check_name, check_path};
use super::problem::{KeyPath, Problem, Problems, quoted};
use super::{
    Actions, CheckedControl, CheckedCpus, CheckedDisk, CheckedKernel, CheckedNet, CheckedRng,
    CheckedSerial, CheckedVsock, Config, Control, Disk, Log, MacAddress, MachineVersion, Net,
    RngSetting, SerialBackend, Uuid,
};

/// The file into which any number of writers may write.
const DEV_NULL: &str = "/dev/null";

/// A configuration that met every rule, with defaults settled and texts decoded. Only [`check`]
/// makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// The machine's name.
    pub name: Option<String>,
    /// The machine's UUID.
    pub uuid: Option<Uuid>,
    /// The hardware the guest sees.
    pub machine: MachineVersion,
    /// What to boot; `None` is the built-in guest.
    pub kernel: Option<CheckedKernel>,
    /// Virtual CPUs.
    pub cpus: CheckedCpus,
    /// Guest memory, in bytes: [`super::MEMORY_MIN`] to [`super::MEMORY_MAX`], whole pages.
    pub memory_size: u64,
    /// Disks, in the order of their slots.
    pub disks: Vec<CheckedDisk>,
    /// The random number generator.
    pub rng: Option<CheckedRng>,
    /// Network cards, in the order of their slots.
    pub nets: Vec<CheckedNet>,
    /// Sockets between guest and host.
    pub vsock: Option<CheckedVsock>,
    /// What the first serial port is connected to.
    pub serial: CheckedSerial,
    /// Control sockets.
    pub control: Vec<CheckedControl>,
    /// Whether the guest waits for `cont` before its first instruction.
    pub paused: bool,
    /// Where the process id is written.
    pub pidfile: Option<PathBuf>,
    /// Whether thimble goes to the background.
    pub daemonize: bool,
    /// What is logged.
    pub log: Log,
    /// What the guest's end leads to.
    pub actions: Actions,
}

/// Checks a configuration.
///
/// # Errors
/// Every rule that it breaks, in the order of the keys, each with the key's path.
pub fn check(config: &Config) -> Result<Checked, Vec<Problem>> {
    let mut problems = Problems::new();
    let checked = check_into(config, &mut problems);
    if problems.is_empty() {
        Ok(checked)
    } else {
        Err(problems.into_vec())
    }
}

/// Checks a configuration, adding to the problems found before. The result holds only if none
/// was added.
pub(super) fn check_into(config: &Config, problems: &mut Problems) -> Checked {
    // Destructured, so that a new setting cannot be left unchecked.
    let Config {
        name,
        uuid,
        machine,
        kernel,
        cpus,
        memory,
        disks,
        rng,
        nets,
        vsock,
        serial,
        control,
        paused,
        pidfile,
        daemonize,
        log,
        actions,
    } = config;
    if let Some(name) = name {
        check_name(name, &"name".into(), problems);
    }
    let uuid = uuid.as_deref().and_then(|text| check_uuid(text, problems));
    let kernel = kernel.check(&"kernel".into(), problems);
    let cpus = cpus.check(&"cpus".into(), problems);
    let memory_size = memory.check(&"memory".into(), problems);
    let disks = check_disks(disks, problems);
    let rng = rng.check(&"rng".into(), problems);
    let nets = check_nets(nets, problems);
    let vsock = vsock
        .as_ref()
        .map(|vsock| vsock.check(&"vsock".into(), problems));
    let serial = match serial {
        Some(serial) => serial.check(&"serial".into(), problems),
        None if *daemonize => CheckedSerial::Null,
        None => CheckedSerial::Stdio,
    };
    let control = check_control(control, problems);
    if let Some(pidfile) = pidfile {
        check_path(pidfile, &"pidfile".into(), problems);
    }
    log.check(&"log".into(), problems);
    check_daemonize(config, problems);
    check_slots(config, problems);
    check_ids(config, problems);
    check_fds(config, problems);
    check_shared_paths(config, problems);
    Checked {
        name: name.clone(),
        uuid,
        machine: *machine,
        kernel,
        cpus,
        memory_size,
        disks,
        rng,
        nets,
        vsock,
        serial,
        control,
        paused: *paused,
        pidfile: pidfile.clone(),
        daemonize: *daemonize,
        log: log.clone(),
        actions: *actions,
    }
}

fn check_uuid(text: &str, problems: &mut Problems) -> Option<Uuid> {
    let uuid = Uuid::parse(text);
    if uuid.is_none() {
        problems.push(
            "uuid".into(),
            format!("{} is not a UUID", quoted(text)),
            "write it as xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx in hexadecimal digits",
        );
    }
    uuid
}

fn check_disks(disks: &[Disk], problems: &mut Problems) -> Vec<CheckedDisk> {
    let at = KeyPath::from("disks");
    let each = disks.iter().enumerate();
    each.map(|(index, disk)| disk.check(index, &at.index(index), problems))
        .collect()
}

fn check_control(sockets: &[Control], problems: &mut Problems) -> Vec<CheckedControl> {
    let at = KeyPath::from("control");
    if sockets.len() > CONTROL_LIMIT {
        let what = format!("{} control sockets are too many", sockets.len());
        problems.push(at.clone(), what, format!("use at most {CONTROL_LIMIT}"));
    }
    let each = sockets.iter().enumerate();
    each.filter_map(|(index, socket)| socket.check(&at.index(index), problems))
        .collect()
}

fn check_nets(nets: &[Net], problems: &mut Problems) -> Vec<CheckedNet> {
    let at = KeyPath::from("nets");
    let each = nets.iter().enumerate();
    let checked: Vec<CheckedNet> = each
        .map(|(index, net)| net.check(index, &at.index(index), problems))
        .collect();
    let mut macs: BTreeMap<MacAddress, KeyPath> = BTreeMap::new();
    let mut taps: BTreeMap<&str, KeyPath> = BTreeMap::new();
    for (index, (net, written)) in checked.iter().zip(nets).enumerate() {
        let at = at.index(index);
        if let Some(mac) = net.mac
            && let Some(first) = first_of(&mut macs, mac, &at.key("mac"))
        {
            let is = "is the same address".to_owned();
            problems.push_same(at.key("mac"), is, &first, "give each card its own");
        }
        if let Some(tap) = &written.tap
            && let Some(first) = first_of(&mut taps, tap, &at.key("tap"))
        {
            let is = "names the same interface".to_owned();
            problems.push_same(at.key("tap"), is, &first, "give each card its own");
        }
    }
    checked
}

/// Where `key` was first used, if not here.
fn first_of<K: Ord>(uses: &mut BTreeMap<K, KeyPath>, key: K, at: &KeyPath) -> Option<KeyPath> {
    match uses.entry(key) {
        Entry::Occupied(first) => Some(first.get().clone()),
        Entry::Vacant(place) => {
            place.insert(at.clone());
            None
        }
    }
}

/// Every inherited descriptor has one use.
fn check_fds(config: &Config, problems: &mut Problems) {
    let mut named: Vec<(KeyPath, RawFd)> = Vec::new();
    for (index, net) in config.nets.iter().enumerate() {
        let at = KeyPath::from("nets").index(index).key("fds");
        let each = net.fds.iter().enumerate();
        named.extend(each.map(|(place, fd)| (at.index(place), *fd)));
    }
    for (index, socket) in config.control.iter().enumerate() {
        if let (Some(fd), None) = (socket.fd, &socket.path) {
            let at = KeyPath::from("control").index(index).key("fd");
            named.push((at, fd));
        }
    }
    let mut uses = BTreeMap::new();
    for (at, fd) in named {
        if let Some(first) = first_of(&mut uses, fd, &at) {
            let is = "names the same descriptor".to_owned();
            problems.push_same(at, is, &first, "give each its own, or keep one");
        }
    }
}

/// The terminal stays with the shell once thimble is in the background.
fn check_daemonize(config: &Config, problems: &mut Problems) {
    let on_stdio = config
        .serial
        .as_ref()
        .is_some_and(|s| s.backend == SerialBackend::Stdio);
    if config.daemonize && on_stdio {
        problems.push(
            KeyPath::from("serial").key("backend"),
            "stdio cannot be used with daemonize",
            "choose null, file, pty or socket, or stay in the foreground",
        );
    }
}

/// Every virtio device takes one slot of the machine.
fn check_slots(config: &Config, problems: &mut Problems) {
    let slots = config.machine.device_slots();
    let others =
        usize::from(config.rng != RngSetting::Switch(false)) + usize::from(config.vsock.is_some());
    let wanted = config.disks.len().saturating_add(others);
    let wanted = wanted.saturating_add(config.nets.len());
    if wanted > slots {
        problems.push(
            "disks".into(),
            format!("{wanted} virtio devices do not fit the machine's {slots} slots"),
            format!("remove {}", wanted.saturating_sub(slots)),
        );
    }
}

/// Ids are one name space over all devices.
fn check_ids(config: &Config, problems: &mut Problems) {
    let mut ids: Vec<(KeyPath, String)> = Vec::new();
    for (index, disk) in config.disks.iter().enumerate() {
        ids.push((
            KeyPath::from("disks").index(index).key("id"),
            disk.id_at(index),
        ));
    }
    // The rule for its text was applied before; here only the id itself is wanted.
    if let Some(rng) = config.rng.check(&KeyPath::root(), &mut Problems::new()) {
        ids.push((KeyPath::from("rng").key("id"), rng.id));
    }
    for (index, net) in config.nets.iter().enumerate() {
        let at = KeyPath::from("nets").index(index).key("id");
        ids.push((at, net.id_at(index)));
    }
    if let Some(vsock) = &config.vsock {
        let vsock = vsock.check(&KeyPath::root(), &mut Problems::new());
        ids.push((KeyPath::from("vsock").key("id"), vsock.id));
    }
    let mut first_use: BTreeMap<String, KeyPath> = BTreeMap::new();
    for (at, id) in ids {
        match first_use.get(&id) {
            Some(first) => {
                let is = format!("{} is the same id", quoted(&id));
                problems.push_same(at, is, first, "give each device its own id");
            }
            None => {
                first_use.insert(id, at);
            }
        }
    }
}

/// No file is written by two, or written by one and read by another. Paths are compared by
/// their components, no file is looked at; two names of one image meet at its lock.
fn check_shared_paths(config: &Config, problems: &mut Problems) {
    let mut first_use: BTreeMap<&Path, (KeyPath, bool)> = BTreeMap::new();
    for (at, path, writes) in used_paths(config) {
        let path = path.strip_prefix(".").unwrap_or(path);
        if path == Path::new(DEV_NULL) || path.as_os_str().is_empty() {
            continue;
        }
        match first_use.get(path) {
            Some((first, first_writes)) if writes || *first_writes => {
                let remedy = if at.is_within(&"disks".into()) && first.is_within(&"disks".into()) {
                    "give each disk its own image, or make them all read-only"
                } else {
                    "give each its own path"
                };
                problems.push_same(at, "names the same file".to_owned(), first, remedy);
            }
            Some(_) => {}
            None => {
                first_use.insert(path, (at, writes));
            }
        }
    }
}

/// Every path of a configuration, and whether what it names is written or created.
fn used_paths(config: &Config) -> Vec<(KeyPath, &Path, bool)> {
    let mut paths: Vec<(KeyPath, Option<&PathBuf>, bool)> = vec![
        (
            KeyPath::from("kernel").key("path"),
            config.kernel.path.as_ref(),
            false,
        ),
        (
            KeyPath::from("kernel").key("initrd"),
            config.kernel.initrd.as_ref(),
            false,
        ),
    ];
    for (index, disk) in config.disks.iter().enumerate() {
        let at = KeyPath::from("disks").index(index).key("path");
        paths.push((at, Some(&disk.path), !disk.readonly));
    }
    let vsock = config.vsock.as_ref().map(|vsock| &vsock.path);
    paths.push((KeyPath::from("vsock").key("path"), vsock, true));
    let serial = config
        .serial
        .as_ref()
        .and_then(|serial| serial.path.as_ref());
    paths.push((KeyPath::from("serial").key("path"), serial, true));
    for (index, control) in config.control.iter().enumerate() {
        let at = KeyPath::from("control").index(index).key("path");
        paths.push((at, control.path.as_ref(), true));
    }
    paths.push(("pidfile".into(), config.pidfile.as_ref(), true));
    paths.push((
        KeyPath::from("log").key("file"),
        config.log.file.as_ref(),
        true,
    ));
    paths
        .into_iter()
        .filter_map(|(at, path, writes)| Some((at, path?.as_path(), writes)))
        .collect()
}
