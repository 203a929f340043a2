//! The VMMs that run the same guest in one run: ours, and the peers that are present.
//!
//! Peers are found by environment variable (`QEMU`, `FIRECRACKER`, `CLOUD_HYPERVISOR`); QEMU also
//! on the PATH. One that is missing is skipped by name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{process, report};

/// Guest memory of every bench, in MiB; the same for all.
pub(super) const MEMORY_MIB: u64 = 128;

/// Which program a peer is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Thimble,
    Qemu,
    Firecracker,
    CloudHypervisor,
}

/// A VMM and where its binary is.
pub(super) struct Peer {
    pub(super) kind: Kind,
    binary: PathBuf,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Thimble => "thimble",
            Kind::Qemu => "qemu-microvm",
            Kind::Firecracker => "firecracker",
            Kind::CloudHypervisor => "cloud-hypervisor",
        })
    }
}

/// What a bench asks of every VMM alike: one vCPU, [`MEMORY_MIB`], serial on standard output.
pub(super) struct Launch<'a> {
    /// The guest program: an ELF file with a PVH note.
    pub(super) kernel: &'a Path,
    /// A disk.
    pub(super) disk: Option<Image<'a>>,
    /// Where the guest's sockets are reached, for those that have this.
    pub(super) vsock: Option<&'a Path>,
    /// Where the control socket is to be, for those that have one.
    pub(super) control: Option<&'a Path>,
    /// A directory for the peer's own files.
    pub(super) scratch: &'a Path,
}

/// A raw disk image, and how it is used.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    pub(super) path: &'a Path,
    /// Past the host's page cache.
    pub(super) direct: bool,
}

impl Image<'_> {
    /// The name of the cache mode, ours and QEMU's.
    fn cache(self) -> &'static str {
        if self.direct { "none" } else { "writeback" }
    }
}

/// thimble first, then every peer that is here. The names of those that are not are printed.
pub(super) fn present(thimble: &Path) -> Vec<Peer> {
    let mut peers = vec![Peer {
        kind: Kind::Thimble,
        binary: thimble.to_owned(),
    }];
    for (kind, variable, fallback) in [
        (Kind::Qemu, "QEMU", Some("qemu-system-x86_64")),
        (Kind::Firecracker, "FIRECRACKER", None),
        (Kind::CloudHypervisor, "CLOUD_HYPERVISOR", None),
    ] {
        let named = std::env::var_os(variable).map(PathBuf::from);
        match named.or_else(|| fallback.and_then(process::find)) {
            Some(binary) => peers.push(Peer { kind, binary }),
            None => report::note(&format!("skipped: {variable} names no binary")),
        }
    }
    peers
}

impl Peer {
    /// Whether it can do what is asked: Firecracker knows no direct I/O.
    pub(super) fn can(&self, launch: &Launch<'_>) -> bool {
        self.kind != Kind::Firecracker || !launch.disk.is_some_and(|disk| disk.direct)
    }

    /// The command line that starts this VMM, serial on standard output, everything else silent.
    pub(super) fn command(&self, launch: &Launch<'_>) -> std::io::Result<Command> {
        let mut command = Command::new(&self.binary);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        match self.kind {
            Kind::Thimble => thimble(&mut command, launch),
            Kind::Qemu => qemu(&mut command, launch),
            Kind::Firecracker => firecracker(&mut command, launch)?,
            Kind::CloudHypervisor => cloud_hypervisor(&mut command, launch),
        }
        Ok(command)
    }
}

fn thimble(command: &mut Command, launch: &Launch<'_>) {
    command.args(["run", "--cpus", "1", "--memory", &format!("{MEMORY_MIB}M")]);
    command
        .arg("--kernel")
        .arg(launch.kernel)
        .args(["--on-reboot", "shutdown"]);
    if let Some(disk) = launch.disk {
        command.arg("--disk").arg(format!(
            "path={},cache={}",
            disk.path.display(),
            disk.cache()
        ));
    }
    if let Some(path) = launch.vsock {
        command
            .arg("--vsock")
            .arg(format!("path={}", path.display()));
    }
    if let Some(control) = launch.control {
        command.arg("--control").arg(control);
    }
}

fn qemu(command: &mut Command, launch: &Launch<'_>) {
    command
        .args([
            "-M",
            "microvm,pit=off,pic=off,rtc=off,isa-serial=on",
            "-accel",
            "kvm",
        ])
        // QEMU's default CPU model: `host` dies on KVM without VMX or SVM.
        .args(["-smp", "1", "-m", &MEMORY_MIB.to_string()])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-serial",
            "stdio",
        ])
        .arg("-no-reboot")
        .arg("-kernel")
        .arg(launch.kernel);
    if let Some(disk) = launch.disk {
        command.arg("-drive").arg(format!(
            "file={},format=raw,if=none,id=d,cache={},aio=io_uring",
            disk.path.display(),
            disk.cache()
        ));
        command.args(["-device", "virtio-blk-device,drive=d"]);
        command.args(["-global", "virtio-mmio.force-legacy=false"]);
    }
    if let Some(control) = launch.control {
        command
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", control.display()));
    }
}

fn firecracker(command: &mut Command, launch: &Launch<'_>) -> std::io::Result<()> {
    let drives = launch.disk.map_or_else(Vec::new, |disk| {
        vec![serde_json::json!({
            "drive_id": "d", "path_on_host": disk.path, "is_root_device": false,
            "is_read_only": false, "io_engine": "Sync",
        })]
    });
    let mut config = serde_json::json!({
        "boot-source": { "kernel_image_path": launch.kernel, "boot_args": "end=i8042" },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY_MIB },
        "drives": drives,
    });
    if let Some(path) = launch.vsock {
        config["vsock"] = serde_json::json!({ "guest_cid": 3, "uds_path": path });
    }
    let file = launch.scratch.join("firecracker.json");
    std::fs::write(&file, config.to_string())?;
    // Its own messages would otherwise come before the guest's first byte.
    let log = launch.scratch.join("firecracker.log");
    std::fs::write(&log, "")?;
    command.args(["--level", "Error", "--log-path"]).arg(log);
    command.arg("--no-api").arg("--config-file").arg(file);
    Ok(())
}

fn cloud_hypervisor(command: &mut Command, launch: &Launch<'_>) {
    command
        .args([
            "--cpus",
            "boot=1",
            "--memory",
            &format!("size={MEMORY_MIB}M"),
        ])
        .args(["--serial", "tty", "--console", "off"])
        .arg("--kernel")
        .arg(launch.kernel);
    if let Some(disk) = launch.disk {
        command.arg("--disk").arg(format!(
            "path={},direct={}",
            disk.path.display(),
            if disk.direct { "on" } else { "off" }
        ));
    }
}
