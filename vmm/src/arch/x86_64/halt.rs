//! Whether a processor has halted for good. Called on the main thread while the vCPU is held.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED, kvm_vcpu_events,
};

use crate::kvm::{KvmError, VcpuHandle, failed};

/// RFLAGS.IF: interrupts are let in.
const RFLAGS_IF: u64 = 1 << 9;

/// Whether only an NMI, an SMI or another processor could make the vCPU execute an instruction.
///
/// # Errors
/// [`KvmError`].
pub fn is_halted(vcpu: &VcpuHandle) -> Result<bool, KvmError> {
    let fd = vcpu.fd();
    let mp_state = fd.get_mp_state().map_err(failed("KVM_GET_MP_STATE"))?;
    let regs = fd.get_regs().map_err(failed("KVM_GET_REGS"))?;
    let events = fd
        .get_vcpu_events()
        .map_err(failed("KVM_GET_VCPU_EVENTS"))?;
    Ok(stays(mp_state.mp_state, regs.rflags, &events))
}

fn stays(mp_state: u32, rflags: u64, events: &kvm_vcpu_events) -> bool {
    match mp_state {
        // Until another processor sends INIT and SIPI.
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => true,
        KVM_MP_STATE_HALTED => {
            let woken = events.nmi.pending != 0 || events.nmi.injected != 0;
            rflags & RFLAGS_IF == 0 && !woken && events.smi.pending == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::{KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED};

    #[test]
    fn only_a_halt_that_nothing_ends_counts() {
        let quiet = kvm_vcpu_events::default();
        assert!(stays(KVM_MP_STATE_HALTED, 2, &quiet));
        assert!(!stays(KVM_MP_STATE_HALTED, 2 | RFLAGS_IF, &quiet));
        assert!(!stays(KVM_MP_STATE_RUNNABLE, 2, &quiet));
        assert!(!stays(KVM_MP_STATE_SIPI_RECEIVED, 2, &quiet));
        assert!(stays(KVM_MP_STATE_UNINITIALIZED, 2 | RFLAGS_IF, &quiet));
        let mut nmi = quiet;
        nmi.nmi.pending = 1;
        assert!(!stays(KVM_MP_STATE_HALTED, 2, &nmi));
        assert!(
            stays(KVM_MP_STATE_INIT_RECEIVED, 2, &nmi),
            "it is not let in"
        );
    }
}
