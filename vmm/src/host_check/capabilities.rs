//! The KVM capabilities thimble asks for, each with what needs it.
//!
//! Plain data, used by the probe (which to ask) and the evaluation (what it means). Numbers are
//! `KVM_CAP_*` of linux/kvm.h.

use kvm_bindings as kvm;

/// One capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capability {
    /// `KVM_CAP_*`.
    pub(super) number: u32,
    /// Its name without the prefix.
    pub(super) name: &'static str,
    /// Guests do not run without it.
    pub(super) required: bool,
    /// What needs it.
    pub(super) user: &'static str,
}

const fn need(number: u32, name: &'static str, user: &'static str) -> Capability {
    Capability {
        number,
        name,
        required: true,
        user,
    }
}

const fn want(number: u32, name: &'static str, user: &'static str) -> Capability {
    Capability {
        number,
        name,
        required: false,
        user,
    }
}

/// Every capability asked for: the required ones first.
pub(super) const CAPABILITIES: &[Capability] = &[
    need(kvm::KVM_CAP_USER_MEMORY, "USER_MEMORY", "guest RAM"),
    need(kvm::KVM_CAP_IRQCHIP, "IRQCHIP", "the in-kernel APIC"),
    need(
        kvm::KVM_CAP_IRQFD,
        "IRQFD",
        "device interrupts from I/O threads",
    ),
    need(
        kvm::KVM_CAP_IOEVENTFD,
        "IOEVENTFD",
        "queue notifications to I/O threads",
    ),
    need(
        kvm::KVM_CAP_IMMEDIATE_EXIT,
        "IMMEDIATE_EXIT",
        "pausing a vCPU",
    ),
    need(kvm::KVM_CAP_EXT_CPUID, "EXT_CPUID", "the guest's CPUID"),
    need(kvm::KVM_CAP_MP_STATE, "MP_STATE", "several vCPUs, reset"),
    need(kvm::KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS", "reset, snapshots"),
    need(kvm::KVM_CAP_DEBUGREGS, "DEBUGREGS", "reset, snapshots"),
    need(kvm::KVM_CAP_XSAVE, "XSAVE", "reset, snapshots"),
    need(kvm::KVM_CAP_XCRS, "XCRS", "reset, snapshots"),
    need(
        kvm::KVM_CAP_ADJUST_CLOCK,
        "ADJUST_CLOCK",
        "the guest's clock over a pause",
    ),
    want(
        kvm::KVM_CAP_SET_TSS_ADDR,
        "SET_TSS_ADDR",
        "real mode on older Intel processors",
    ),
    want(
        kvm::KVM_CAP_TSC_DEADLINE_TIMER,
        "TSC_DEADLINE_TIMER",
        "the guest's cheapest timer",
    ),
    want(
        kvm::KVM_CAP_GET_TSC_KHZ,
        "GET_TSC_KHZ",
        "telling the guest its TSC frequency",
    ),
    want(
        kvm::KVM_CAP_TSC_CONTROL,
        "TSC_CONTROL",
        "migration to hosts of another TSC frequency",
    ),
    want(
        kvm::KVM_CAP_IRQ_ROUTING,
        "IRQ_ROUTING",
        "message-signalled interrupts",
    ),
    want(
        kvm::KVM_CAP_SIGNAL_MSI,
        "SIGNAL_MSI",
        "message-signalled interrupts",
    ),
    want(
        kvm::KVM_CAP_READONLY_MEM,
        "READONLY_MEM",
        "read-only guest memory",
    ),
    want(
        kvm::KVM_CAP_SYNC_REGS,
        "SYNC_REGS",
        "registers without a system call",
    ),
    want(
        kvm::KVM_CAP_XSAVE2,
        "XSAVE2",
        "snapshots of guests that use AMX",
    ),
    want(
        kvm::KVM_CAP_NESTED_STATE,
        "NESTED_STATE",
        "snapshots of guests that run guests",
    ),
    want(
        kvm::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        "MANUAL_DIRTY_LOG_PROTECT2",
        "live migration",
    ),
    want(
        kvm::KVM_CAP_DIRTY_LOG_RING,
        "DIRTY_LOG_RING",
        "live migration of busy guests",
    ),
    want(
        kvm::KVM_CAP_BINARY_STATS_FD,
        "BINARY_STATS_FD",
        "query-stats",
    ),
];
