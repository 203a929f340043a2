//! Register files of a vCPU at power-on.
//!
//! Pure functions on KVM's structures; [`super::entry`] applies them, at an in-place reset. How the
//! boot vCPU enters its kernel is [`firmware::cpu_state`]'s. Sources: Intel SDM volume 3A table 10-1
//! and section 11.4.7 (local APIC after reset).
//!
//! Order of a reset: [`ResetState::sregs`] first (it leaves x2APIC mode and long mode), then LAPIC,
//! regs, xcrs, xsave, debugregs, MSRs ([`super::msr::reset`]), events, and `mp_state` last, so that a
//! vCPU is not woken half-way.

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING,
    KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SIPI_VECTOR, KVM_VCPUEVENT_VALID_SMM,
    kvm_debugregs, kvm_dtable, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_segment,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

/// CR0 at power-on: caches off (CD, NW), ET.
const CR0_RESET: u64 = 0x6000_0010;
/// RFLAGS bit 1 is always set.
const RFLAGS_RESERVED: u64 = 2;
/// The local APIC's address, with its global enable (bit 11).
const APIC_BASE: u64 = 0xFEE0_0000 | (1 << 11);
/// APIC base bit 8: this is the boot processor.
const APIC_BASE_BSP: u64 = 1 << 8;
/// MXCSR at power-on: all exceptions masked.
const MXCSR_RESET: u32 = 0x1F80;
/// The x87 control word after FNINIT, which KVM, QEMU and INIT all use; the SDM's power-on value of
/// 0x40 is what firmware replaces first.
const FCW_RESET: u16 = 0x37F;

/// Everything of a vCPU at power-on but its MSRs.
#[derive(Debug)]
pub struct ResetState {
    /// For `KVM_SET_SREGS`.
    pub sregs: kvm_sregs,
    /// For `KVM_SET_LAPIC`, after `sregs`.
    pub lapic: kvm_lapic_state,
    /// For `KVM_SET_REGS`.
    pub regs: kvm_regs,
    /// For `KVM_SET_XCRS`.
    pub xcrs: kvm_xcrs,
    /// For `KVM_SET_XSAVE`.
    pub xsave: kvm_xsave,
    /// For `KVM_SET_DEBUGREGS`.
    pub debugregs: kvm_debugregs,
    /// For `KVM_SET_VCPU_EVENTS`.
    pub events: kvm_vcpu_events,
    /// For `KVM_SET_MP_STATE`, last.
    pub mp_state: kvm_mp_state,
}

impl ResetState {
    /// The power-on state of vCPU `index`, which is also its APIC ID. `signature` is CPUID leaf 1
    /// EAX; `lapic` is its `KVM_GET_LAPIC` page, of which only the version is kept.
    #[must_use]
    pub fn new(index: u8, signature: u32, lapic: &kvm_lapic_state) -> Self {
        let boot = index == 0;
        Self {
            sregs: reset_sregs(boot),
            lapic: reset_lapic(index, lapic),
            regs: reset_regs(signature),
            xcrs: reset_xcrs(),
            xsave: reset_xsave(),
            debugregs: reset_debugregs(),
            events: reset_events(),
            mp_state: reset_mp_state(boot),
        }
    }
}

/// General registers at power-on: RIP at the reset vector, the processor's signature in RDX.
#[must_use]
pub fn reset_regs(signature: u32) -> kvm_regs {
    kvm_regs {
        rip: 0xFFF0,
        rflags: RFLAGS_RESERVED,
        rdx: u64::from(signature),
        ..Default::default()
    }
}

/// System registers at power-on; `boot` tells the boot processor.
#[must_use]
pub fn reset_sregs(boot: bool) -> kvm_sregs {
    let real = |selector: u16, base: u64, kind: u8| kvm_segment {
        base,
        limit: 0xFFFF,
        selector,
        type_: kind,
        present: 1,
        s: 1,
        ..Default::default()
    };
    let data = real(0, 0, 0x3);
    let table = kvm_dtable {
        base: 0,
        limit: 0xFFFF,
        ..Default::default()
    };
    kvm_sregs {
        cs: real(0xF000, 0xFFFF_0000, 0xB),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        // System segments: a busy task-state segment and an LDT.
        tr: kvm_segment {
            s: 0,
            ..real(0, 0, 0xB)
        },
        ldt: kvm_segment {
            s: 0,
            ..real(0, 0, 0x2)
        },
        gdt: table,
        idt: table,
        cr0: CR0_RESET,
        apic_base: APIC_BASE | if boot { APIC_BASE_BSP } else { 0 },
        ..Default::default()
    }
}

/// x87 and SSE registers at power-on, for hosts without XSAVE.
#[must_use]
pub fn reset_fpu() -> kvm_fpu {
    kvm_fpu {
        fcw: FCW_RESET,
        mxcsr: MXCSR_RESET,
        ..Default::default()
    }
}

/// Extended state at power-on. Components x87 and SSE are marked present in XSTATE_BV, because
/// KVM takes MXCSR from the area only then; all others are in their initial state by absence.
#[must_use]
pub fn reset_xsave() -> kvm_xsave {
    let mut xsave = kvm_xsave::default();
    // Words of the area (SDM volume 1 table 10-2 and section 13.4.2): FCW at byte 0, MXCSR at 24,
    // XSTATE_BV at 512.
    xsave.region[0] = u32::from(FCW_RESET);
    xsave.region[6] = MXCSR_RESET;
    xsave.region[128] = 0b11;
    xsave
}

/// XCR0 at power-on: x87 only.
#[must_use]
pub fn reset_xcrs() -> kvm_xcrs {
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0].xcr = 0;
    xcrs.xcrs[0].value = 1;
    xcrs
}

/// Debug registers at power-on: no breakpoint, the reserved bits as the SDM says.
#[must_use]
pub fn reset_debugregs() -> kvm_debugregs {
    kvm_debugregs {
        dr6: 0xFFFF_0FF0,
        dr7: 0x400,
        ..Default::default()
    }
}

/// No event pending, injected or masked, and every part KVM accepts without an opt-in said so.
#[must_use]
pub fn reset_events() -> kvm_vcpu_events {
    kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING
            | KVM_VCPUEVENT_VALID_SIPI_VECTOR
            | KVM_VCPUEVENT_VALID_SHADOW
            | KVM_VCPUEVENT_VALID_SMM,
        ..Default::default()
    }
}

/// The boot processor runs; the others wait for INIT and SIPI.
#[must_use]
pub fn reset_mp_state(boot: bool) -> kvm_mp_state {
    let mp_state = if boot {
        KVM_MP_STATE_RUNNABLE
    } else {
        KVM_MP_STATE_UNINITIALIZED
    };
    kvm_mp_state { mp_state }
}

/// Byte offsets into the local APIC page (SDM volume 3A table 11-1).
mod lapic {
    pub(super) const ID: usize = 0x20;
    pub(super) const VERSION: usize = 0x30;
    pub(super) const DFR: usize = 0xE0;
    pub(super) const SPURIOUS: usize = 0xF0;
    pub(super) const LVT_CMCI: usize = 0x2F0;
    /// Timer, thermal, performance, LINT0, LINT1, error.
    pub(super) const LVT: [usize; 6] = [0x320, 0x330, 0x340, 0x350, 0x360, 0x370];
    /// An LVT entry's mask.
    pub(super) const MASKED: u32 = 1 << 16;
}

/// The local APIC at power-on: software-disabled, every LVT entry masked, flat destination format.
/// The version is `current`'s. The page must be set after the system registers, which put the APIC
/// back in xAPIC mode: the ID has that mode's form.
#[must_use]
pub fn reset_lapic(apic_id: u8, current: &kvm_lapic_state) -> kvm_lapic_state {
    let mut page = kvm_lapic_state::default();
    let version = get(current, lapic::VERSION);
    put(&mut page, lapic::VERSION, version);
    put(&mut page, lapic::ID, u32::from(apic_id) << 24);
    put(&mut page, lapic::DFR, u32::MAX);
    put(&mut page, lapic::SPURIOUS, 0xFF);
    for offset in lapic::LVT {
        put(&mut page, offset, lapic::MASKED);
    }
    // Bits 23:16 of the version: the number of LVT entries less one; the seventh is CMCI.
    if (version >> 16) & 0xFF >= 6 {
        put(&mut page, lapic::LVT_CMCI, lapic::MASKED);
    }
    page
}

fn get(page: &kvm_lapic_state, offset: usize) -> u32 {
    let mut bytes = [0u8; 4];
    for (byte, register) in bytes.iter_mut().zip(page.regs.iter().skip(offset)) {
        *byte = register.to_le_bytes()[0];
    }
    u32::from_le_bytes(bytes)
}

fn put(page: &mut kvm_lapic_state, offset: usize, value: u32) {
    let bytes = value
        .to_le_bytes()
        .map(|byte| std::ffi::c_char::from_le_bytes([byte]));
    for (register, byte) in page.regs.iter_mut().skip(offset).zip(bytes) {
        *register = byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_on_is_the_manuals() {
        let sregs = reset_sregs(true);
        assert_eq!(sregs.cs.base + reset_regs(0).rip, 0xFFFF_FFF0);
        assert_eq!(
            (sregs.cs.selector, sregs.cs.limit, sregs.cs.type_),
            (0xF000, 0xFFFF, 0xB)
        );
        assert_eq!(
            (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer),
            (0x6000_0010, 0, 0, 0)
        );
        assert_eq!((sregs.ldt.type_, sregs.ldt.s, sregs.tr.s), (2, 0, 0));
        assert_eq!(sregs.apic_base, 0xFEE0_0900);
        assert_eq!(reset_sregs(false).apic_base, 0xFEE0_0800);
        assert_eq!(reset_regs(0x00A0_0F11).rdx, 0x00A0_0F11);
        let debug = reset_debugregs();
        assert_eq!(
            (debug.dr6, debug.dr7, debug.db),
            (0xFFFF_0FF0, 0x400, [0; 4])
        );
        assert_eq!((reset_xcrs().nr_xcrs, reset_xcrs().xcrs[0].value), (1, 1));
        assert_eq!((reset_fpu().fcw, reset_fpu().mxcsr), (0x37F, 0x1F80));
        assert_eq!(reset_mp_state(true).mp_state, KVM_MP_STATE_RUNNABLE);
        assert_eq!(reset_mp_state(false).mp_state, KVM_MP_STATE_UNINITIALIZED);
        assert_eq!(reset_events().flags, 0xF);
    }

    #[test]
    fn xsave_resets_mxcsr() {
        let xsave = reset_xsave();
        assert_eq!(
            (xsave.region[0], xsave.region[6], xsave.region[128]),
            (0x37F, 0x1F80, 3)
        );
        assert_eq!(xsave.region.iter().filter(|word| **word != 0).count(), 3);
    }

    #[test]
    fn the_local_apic_keeps_its_version_and_nothing_else() {
        let mut used = kvm_lapic_state { regs: [0x55; 1024] };
        put(&mut used, lapic::VERSION, 0x0005_0014);
        let page = reset_lapic(3, &used);
        assert_eq!(get(&page, lapic::ID), 3 << 24);
        assert_eq!(get(&page, lapic::VERSION), 0x0005_0014);
        assert_eq!(get(&page, lapic::DFR), u32::MAX);
        assert_eq!(get(&page, lapic::SPURIOUS), 0xFF);
        assert!(
            lapic::LVT
                .iter()
                .all(|offset| get(&page, *offset) == lapic::MASKED)
        );
        assert_eq!(get(&page, lapic::LVT_CMCI), 0);
        let set = (0..1024)
            .step_by(4)
            .filter(|offset| get(&page, *offset) != 0)
            .count();
        assert_eq!(set, 4 + 6);

        put(&mut used, lapic::VERSION, 0x0006_0014);
        assert_eq!(get(&reset_lapic(0, &used), lapic::LVT_CMCI), lapic::MASKED);
    }
}
