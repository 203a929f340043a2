//! The saved form of a vCPU.
//!
//! Plain data, versioned, apart from KVM's structures: what a snapshot's vCPU section and a
//! migration stream hold. [`capture`] and [`apply`] are called by the vCPU's owner while the
//! machine is quiesced, never while the vCPU is in `KVM_RUN`. Restored data may come from anywhere:
//! every conversion back to KVM's structures is checked. Parts a host does not have are absent, not
//! zero. Linux `Documentation/virt/kvm/api.rst` names each structure.

mod convert;
mod ioctl;

pub use ioctl::{CaptureError, CaptureOptions, apply, capture, reset_msrs, set_msrs};

use serde::{Deserialize, Serialize};

/// Version of [`VcpuState`], raised on every change of its meaning.
pub const VERSION: u32 = 1;

/// Most words an XSAVE area may have: 64 KiB, several times what any processor defines.
pub const MAX_XSAVE_WORDS: usize = 16 * 1024;
/// Most MSRs a state may have; KVM itself takes 256 a call.
pub const MAX_MSRS: usize = 1024;
/// Bytes of a local APIC page.
pub const LAPIC_BYTES: usize = 1024;
/// Most bytes of nested state (VMX: header and two pages).
pub const MAX_NESTED_BYTES: usize = 8320;

/// All architectural state of one vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuState {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// Digest of the CPUID profile the guest runs on; see `CpuProfile::digest`.
    pub cpuid_digest: u64,
    /// Guest TSC frequency in kHz, where the host tells it.
    pub tsc_khz: Option<u32>,
    /// General registers.
    pub regs: Regs,
    /// System registers.
    pub sregs: Sregs,
    /// The XSAVE area as 32-bit words: 1024, or more where the host has larger components.
    pub xsave: Vec<u32>,
    /// Extended control registers, index and value; absent on hosts without them.
    pub xcrs: Option<Vec<(u32, u64)>>,
    /// Debug registers.
    pub debugregs: DebugRegs,
    /// The local APIC's page, 1024 bytes; absent where the APIC is not in the kernel.
    pub lapic: Option<Vec<u8>>,
    /// `KVM_MP_STATE_*`.
    pub mp_state: u32,
    /// Pending and injected events.
    pub events: Events,
    /// MSRs, index and value, in the order to write them.
    pub msrs: Vec<(u32, u64)>,
    /// Nested-virtualization state as KVM gives it; absent where KVM has none to give.
    pub nested: Option<Vec<u8>>,
}

/// `kvm_regs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the processor's own register names")]
pub struct Regs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// A segment register with its hidden part (`kvm_segment`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, expanded.
    pub limit: u32,
    /// Selector.
    pub selector: u16,
    /// Descriptor type, 0 to 15.
    pub kind: u8,
    /// Present.
    pub present: bool,
    /// Privilege level, 0 to 3.
    pub dpl: u8,
    /// Default operation size.
    pub db: bool,
    /// Code or data rather than system.
    pub s: bool,
    /// 64-bit code.
    pub l: bool,
    /// Granularity.
    pub g: bool,
    /// Available to software.
    pub avl: bool,
    /// Null: not usable.
    pub unusable: bool,
}

/// A descriptor-table register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Linear base address.
    pub base: u64,
    /// Last valid byte.
    pub limit: u16,
}

/// `kvm_sregs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the processor's own register names")]
pub struct Sregs {
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: Table,
    pub idt: Table,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub apic_base: u64,
    /// Vectors accepted but not yet delivered, one bit each.
    pub interrupt_bitmap: [u64; 4],
}

/// `kvm_debugregs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the processor's own register names")]
pub struct DebugRegs {
    pub db: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
}

/// `kvm_vcpu_events`. `flags` says which optional parts hold (`KVM_VCPUEVENT_VALID_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "names and meanings are kvm_vcpu_events'")]
pub struct Events {
    pub exception_injected: bool,
    pub exception_nr: u8,
    pub exception_has_error_code: bool,
    pub exception_pending: bool,
    pub exception_error_code: u32,
    pub exception_has_payload: bool,
    pub exception_payload: u64,
    pub interrupt_injected: bool,
    pub interrupt_nr: u8,
    pub interrupt_soft: bool,
    pub interrupt_shadow: u8,
    pub nmi_injected: bool,
    pub nmi_pending: u8,
    pub nmi_masked: bool,
    pub sipi_vector: u32,
    pub flags: u32,
    pub smi_smm: bool,
    pub smi_pending: bool,
    pub smi_smm_inside_nmi: bool,
    pub smi_latched_init: u8,
    pub triple_fault_pending: bool,
}

/// A saved vCPU that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("saved vCPU state: {field}: {problem}")]
pub struct BadVcpuState {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl BadVcpuState {
    fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self {
            field,
            problem: problem.into(),
        }
    }
}

#[cfg(test)]
mod tests;
