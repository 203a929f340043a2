//! Every rule on facts made by hand, and both forms of the report against goldens.

use super::capabilities::CAPABILITIES;
use super::facts::{Access, EngineFacts, HostFacts, KvmFacts, MemoryFacts, Proof, SandboxFacts};
use super::*;

/// A host with everything.
fn good() -> HostFacts {
    HostFacts {
        kvm_device: Access::Opened,
        kvm: Some(KvmFacts {
            api_version: 12,
            capabilities: CAPABILITIES.iter().map(|c| (c.number, 1)).collect(),
            max_vcpus: 1024,
            proof: Proof::Ran,
        }),
        engine: EngineFacts {
            vmx: true,
            two_level_paging: Some(true),
            nested: Some(true),
            smt: Some(false),
            ..Default::default()
        },
        memory: MemoryFacts {
            userfaultfd_user: Ok(()),
            userfaultfd_full: Ok(()),
            userfaultfd_device: Access::Opened,
            hugepages: vec![(2048, 512, 500), (1 << 20, 0, 0)],
            ksm_run: Some(0),
        },
        tun: Access::Opened,
        vhost_net: Access::Opened,
        vhost_vsock: Access::Opened,
        io_uring: Ok(()),
        io_uring_disabled: Some(0),
        sandbox: SandboxFacts {
            cgroup2: Some("/sys/fs/cgroup".into()),
            cgroup2_controllers: ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"]
                .map(str::to_owned)
                .to_vec(),
            cgroup2_delegated: true,
            landlock: Ok(6),
            seccomp: Ok(()),
            user_namespace: Ok(()),
        },
    }
}

/// A host where little is as it should be: PVM, an unprivileged user, an old kernel.
fn poor() -> HostFacts {
    let mut facts = good();
    if let Some(kvm) = &mut facts.kvm {
        kvm.capabilities.retain(|(number, _)| {
            *number != kvm_bindings::KVM_CAP_IMMEDIATE_EXIT
                && *number != kvm_bindings::KVM_CAP_TSC_CONTROL
        });
        kvm.proof = Proof::WrongExit("InternalError".into());
        kvm.max_vcpus = 8;
    }
    facts.engine = EngineFacts {
        pvm: true,
        smt: Some(true),
        ..Default::default()
    };
    facts.memory = MemoryFacts {
        userfaultfd_user: Ok(()),
        userfaultfd_full: Err(libc::EPERM),
        userfaultfd_device: Access::Refused(libc::EACCES),
        hugepages: vec![(2048, 0, 0)],
        ksm_run: Some(1),
    };
    facts.tun = Access::Refused(libc::EACCES);
    facts.vhost_net = Access::Refused(libc::ENOENT);
    facts.vhost_vsock = Access::Refused(libc::ENOENT);
    facts.io_uring = Err(libc::EPERM);
    facts.io_uring_disabled = Some(2);
    facts.sandbox = SandboxFacts {
        cgroup2: Some("/sys/fs/cgroup/unified".into()),
        cgroup2_controllers: vec!["pids".into()],
        cgroup2_delegated: false,
        landlock: Err(libc::EOPNOTSUPP),
        seccomp: Err(libc::ENOSYS),
        user_namespace: Err(libc::ENOSPC),
    };
    facts
}

fn verdict(facts: &HostFacts, id: &str) -> (Verdict, String) {
    let checks = evaluate(facts);
    let check = checks.into_iter().find(|check| check.id == id);
    check
        .map(|check| (check.verdict, check.note))
        .unwrap_or_else(|| panic!("no check {id}"))
}

#[test]
fn golden_lines() {
    assert_eq!(
        text(&evaluate(&good()), false),
        include_str!("golden/good.txt")
    );
    assert_eq!(
        text(&evaluate(&poor()), false),
        include_str!("golden/poor.txt")
    );
}

#[test]
fn golden_json() {
    let report = json(&evaluate(&poor()));
    assert_eq!(report, include_str!("golden/poor.json"));
    let array: Vec<serde_json::Value> = serde_json::from_str(&report).unwrap();
    assert_eq!(array.len(), evaluate(&poor()).len());
}

#[test]
fn what_does_not_answer_as_kvm_is_told_once() {
    for (version, remedy) in [(-1, "is not KVM"), (11, "the kernel says 11")] {
        let mut facts = good();
        if let Some(kvm) = &mut facts.kvm {
            kvm.api_version = version;
            kvm.capabilities.clear();
        }
        let (found, note) = verdict(&facts, "kvm-api");
        assert_eq!(found, Verdict::Fail);
        assert!(note.contains(remedy), "{note}");
        let failed = evaluate(&facts).into_iter();
        assert_eq!(failed.filter(|c| c.verdict == Verdict::Fail).count(), 1);
    }
}

#[test]
fn colour_is_only_around_the_verdict() {
    let check = Check {
        id: "x".into(),
        group: Group::Io,
        what: "for x".into(),
        verdict: Verdict::Fail,
        note: "why".into(),
    };
    let line = text(std::slice::from_ref(&check), true);
    assert!(line.ends_with(": \x1b[31mFAIL\x1b[0m (why)\n"), "{line:?}");
    assert!(line.starts_with("    IO: Checking for x"));
    assert_eq!(text(&[check], false).find("FAIL"), Some(8 + 69 + 2));
}

#[test]
fn the_exit_status_is_failures_alone() {
    assert!(passes(&evaluate(&good())));
    assert!(!passes(&evaluate(&poor())));
    let mut warned = poor();
    warned.kvm = good().kvm;
    warned.sandbox.seccomp = Ok(());
    assert!(passes(&evaluate(&warned)));
}

#[test]
fn each_way_of_having_no_kvm_has_its_own_remedy() {
    for (errno, remedy) in [
        (libc::ENOENT, "load kvm_intel or kvm_amd"),
        (libc::EACCES, "add yourself to group kvm"),
        (libc::EBUSY, "another hypervisor"),
        (libc::ENOTTY, "not KVM's device"),
        (libc::EIO, "Input/output error"),
    ] {
        let mut facts = good();
        facts.kvm_device = Access::Refused(errno);
        facts.kvm = None;
        let (verdict, note) = verdict(&facts, "kvm-device");
        assert_eq!(verdict, Verdict::Fail);
        assert!(note.contains(remedy), "{note}");
        assert!(
            !evaluate(&facts)
                .iter()
                .any(|check| check.id.starts_with("kvm-cap"))
        );
    }
}

#[test]
fn kvm_that_does_not_work_fails() {
    let spoil = |proof: Proof| {
        let mut facts = good();
        if let Some(kvm) = &mut facts.kvm {
            kvm.proof = proof;
        }
        verdict(&facts, "kvm-run")
    };
    assert_eq!(spoil(Proof::Ran).0, Verdict::Pass);
    let failed = Proof::Failed {
        step: "KVM_CREATE_VM",
        errno: libc::EBUSY,
    };
    assert_eq!(
        spoil(failed),
        (
            Verdict::Fail,
            "KVM_CREATE_VM: Device or resource busy".to_owned()
        )
    );
    assert_eq!(spoil(Proof::Hung).0, Verdict::Fail);
}

#[test]
fn every_capability_is_listed_by_name_and_required_ones_fail() {
    for capability in CAPABILITIES {
        let mut facts = good();
        if let Some(kvm) = &mut facts.kvm {
            kvm.capabilities
                .retain(|(number, _)| *number != capability.number);
        }
        let id = format!(
            "kvm-cap-{}",
            capability.name.to_lowercase().replace('_', "-")
        );
        let expected = if capability.required {
            Verdict::Fail
        } else {
            Verdict::Warn
        };
        let (verdict, note) = verdict(&facts, &id);
        assert_eq!(verdict, expected, "{id}");
        assert!(note.contains(capability.user));
    }
}

#[test]
fn ids_are_unique() {
    let mut ids: Vec<String> = evaluate(&good())
        .into_iter()
        .map(|check| check.id)
        .collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all);
}
