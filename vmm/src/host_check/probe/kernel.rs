//! What the kernel around KVM has: files under /proc and /sys, and system calls tried.
//!
//! A file that cannot be read is an absent fact. Sources: the kernel's
//! `Documentation/admin-guide/{sysctl,cgroup-v2,mm}`, and the manual pages of the calls.

#![expect(
    unsafe_code,
    reason = "system calls that have no wrapper, tried with harmless arguments"
)]

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use super::super::facts::{EngineFacts, MemoryFacts, SandboxFacts, Tried};
use super::open;

/// `UFFD_USER_MODE_ONLY`, linux/userfaultfd.h.
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
/// `LANDLOCK_CREATE_RULESET_VERSION`, linux/landlock.h.
const LANDLOCK_VERSION: libc::c_uint = 1;
/// `SECCOMP_GET_ACTION_AVAIL`, linux/seccomp.h.
const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;
/// Bytes of `struct io_uring_params`, linux/io_uring.h.
const IO_URING_PARAMS: usize = 120;

/// Modules and processor flags.
pub(super) fn engine() -> EngineFacts {
    let module = |name: &str| Path::new("/sys/module").join(name).exists();
    let parameter = |path: &str| match text(path).as_deref() {
        Some("Y" | "1") => Some(true),
        Some("N" | "0") => Some(false),
        _ => None,
    };
    EngineFacts {
        vmx: module("kvm_intel"),
        svm: module("kvm_amd"),
        pvm: module("kvm_pvm"),
        two_level_paging: parameter("/sys/module/kvm_intel/parameters/ept")
            .or_else(|| parameter("/sys/module/kvm_amd/parameters/npt")),
        nested: parameter("/sys/module/kvm_intel/parameters/nested")
            .or_else(|| parameter("/sys/module/kvm_amd/parameters/nested")),
        is_guest: is_guest(),
        smt: number("/sys/devices/system/cpu/smt/active").map(|active| active == 1),
    }
}

/// The `hypervisor` flag of the first processor.
fn is_guest() -> bool {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

/// userfaultfd, huge pages, KSM.
pub(super) fn memory() -> MemoryFacts {
    MemoryFacts {
        userfaultfd_user: userfaultfd(UFFD_USER_MODE_ONLY),
        userfaultfd_full: userfaultfd(0),
        userfaultfd_device: open("/dev/userfaultfd"),
        hugepages: hugepages(),
        ksm_run: number("/sys/kernel/mm/ksm/run"),
    }
}

fn userfaultfd(flags: libc::c_int) -> Tried {
    // SAFETY: the call takes one flags word and gives a descriptor or an errno.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags | libc::O_CLOEXEC) };
    close_new(fd)
}

/// An empty ring of one entry.
pub(super) fn io_uring() -> Tried {
    let mut params = [0u64; IO_URING_PARAMS / 8];
    // SAFETY: the kernel reads and writes `struct io_uring_params`, 120 bytes, which `params` is;
    // all zero asks for no option.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    close_new(fd)
}

/// Takes a descriptor just made, or the errno of its not being made, and closes it.
fn close_new(fd: libc::c_long) -> Tried {
    match i32::try_from(fd) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: the kernel has just made this descriptor, and nobody else has it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            Ok(())
        }
        _ => Err(last_errno()),
    }
}

/// Page size in KiB, pages, free pages, by size.
fn hugepages() -> Vec<(u64, u64, u64)> {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    let mut found: Vec<(u64, u64, u64)> = sizes
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let count = |file: &str| number(entry.path().join(file)).unwrap_or(0);
            Some((kib, count("nr_hugepages"), count("free_hugepages")))
        })
        .collect();
    found.sort_unstable();
    found
}

/// cgroup v2, Landlock, seccomp, user namespaces.
pub(super) fn sandbox() -> SandboxFacts {
    let cgroup2 = cgroup2_mount();
    let controllers = cgroup2
        .as_deref()
        .and_then(|mount| text(format!("{mount}/cgroup.controllers")))
        .unwrap_or_default();
    SandboxFacts {
        cgroup2_delegated: cgroup2.as_deref().is_some_and(delegated),
        cgroup2,
        cgroup2_controllers: controllers.split_whitespace().map(str::to_owned).collect(),
        landlock: landlock(),
        seccomp: seccomp(),
        user_namespace: user_namespace(),
    }
}

/// The first mount of type cgroup2.
fn cgroup2_mount() -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| target.to_owned())
    })
}

/// Whether this process may write to its own group, below which groups are made.
fn delegated(mount: &str) -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    own.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .and_then(|path| {
            let folder = format!("{mount}{path}");
            rustix::fs::access(folder.as_str(), rustix::fs::Access::WRITE_OK).ok()
        })
        .is_some()
}

fn landlock() -> Result<u32, i32> {
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call takes no attribute and answers with its version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            nothing,
            0usize,
            LANDLOCK_VERSION,
        )
    };
    u32::try_from(version).map_err(|_| last_errno())
}

fn seccomp() -> Tried {
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    let pointer = std::ptr::from_ref(&action);
    // SAFETY: the kernel reads one 32-bit word, which `action` is; nothing is installed.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, pointer) };
    if answer == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// Makes a user namespace in a child, which then ends: this process stays where it is.
fn user_namespace() -> Tried {
    // SAFETY: the child calls nothing but unshare and _exit, both async-signal-safe.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(last_errno());
    }
    if child == 0 {
        // SAFETY: unshare changes this child alone; the status carries the errno, which is below
        // 256; _exit runs nothing of the parent's.
        unsafe {
            let answer = libc::unshare(libc::CLONE_NEWUSER);
            libc::_exit(if answer == 0 {
                0
            } else {
                *libc::__errno_location()
            });
        }
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` is a place for the status of the child made above.
        let reaped = unsafe { libc::waitpid(child, &raw mut status, 0) };
        if reaped == child {
            break;
        }
        if last_errno() != libc::EINTR {
            return Err(last_errno());
        }
    }
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(()),
        (true, errno) => Err(errno),
        (false, _) => Err(libc::EPERM),
    }
}

fn last_errno() -> i32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

/// A small file as text, trimmed.
fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// A small file as a number.
pub(super) fn number(path: impl AsRef<Path>) -> Option<u64> {
    text(path)?.parse().ok()
}
