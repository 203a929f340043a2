//! Facts to verdicts.
//!
//! Pure: every rule is a function of [`HostFacts`], so each is tested without the host that would
//! show it. Order of the report: what guests need first.

use super::capabilities::CAPABILITIES;
use super::facts::{Access, EngineFacts, HostFacts, KvmFacts, MemoryFacts, Proof, SandboxFacts};
use super::{Check, Group, Verdict};

/// The only API version there has been since Linux 2.6.22.
const API_VERSION: i32 = 12;
/// vCPUs a machine may be configured with.
const VCPUS_WANTED: usize = 32;
/// The Landlock version that restricts truncation and so covers all of thimble's file rules.
const LANDLOCK_WANTED: u32 = 3;
/// Controllers the jailer sets limits with.
const CONTROLLERS_WANTED: &[&str] = &["cpu", "cpuset", "io", "memory", "pids"];

/// Judges the host.
#[must_use]
pub fn evaluate(facts: &HostFacts) -> Vec<Check> {
    let mut checks = vec![kvm_device(facts.kvm_device)];
    if let Some(kvm) = &facts.kvm {
        kvm_itself(kvm, &mut checks);
    }
    engine(facts.engine, &mut checks);
    memory(&facts.memory, &mut checks);
    checks.push(device(
        ("tun", Group::Net, "/dev/net/tun"),
        facts.tun,
        "networks: load module tun, or run as a user who may open it",
    ));
    checks.push(device(
        ("vhost-net", Group::Net, "/dev/vhost-net"),
        facts.vhost_net,
        "in-kernel network back end: load module vhost_net",
    ));
    checks.push(device(
        ("vhost-vsock", Group::Net, "/dev/vhost-vsock"),
        facts.vhost_vsock,
        "in-kernel vsock back end: load module vhost_vsock",
    ));
    checks.push(io_uring(facts));
    sandbox(&facts.sandbox, &mut checks);
    checks.sort_by_key(|check| check.group);
    checks
}

fn check(
    id: impl Into<String>,
    group: Group,
    what: impl Into<String>,
    verdict: Verdict,
    note: impl Into<String>,
) -> Check {
    Check {
        id: id.into(),
        group,
        what: what.into(),
        verdict,
        note: note.into(),
    }
}

/// Warns instead of passing when `good` is false; the note is for the latter.
fn wanted(id: &str, group: Group, what: &str, good: bool, otherwise: &str) -> Check {
    let (verdict, note) = if good {
        (Verdict::Pass, "")
    } else {
        (Verdict::Warn, otherwise)
    };
    check(id, group, what, verdict, note)
}

fn kvm_device(access: Access) -> Check {
    let note = match access {
        Access::Opened => String::new(),
        Access::Refused(libc::ENOENT) => {
            "there is no such device: load kvm_intel or kvm_amd, and enable virtualization in the \
             firmware settings"
                .into()
        }
        Access::Refused(libc::EACCES | libc::EPERM) => {
            "no permission: add yourself to group kvm (usermod -aG kvm $USER) and log in again"
                .into()
        }
        Access::Refused(libc::EBUSY) => {
            "another hypervisor holds the processor's virtualization: stop it".into()
        }
        Access::Refused(libc::ENODEV | libc::ENXIO) => {
            "the device has no driver: load kvm_intel or kvm_amd".into()
        }
        Access::Refused(libc::ENOTTY) => {
            "it is not KVM's device: remove what is there, and load kvm_intel or kvm_amd, which \
             makes it anew"
                .into()
        }
        Access::Refused(errno) => error_text(errno),
    };
    let verdict = if access == Access::Opened {
        Verdict::Pass
    } else {
        Verdict::Fail
    };
    check(
        "kvm-device",
        Group::Kvm,
        "if device '/dev/kvm' can be opened",
        verdict,
        note,
    )
}

fn kvm_itself(kvm: &KvmFacts, checks: &mut Vec<Check>) {
    let good = kvm.api_version == API_VERSION;
    checks.push(check(
        "kvm-api",
        Group::Kvm,
        format!("for KVM API version {API_VERSION}"),
        if good { Verdict::Pass } else { Verdict::Fail },
        if good {
            String::new()
        } else if kvm.api_version < 0 {
            "what is at /dev/kvm is not KVM: remove it and load kvm_intel or kvm_amd".into()
        } else {
            format!("the kernel says {}: use another one", kvm.api_version)
        },
    ));
    if !good {
        // No other answer would mean anything.
        return;
    }
    for capability in CAPABILITIES {
        let there = kvm
            .capabilities
            .iter()
            .any(|(number, answer)| *number == capability.number && *answer > 0);
        let (verdict, note) = match (there, capability.required) {
            (true, _) => (Verdict::Pass, String::new()),
            (false, true) => (
                Verdict::Fail,
                format!("needed for {}: use a newer kernel", capability.user),
            ),
            (false, false) => (Verdict::Warn, format!("not there: {}", capability.user)),
        };
        checks.push(check(
            format!(
                "kvm-cap-{}",
                capability.name.to_ascii_lowercase().replace('_', "-")
            ),
            Group::Kvm,
            format!("for capability KVM_CAP_{}", capability.name),
            verdict,
            note,
        ));
    }
    let enough = kvm.max_vcpus >= VCPUS_WANTED;
    checks.push(check(
        "kvm-vcpus",
        Group::Kvm,
        format!("for {VCPUS_WANTED} vCPUs in a machine"),
        if enough { Verdict::Pass } else { Verdict::Warn },
        if enough {
            String::new()
        } else {
            format!("at most {}", kvm.max_vcpus)
        },
    ));
    let (verdict, note) = match &kvm.proof {
        Proof::Ran => (Verdict::Pass, String::new()),
        Proof::Failed { step, errno } => (Verdict::Fail, format!("{step}: {}", error_text(*errno))),
        Proof::WrongExit(exit) => (Verdict::Fail, format!("it stopped with {exit}")),
        Proof::Hung => (Verdict::Fail, "it did not stop within 2 s".into()),
    };
    checks.push(check(
        "kvm-run",
        Group::Kvm,
        "if a virtual machine runs code",
        verdict,
        note,
    ));
}

fn engine(engine: EngineFacts, checks: &mut Vec<Check>) {
    let EngineFacts {
        vmx,
        svm,
        pvm,
        two_level_paging,
        nested,
        is_guest,
        smt,
    } = engine;
    let place = if is_guest {
        ", inside a virtual machine"
    } else {
        ""
    };
    let (verdict, note) = if vmx {
        (Verdict::Pass, format!("Intel VMX{place}"))
    } else if svm {
        (Verdict::Pass, format!("AMD SVM{place}"))
    } else if pvm {
        let limit =
            "PVM: guest kernels not made for it are emulated, slowly, and stock Linux fails";
        (Verdict::Warn, limit.into())
    } else {
        (
            Verdict::Warn,
            "no module kvm_intel, kvm_amd or kvm_pvm is seen".into(),
        )
    };
    checks.push(check(
        "virtualization",
        Group::Kvm,
        "for hardware virtualization",
        verdict,
        note,
    ));
    if vmx || svm {
        checks.push(wanted(
            "two-level-paging",
            Group::Kvm,
            "for two-level paging (EPT, NPT)",
            two_level_paging != Some(false),
            "switched off: guest memory accesses are slow; set the module's ept=1 or npt=1",
        ));
        let nested = if nested == Some(true) {
            "on"
        } else {
            "off: guests cannot run guests"
        };
        let what = "if guests may run guests";
        checks.push(check("nested", Group::Kvm, what, Verdict::Pass, nested));
    }
    if let Some(smt) = smt {
        let otherwise =
            "sibling threads share caches: for untrusted guests use core scheduling or nosmt";
        checks.push(wanted(
            "smt",
            Group::Sandbox,
            "if hyper-threading is off",
            !smt,
            otherwise,
        ));
    }
}

fn memory(memory: &MemoryFacts, checks: &mut Vec<Check>) {
    let MemoryFacts {
        userfaultfd_user,
        userfaultfd_full,
        userfaultfd_device,
        hugepages,
        ksm_run,
    } = memory;
    // KVM's own accesses are kernel-mode faults: user mode alone is not enough.
    let full = userfaultfd_full.is_ok() || *userfaultfd_device == Access::Opened;
    let (verdict, note) = match (full, userfaultfd_user) {
        (true, _) => (Verdict::Pass, ""),
        (false, Ok(())) => (
            Verdict::Warn,
            "user-mode faults only, on-demand restore needs all: allow /dev/userfaultfd or set \
             vm.unprivileged_userfaultfd=1",
        ),
        (false, Err(libc::ENOSYS)) => (
            Verdict::Warn,
            "not in this kernel: no on-demand restore, no post-copy migration",
        ),
        (false, Err(_)) => (
            Verdict::Warn,
            "not permitted: allow /dev/userfaultfd or set vm.unprivileged_userfaultfd=1",
        ),
    };
    checks.push(check(
        "userfaultfd",
        Group::Memory,
        "for userfaultfd",
        verdict,
        note,
    ));

    let sizes: Vec<String> = hugepages
        .iter()
        .filter(|(_, pages, _)| *pages > 0)
        .map(|(kib, pages, free)| format!("{} MiB: {free} of {pages} free", kib / 1024))
        .collect();
    let (verdict, note) = if sizes.is_empty() {
        (
            Verdict::Warn,
            "none reserved: set vm.nr_hugepages to back guests with them".into(),
        )
    } else {
        (Verdict::Pass, sizes.join(", "))
    };
    checks.push(check(
        "hugepages",
        Group::Memory,
        "for reserved huge pages",
        verdict,
        note,
    ));

    checks.push(wanted(
        "ksm",
        Group::Sandbox,
        "if same-page merging (KSM) is off",
        *ksm_run != Some(1),
        "on: guests can tell what others hold; echo 0 > /sys/kernel/mm/ksm/run",
    ));
}

fn device((id, group, path): (&str, Group, &str), access: Access, otherwise: &str) -> Check {
    let note = match access {
        Access::Opened => String::new(),
        Access::Refused(libc::EACCES | libc::EPERM) => format!("no permission; {otherwise}"),
        Access::Refused(libc::ENOENT) => format!("not there; {otherwise}"),
        Access::Refused(errno) => format!("{}; {otherwise}", error_text(errno)),
    };
    let verdict = if access == Access::Opened {
        Verdict::Pass
    } else {
        Verdict::Warn
    };
    check(
        id,
        group,
        format!("if device '{path}' can be opened"),
        verdict,
        note,
    )
}

fn io_uring(facts: &HostFacts) -> Check {
    let note = match (facts.io_uring, facts.io_uring_disabled) {
        (Ok(()), _) => String::new(),
        (Err(_), Some(level @ 1..)) => {
            format!("kernel.io_uring_disabled is {level}: set it to 0, or disks use threads")
        }
        (Err(libc::ENOSYS), _) => "not in this kernel: disks use threads".into(),
        (Err(errno), _) => format!("{}: disks use threads", error_text(errno)),
    };
    let verdict = if facts.io_uring.is_ok() {
        Verdict::Pass
    } else {
        Verdict::Warn
    };
    check("io-uring", Group::Io, "for io_uring", verdict, note)
}

fn sandbox(sandbox: &SandboxFacts, checks: &mut Vec<Check>) {
    let SandboxFacts {
        cgroup2,
        cgroup2_controllers,
        cgroup2_delegated,
        landlock,
        seccomp,
        user_namespace,
    } = sandbox;
    cgroups(
        cgroup2.as_deref(),
        cgroup2_controllers,
        *cgroup2_delegated,
        checks,
    );
    let (verdict, note) = match landlock {
        Ok(version) if *version >= LANDLOCK_WANTED => (Verdict::Pass, format!("ABI {version}")),
        Ok(version) => (
            Verdict::Warn,
            format!("ABI {version}; {LANDLOCK_WANTED} restricts more"),
        ),
        Err(libc::EOPNOTSUPP) => (
            Verdict::Warn,
            "switched off: add landlock to the kernel's lsm= list".into(),
        ),
        Err(_) => (
            Verdict::Warn,
            "not in this kernel: it needs Linux 5.13".into(),
        ),
    };
    checks.push(check(
        "landlock",
        Group::Sandbox,
        "for Landlock",
        verdict,
        note,
    ));
    let (verdict, note) = match seccomp {
        Ok(()) => (Verdict::Pass, String::new()),
        // A VMM without its filter is not what users trust with their guests.
        Err(errno) => (
            Verdict::Fail,
            format!("the sandbox needs it: {}", error_text(*errno)),
        ),
    };
    checks.push(check(
        "seccomp",
        Group::Sandbox,
        "for seccomp filters",
        verdict,
        note,
    ));
    let note = match user_namespace {
        Ok(()) => String::new(),
        Err(errno) => format!(
            "{}: the jailer then needs root; see user.max_user_namespaces, \
             kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns",
            error_text(*errno)
        ),
    };
    let verdict = if user_namespace.is_ok() {
        Verdict::Pass
    } else {
        Verdict::Warn
    };
    let what = "if a user namespace can be made";
    checks.push(check(
        "user-namespaces",
        Group::Sandbox,
        what,
        verdict,
        note,
    ));
}

fn cgroups(
    mounted: Option<&str>,
    controllers: &[String],
    delegated: bool,
    checks: &mut Vec<Check>,
) {
    let missing: Vec<&str> = CONTROLLERS_WANTED
        .iter()
        .copied()
        .filter(|wanted| !controllers.iter().any(|there| there == wanted))
        .collect();
    let (verdict, note) = match mounted {
        None => (Verdict::Warn, "not mounted: no resource limits".to_owned()),
        Some(path) if missing.is_empty() => (Verdict::Pass, path.to_owned()),
        Some(path) => (
            Verdict::Warn,
            format!("{path} lacks {}", missing.join(", ")),
        ),
    };
    checks.push(check(
        "cgroup2",
        Group::Sandbox,
        "for cgroup v2",
        verdict,
        note,
    ));
    if mounted.is_some() {
        checks.push(wanted(
            "cgroup2-delegation",
            Group::Sandbox,
            "if control groups may be made",
            delegated,
            "not delegated: run as root, or under systemd with Delegate=yes",
        ));
    }
}

/// An errno as words, without the number Rust adds.
fn error_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}
