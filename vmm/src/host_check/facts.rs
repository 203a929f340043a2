//! What was found on the host, unjudged.
//!
//! Plain data: filled by the probes, read by the evaluation, made by hand in tests.

/// Whether a device could be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Opened, for reading and writing.
    Opened,
    /// Not opened, with the errno.
    Refused(i32),
}

/// The result of trying something that has no value: an errno, or none.
pub type Tried = Result<(), i32>;

/// Everything found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// `/dev/kvm`.
    pub kvm_device: Access,
    /// What KVM said, where the device opened.
    pub kvm: Option<KvmFacts>,
    /// What KVM runs on.
    pub engine: EngineFacts,
    /// Guest memory.
    pub memory: MemoryFacts,
    /// `/dev/net/tun`.
    pub tun: Access,
    /// `/dev/vhost-net`.
    pub vhost_net: Access,
    /// `/dev/vhost-vsock`.
    pub vhost_vsock: Access,
    /// `io_uring_setup` of one entry.
    pub io_uring: Tried,
    /// `kernel.io_uring_disabled`; absent before Linux 6.6.
    pub io_uring_disabled: Option<u64>,
    /// What the sandbox is built of.
    pub sandbox: SandboxFacts,
}

/// What KVM said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvmFacts {
    /// `KVM_GET_API_VERSION`.
    pub api_version: i32,
    /// `KVM_CHECK_EXTENSION`'s answer for each capability asked, by number.
    pub capabilities: Vec<(u32, i32)>,
    /// The most vCPUs of a VM.
    pub max_vcpus: usize,
    /// A VM, a vCPU and three instructions.
    pub proof: Proof,
}

/// How far a real guest came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// It ran: port and value were as its code says.
    Ran,
    /// A step failed, with its errno.
    Failed {
        /// The ioctl.
        step: &'static str,
        /// Its errno.
        errno: i32,
    },
    /// It stopped for another reason, in KVM's words.
    WrongExit(String),
    /// It did not stop.
    Hung,
}

/// What KVM runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineFacts {
    /// Module `kvm_intel` is there.
    pub vmx: bool,
    /// Module `kvm_amd` is there.
    pub svm: bool,
    /// Module `kvm_pvm` is there.
    pub pvm: bool,
    /// The processor's second-level paging is used (module parameter `ept` or `npt`).
    pub two_level_paging: Option<bool>,
    /// Guests may run guests (module parameter `nested`).
    pub nested: Option<bool>,
    /// The processor has the `hypervisor` flag: this host is a guest.
    pub is_guest: bool,
    /// Sibling hyper-threads are on; absent where the kernel does not say.
    pub smt: Option<bool>,
}

/// Guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryFacts {
    /// The `userfaultfd` system call, as thimble makes it (user mode only).
    pub userfaultfd_user: Tried,
    /// The system call for faults in kernel mode too, which KVM's are.
    pub userfaultfd_full: Tried,
    /// `/dev/userfaultfd`.
    pub userfaultfd_device: Access,
    /// Page size in KiB, pages in all, pages free; one for each size the kernel has.
    pub hugepages: Vec<(u64, u64, u64)>,
    /// `/sys/kernel/mm/ksm/run`; absent without KSM.
    pub ksm_run: Option<u64>,
}

/// What the sandbox is built of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxFacts {
    /// Where cgroup v2 is mounted.
    pub cgroup2: Option<String>,
    /// Its controllers at the root.
    pub cgroup2_controllers: Vec<String>,
    /// This process may create groups below its own.
    pub cgroup2_delegated: bool,
    /// `landlock_create_ruleset`'s version, or the errno.
    pub landlock: Result<u32, i32>,
    /// The kill-process action of seccomp filters is there.
    pub seccomp: Tried,
    /// `unshare(CLONE_NEWUSER)` in a child.
    pub user_namespace: Tried,
}
