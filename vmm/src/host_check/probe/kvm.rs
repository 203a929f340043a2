//! Asking KVM, and running a guest of three instructions.
//!
//! Linux `Documentation/virt/kvm/api.rst`. The guest runs on a thread of its own, so that a KVM
//! which never comes back is a finding and not a hang.

#![expect(unsafe_code, reason = "giving KVM a page of ours as guest memory")]

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::super::capabilities::CAPABILITIES;
use super::super::facts::{Access, KvmFacts, Proof};

/// Where the code lies.
const CODE_AT: u64 = 0x1000;
/// `add al, bl; out dx, al; hlt`, in 16-bit code.
const CODE: [u8; 4] = [0x00, 0xD8, 0xEE, 0xF4];
/// The port the code writes to: COM1's data register.
const PORT: u16 = 0x3F8;
/// How long the three instructions may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often `KVM_RUN` is called again after EINTR or EAGAIN.
const TRIES: usize = 100;

/// Opens the device and asks everything.
pub(super) fn probe() -> (Access, Option<KvmFacts>) {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(errno) => return (Access::Refused(errno.errno()), None),
    };
    let api_version = kvm.get_api_version();
    if api_version < 0 {
        // Some other file; there is no use in asking it anything more.
        return (Access::Refused(libc::ENOTTY), None);
    }
    let capabilities = CAPABILITIES
        .iter()
        .map(|capability| {
            (
                capability.number,
                kvm.check_extension_raw(capability.number.into()),
            )
        })
        .collect();
    let facts = KvmFacts {
        api_version,
        capabilities,
        max_vcpus: kvm.get_max_vcpus(),
        proof: proof(kvm),
    };
    (Access::Opened, Some(facts))
}

/// Runs the guest on its own thread and waits for it a little.
fn proof(kvm: Kvm) -> Proof {
    let (done, outcome) = mpsc::channel();
    let runner = thread::Builder::new()
        .name("check-vcpu".into())
        .spawn(move || {
            let proof = guest(&kvm).unwrap_or_else(|failed| failed);
            // The receiver is gone only when it has stopped waiting.
            let _late = done.send(proof);
        });
    match runner {
        Ok(_) => outcome.recv_timeout(PATIENCE).unwrap_or(Proof::Hung),
        Err(error) => Proof::Failed {
            step: "thread",
            errno: error.raw_os_error().unwrap_or(libc::EAGAIN),
        },
    }
}

/// Creates a VM with one page and one vCPU, in real mode, and runs it to its first port write.
fn guest(kvm: &Kvm) -> Result<Proof, Proof> {
    let step = |step: &'static str| {
        move |error: vmm_sys_util::errno::Error| Proof::Failed {
            step,
            errno: error.errno(),
        }
    };
    let no_memory = Proof::Failed {
        step: "mmap",
        errno: libc::ENOMEM,
    };
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(CODE_AT), 0x1000)])
        .map_err(|_| no_memory.clone())?;
    memory
        .write_slice(&CODE, GuestAddress(CODE_AT))
        .map_err(|_| no_memory.clone())?;
    let host = memory
        .get_host_address(GuestAddress(CODE_AT))
        .map_err(|_| no_memory)?;

    let vm = kvm.create_vm().map_err(step("KVM_CREATE_VM"))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: CODE_AT,
        memory_size: 0x1000,
        userspace_addr: u64::try_from(host.expose_provenance()).unwrap_or(0),
    };
    // SAFETY: the region is one page that `memory` maps; `memory` is declared before `vm` and so
    // is unmapped after it is gone.
    unsafe { vm.set_user_memory_region(region) }.map_err(step("KVM_SET_USER_MEMORY_REGION"))?;
    vm.create_irq_chip().map_err(step("KVM_CREATE_IRQCHIP"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(step("KVM_CREATE_VCPU"))?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(step("KVM_GET_SUPPORTED_CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(step("KVM_SET_CPUID2"))?;
    let mut sregs = vcpu.get_sregs().map_err(step("KVM_GET_SREGS"))?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs).map_err(step("KVM_SET_SREGS"))?;
    let mut regs = vcpu.get_regs().map_err(step("KVM_GET_REGS"))?;
    regs.rip = CODE_AT;
    regs.rflags = 2;
    regs.rax = 2;
    regs.rbx = 3;
    regs.rdx = u64::from(PORT);
    vcpu.set_regs(&regs).map_err(step("KVM_SET_REGS"))?;
    for _ in 0..TRIES {
        return match vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, [5])) => Ok(Proof::Ran),
            Ok(exit) => Ok(Proof::WrongExit(
                format!("{exit:?}").chars().take(80).collect(),
            )),
            Err(errno) if matches!(errno.errno(), libc::EINTR | libc::EAGAIN) => continue,
            Err(errno) => Err(step("KVM_RUN")(errno)),
        };
    }
    Err(Proof::Failed {
        step: "KVM_RUN",
        errno: libc::EAGAIN,
    })
}
