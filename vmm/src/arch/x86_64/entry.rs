//! Putting a vCPU at its starting line: power-on state, then, on the boot CPU, the kernel's entry.
//!
//! Called on the main thread, with the vCPU held. What the values are is decided elsewhere
//! ([`super::regs`], [`firmware::cpu_state`]); here they become ioctls, in the order that
//! [`super::regs`] gives.
#![expect(
    unsafe_code,
    reason = "KVM_SET_XSAVE reads as many bytes as the guest's features need"
)]

use firmware::cpu_state::{BootState, DescriptorTable, SegmentRegister};
use kvm_bindings::{Msrs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment};

use super::regs::ResetState;
use super::state::{self, CaptureError};
use crate::kvm::{KvmError, VcpuHandle, failed};

/// Reads one MSR.
///
/// # Errors
/// [`KvmError::Call`]; [`KvmError::Msr`] when the host does not know it.
pub fn get_msr(vcpu: &VcpuHandle, index: u32) -> Result<u64, KvmError> {
    let wanted = kvm_msr_entry {
        index,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[wanted]).map_err(|_| KvmError::Msr { index })?;
    match vcpu
        .fd()
        .get_msrs(&mut msrs)
        .map_err(failed("KVM_GET_MSRS"))?
    {
        0 => Err(KvmError::Msr { index }),
        _ => Ok(msrs.as_slice().first().map_or(0, |entry| entry.data)),
    }
}

/// Why a vCPU could not be put back to power-on.
#[derive(Debug, thiserror::Error)]
pub enum PowerOnError {
    /// Registers.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// MSRs.
    #[error(transparent)]
    Msrs(#[from] CaptureError),
}

/// Puts a vCPU back to power-on.
///
/// # Errors
/// [`PowerOnError`].
pub fn power_on(
    vcpu: &VcpuHandle,
    signature: u32,
    msrs: &[kvm_msr_entry],
) -> Result<(), PowerOnError> {
    let fd = vcpu.fd();
    let lapic = fd.get_lapic().map_err(failed("KVM_GET_LAPIC"))?;
    let reset = ResetState::new(vcpu.index(), signature, &lapic);
    fd.set_sregs(&reset.sregs)
        .map_err(failed("KVM_SET_SREGS"))?;
    fd.set_lapic(&reset.lapic)
        .map_err(failed("KVM_SET_LAPIC"))?;
    fd.set_regs(&reset.regs).map_err(failed("KVM_SET_REGS"))?;
    fd.set_xcrs(&reset.xcrs).map_err(failed("KVM_SET_XCRS"))?;
    // SAFETY: KVM reads more than the 4 KiB of kvm_xsave only for features that a process asks for
    // by arch_prctl (AMX); this one never does.
    unsafe { fd.set_xsave(&reset.xsave) }.map_err(failed("KVM_SET_XSAVE"))?;
    fd.set_debug_regs(&reset.debugregs)
        .map_err(failed("KVM_SET_DEBUGREGS"))?;
    state::reset_msrs(fd, msrs)?;
    fd.set_vcpu_events(&reset.events)
        .map_err(failed("KVM_SET_VCPU_EVENTS"))?;
    fd.set_mp_state(reset.mp_state)
        .map_err(failed("KVM_SET_MP_STATE"))?;
    Ok(())
}

/// Puts the boot CPU at the kernel's first instruction.
///
/// # Errors
/// [`KvmError`].
pub fn enter(vcpu: &VcpuHandle, boot: &BootState) -> Result<(), KvmError> {
    let mut sregs = vcpu.fd().get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    sregs.cs = segment(&boot.cs);
    let data = segment(&boot.data);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(&boot.tr);
    sregs.ldt = kvm_segment {
        unusable: 1,
        ..Default::default()
    };
    sregs.gdt = table(boot.gdt);
    sregs.idt = kvm_dtable::default();
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (boot.cr0, boot.cr3, boot.cr4, boot.efer);
    vcpu.fd()
        .set_sregs(&sregs)
        .map_err(failed("KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rip: boot.rip,
        rsp: boot.rsp,
        rbx: boot.rbx,
        rsi: boot.rsi,
        rflags: boot.rflags,
        ..Default::default()
    };
    vcpu.fd().set_regs(&regs).map_err(failed("KVM_SET_REGS"))
}

fn segment(from: &SegmentRegister) -> kvm_segment {
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: from.kind,
        present: from.present.into(),
        dpl: from.dpl,
        db: from.default_32.into(),
        s: from.code_or_data.into(),
        l: from.long.into(),
        g: from.granular.into(),
        ..Default::default()
    }
}

fn table(from: DescriptorTable) -> kvm_dtable {
    kvm_dtable {
        base: from.base,
        limit: from.limit,
        ..Default::default()
    }
}
