//! Files and a host that are not what they should be: each gives an error that names the thing and
//! what to do, exit status 1, and no hang.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::guest::{Launch, status};
use harness::{guests, skip};

use crate::hostile::refused;

/// Makes a FIFO that nobody writes to.
#[track_caller]
pub(crate) fn fifo(path: &Path) {
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

/// Makes a file of `size` bytes that takes up no space.
#[track_caller]
fn sparse(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
}

/// Files that are no kernel, no initial RAM disk and no disk: what each is, by name.
#[track_caller]
fn not_files(flag: &str, more: &[&str], regular: &str) {
    for (name, why) in [
        ("absent", "o such file"),
        (".", "directory"),
        ("fifo", regular),
        ("/dev/zero", regular),
    ] {
        let launch = Launch::new().args(more);
        fifo(&launch.path("fifo"));
        refused(launch.args([flag, name]), status::FAILED, &[name, why]);
    }
}

#[test]
fn kernels_that_are_no_files() {
    not_files("--kernel", &[], "regular file");
}

#[test]
fn initial_ram_disks_that_are_no_files() {
    not_files("--initrd", &["--kernel", guests::HELLO], "regular file");
}

#[test]
fn disks_that_are_no_files() {
    not_files("--disk", &[], "");
}

/// A kernel of `content`.
#[track_caller]
fn kernel(content: &[u8]) {
    let launch = Launch::new();
    let path = launch.path("kernel");
    fs::write(&path, content).unwrap();
    refused(
        launch.arg("--kernel").arg(path),
        status::FAILED,
        &["kernel"],
    );
}

#[test]
fn kernels_that_are_empty_or_rubbish() {
    if skip::without_kvm() {
        return;
    }
    for content in [&b""[..], b"rubbish", &[0xFF; 4096], b"\x7fELF", b"MZ"] {
        kernel(content);
    }
}

#[test]
fn kernels_cut_short_anywhere() {
    if skip::without_kvm() {
        return;
    }
    let whole = fs::read(guests::HELLO).unwrap();
    for part in [10, 63, 64, 100, 500, 4096, whole.len() / 2] {
        kernel(&whole[..part]);
    }
}

#[test]
fn a_kernel_and_an_initial_ram_disk_of_a_tebibyte() {
    if skip::without_kvm() {
        return;
    }
    let launch = Launch::new();
    let huge = launch.path("huge");
    sparse(&huge, 1 << 40);
    refused(
        launch.arg("--kernel").arg(&huge),
        status::FAILED,
        &["kernel"],
    );
    let launch = Launch::new().kernel(guests::HELLO, "");
    let huge = launch.path("huge");
    sparse(&huge, 1 << 40);
    refused(
        launch.arg("--initrd").arg(&huge),
        status::FAILED,
        &["initrd"],
    );
}

#[test]
fn an_initial_ram_disk_that_does_not_fit_or_is_empty() {
    if skip::without_kvm() {
        return;
    }
    for (size, mention) in [(17 << 20, "memory"), (0, "empty")] {
        let launch = Launch::new()
            .kernel(guests::HELLO, "")
            .args(["--memory", "16"]);
        let initrd = launch.path("initrd");
        sparse(&initrd, size);
        refused(
            launch.arg("--initrd").arg(&initrd),
            status::FAILED,
            &["initrd", mention],
        );
    }
}

#[test]
fn disks_of_odd_sizes() {
    if skip::without_kvm() {
        return;
    }
    // An empty one has no sectors until it is given some; of others whole sectors are used.
    for (size, shown) in [(0, "0 bytes"), (511, "0 bytes"), (1025, "1 KiB")] {
        let mut guest = Launch::new().empty_disk("odd.img", size, "").start();
        let seen = guest.expect(crate::boot::PROMPT);
        assert!(seen.contains(&format!("block device, {shown}")), "{seen}");
        let warned = guest.stderr().contains("multiple of 512");
        assert_eq!(warned, size % 512 != 0, "{}", guest.stderr());
    }
}

/// The launcher as a user who may do nothing, in a directory anybody may enter; `None`, noted,
/// where that cannot be had.
#[track_caller]
fn as_nobody() -> Option<Launch> {
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    if skip::without_program("setpriv") {
        return None;
    }
    let works = Command::new(nobody[0])
        .args(&nobody[1..])
        .arg(harness::built::thimble())
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    if !works.is_ok_and(|output| output.status.success()) {
        skip::note("the launcher cannot be run as another user; it takes root");
        return None;
    }
    let launch = Launch::under(&nobody);
    fs::set_permissions(launch.path(""), Permissions::from_mode(0o755)).unwrap();
    Some(launch)
}

/// A file that is its owner's alone.
#[track_caller]
fn secret(launch: &Launch, name: &str) -> PathBuf {
    let path = launch.path(name);
    fs::copy(guests::HELLO, &path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn files_that_may_not_be_read() {
    for flag in ["--kernel", "--initrd", "--disk", "--config"] {
        let Some(launch) = as_nobody() else { return };
        let path = secret(&launch, "secret");
        let launch = if flag == "--initrd" {
            launch.args(["--kernel", "/dev/../etc/passwd"])
        } else {
            launch
        };
        let code = if flag == "--config" {
            status::USAGE
        } else {
            status::FAILED
        };
        refused(launch.arg(flag).arg(path), code, &["secret", "ermission"]);
    }
}

#[test]
fn a_directory_that_may_not_be_written_to() {
    for (flag, value) in [
        ("--control", "no.sock"),
        ("--pidfile", "no.pid"),
        ("--serial", "file=no.txt"),
        ("--log-file", "no.log"),
    ] {
        let Some(launch) = as_nobody() else { return };
        let name = value.rsplit('=').next().unwrap_or(value);
        refused(
            launch.args([flag, value]),
            status::FAILED,
            &[name, "Permission denied"],
        );
    }
}

#[test]
fn a_kvm_that_may_not_be_used() {
    let Some(launch) = as_nobody() else { return };
    let device = fs::metadata("/dev/kvm").map(|status| status.permissions().mode());
    if !device.is_ok_and(|mode| mode & 0o006 == 0) {
        skip::note("/dev/kvm is everybody's, or is not there");
        return;
    }
    refused(
        launch,
        status::FAILED,
        &["no permission", "/dev/kvm", "group"],
    );
}

/// The launcher in a mount namespace in which `script` has been run; `None` where that cannot be.
#[track_caller]
fn in_namespace(script: &str) -> Option<Launch> {
    let line = format!("{script} || exit 77; exec \"$0\" \"$@\"");
    let namespace = ["unshare", "--mount", "sh", "-c", line.as_str()];
    if skip::without_program("unshare") {
        return None;
    }
    let works = Command::new(namespace[0])
        .args(&namespace[1..])
        .arg("true")
        .stdin(Stdio::null())
        .output();
    if !works.is_ok_and(|output| output.status.success()) {
        skip::note("no mount namespace can be made; it takes root");
        return None;
    }
    Some(Launch::under(&namespace))
}

#[test]
fn no_kvm_at_all() {
    let Some(launch) = in_namespace("mount -t tmpfs none /dev") else {
        return;
    };
    let mentions = ["/dev/kvm does not exist", "kvm_intel", "thimble check"];
    refused(launch, status::FAILED, &mentions);
}

#[test]
fn a_background_without_dev_null() {
    if skip::without_kvm() {
        return;
    }
    let script = "mount -t tmpfs none /dev && mknod /dev/kvm c 10 232";
    let Some(launch) = in_namespace(script) else {
        return;
    };
    let mentions = ["background", "/dev/null: No such file"];
    refused(launch.arg("--daemonize"), status::FAILED, &mentions);
}

#[test]
fn something_else_where_kvm_should_be() {
    if !Path::new("/dev/kvm").exists() {
        skip::note("no /dev/kvm to put something else over");
        return;
    }
    for other in ["/dev/null", "/etc/hostname"] {
        let Some(launch) = in_namespace(&format!("mount --bind {other} /dev/kvm")) else {
            return;
        };
        let mentions = ["/dev/kvm is not the kernel's KVM device", "kvm_intel"];
        refused(launch, status::FAILED, &mentions);
    }
}

#[test]
fn too_little_memory_for_the_guest() {
    if skip::without_kvm() {
        return;
    }
    // In KiB: room for the launcher, not for the guest's GiB.
    let limit = "ulimit -v 262144 && exec \"$0\" \"$@\"";
    let launch = Launch::under(&["sh", "-c", limit]).args(["--memory", "1G"]);
    refused(launch, status::FAILED, &["memory"]);
}

#[test]
fn too_few_descriptors() {
    if skip::without_kvm() {
        return;
    }
    for limit in [10, 20, 30] {
        let line = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        let launch = Launch::under(&["sh", "-c", &line]).args(["--cpus", "32", "--rng"]);
        refused(launch, status::FAILED, &["open files", "ulimit -n"]);
    }
}
