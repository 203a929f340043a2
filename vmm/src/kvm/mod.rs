//! The kernel's side of the machine: `/dev/kvm`, the VM and what is registered with it.
//!
//! Used by the main thread while it builds the machine and when devices come or go. Order matters
//! here more than anywhere else: on Linux 6.18 every port, MMIO or ioeventfd registration queues an
//! SRCU callback, and the next memory-slot change then waits for a whole grace period (7.5 ms
//! measured, up to 25 ms on HZ=100 kernels). So: memory slots, then irqchip, then vCPUs, then
//! irqfds and ioeventfds; and no PIT at all.

pub mod stats;
mod vcpu;
mod vm;

pub use vcpu::{Exit, InternalError, IoAccess, RunError, VcpuHandle};
pub use vm::Vm;

use std::io;

use kvm_ioctls::{Cap, Kvm};

/// The only KVM API version there has ever been since Linux 2.6.22 (Documentation/virt/kvm/api.rst
/// §4.1).
const KVM_API_VERSION: i32 = 12;

/// What a machine cannot do without, what for, and what a KVM might lack: whatever every KVM since
/// Linux 4.11, the first with the last of these, has had long before is not asked for one by one at
/// every start. `thimble check` asks for all of it.
const NEEDED: [(Cap, &str); 3] = [
    (Cap::Irqfd, "device interrupts"),
    (Cap::Ioeventfd, "device notifications"),
    (Cap::ImmediateExit, "stopping a running vCPU"),
];

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// `/dev/kvm` is not there.
    #[error(
        "/dev/kvm does not exist: load the kvm_intel or kvm_amd module, or switch on \
         virtualisation in the firmware setup (thimble check tells more)"
    )]
    Missing,
    /// `/dev/kvm` is there but not for us.
    #[error("no permission to open /dev/kvm: add yourself to the group that owns it, usually kvm")]
    Permission,
    /// `/dev/kvm` could not be opened.
    #[error("cannot open /dev/kvm")]
    Open(#[source] io::Error),
    /// A file or another device.
    #[error(
        "/dev/kvm is not the kernel's KVM device: remove what is there, and load the kvm_intel or \
         kvm_amd module, which makes it anew"
    )]
    NotKvm,
    /// Not the API this VMM speaks.
    #[error("/dev/kvm speaks API version {0}, not {KVM_API_VERSION}")]
    ApiVersion(i32),
    /// A needed capability is absent.
    #[error("this kernel's KVM lacks {name:?}, needed for {need}")]
    Capability {
        /// The capability.
        name: Cap,
        /// What needs it.
        need: &'static str,
    },
    /// The host does not know a model-specific register, or not that value.
    #[error("KVM refused MSR {index:#x}")]
    Msr {
        /// Its number.
        index: u32,
    },
    /// A KVM call failed.
    #[error("{call} failed")]
    Call {
        /// The ioctl, by its documented name.
        call: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

/// For `map_err`: the failed ioctl by name.
pub(crate) fn failed(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Call {
        call,
        source: error.into(),
    }
}

/// Opens `/dev/kvm` and checks that it can run our machines.
///
/// # Errors
/// [`KvmError`], with the remedy in its text.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing,
        libc::EACCES | libc::EPERM => KvmError::Permission,
        _ => KvmError::Open(error.into()),
    })?;
    let version = kvm.get_api_version();
    // Only a failed ioctl is negative: ENOTTY, as of any other file.
    if version < 0 {
        return Err(KvmError::NotKvm);
    }
    if version != KVM_API_VERSION {
        return Err(KvmError::ApiVersion(version));
    }
    for (name, need) in NEEDED {
        if !kvm.check_extension(name) {
            return Err(KvmError::Capability { name, need });
        }
    }
    Ok(kvm)
}
