//! Model-specific registers: what to write at boot and at reset, and what to save.
//!
//! Used by the vCPU's owner when it is created, at an in-place reset, and by snapshot and
//! migration. Pure lists. Sources: Intel SDM volume 4 (addresses) and volume 3A table 10-1 (reset
//! values); Linux `Documentation/virt/kvm/x86/msr.rst` for the paravirtual ones.
//!
//! EFER, FS and GS base and the APIC base are part of `kvm_sregs` and therefore not here.

use kvm_bindings::kvm_msr_entry;

/// A value to write, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsrInit {
    /// The register's address.
    pub index: u32,
    /// The value.
    pub value: u64,
    /// Why the value is what it is.
    pub reason: &'static str,
}

const fn init(index: u32, value: u64, reason: &'static str) -> MsrInit {
    MsrInit {
        index,
        value,
        reason,
    }
}

/// Time-stamp counter.
pub const IA32_TSC: u32 = 0x10;
/// TSC deadline of the local APIC timer; writing it arms the timer.
pub const IA32_TSC_DEADLINE: u32 = 0x6E0;

/// What a fresh vCPU needs beyond KVM's own initial values, because no firmware runs. Every x86 KVM
/// accepts these, so the list is written without asking the host first.
pub const BOOT: &[MsrInit] = &[
    init(
        0x1A0,
        1,
        "IA32_MISC_ENABLE: fast string operations, as firmware leaves them",
    ),
    init(
        0x2FF,
        0xC06,
        "IA32_MTRR_DEF_TYPE: MTRRs on, fixed ones on, default write-back",
    ),
];

/// What an in-place reset writes, so that the vCPU is as it was at power-on. The order counts where
/// it says so; entries the host does not know are left out by [`reset`].
pub const RESET: &[MsrInit] = &[
    init(
        0x4B56_4D01,
        0,
        "kvm-clock off: KVM must not write into the memory of the next boot",
    ),
    init(0x4B56_4D00, 0, "kvm wall clock off"),
    init(0x12, 0, "kvm-clock off (old address)"),
    init(0x11, 0, "kvm wall clock off (old address)"),
    init(
        0x4B56_4D02,
        0,
        "asynchronous page faults off: the shared page is gone",
    ),
    init(0x4B56_4D06, 0, "asynchronous page-fault interrupt vector"),
    init(0x4B56_4D03, 0, "steal time off: the shared page is gone"),
    init(
        0x4B56_4D04,
        0,
        "paravirtual EOI off: the shared word is gone",
    ),
    init(
        0x4B56_4D05,
        1,
        "host-side halt polling allowed, as at power-on",
    ),
    init(IA32_TSC_DEADLINE, 0, "timer disarmed"),
    init(0x3B, 0, "IA32_TSC_ADJUST"),
    init(
        IA32_TSC,
        0,
        "time-stamp counter: KVM takes 0 for \"in step with the other vCPUs\"",
    ),
    init(0x1A0, 1, "IA32_MISC_ENABLE: fast string operations"),
    init(
        0x277,
        0x0007_0406_0007_0406,
        "IA32_PAT: the architectural reset value",
    ),
    init(0x2FF, 0xC06, "IA32_MTRR_DEF_TYPE: as at boot"),
    init(0x250, 0, "fixed MTRR"),
    init(0x258, 0, "fixed MTRR"),
    init(0x259, 0, "fixed MTRR"),
    init(0x268, 0, "fixed MTRR"),
    init(0x269, 0, "fixed MTRR"),
    init(0x26A, 0, "fixed MTRR"),
    init(0x26B, 0, "fixed MTRR"),
    init(0x26C, 0, "fixed MTRR"),
    init(0x26D, 0, "fixed MTRR"),
    init(0x26E, 0, "fixed MTRR"),
    init(0x26F, 0, "fixed MTRR"),
    init(0x200, 0, "variable MTRR base"),
    init(0x201, 0, "variable MTRR mask: invalid"),
    init(0x202, 0, "variable MTRR base"),
    init(0x203, 0, "variable MTRR mask: invalid"),
    init(0x204, 0, "variable MTRR base"),
    init(0x205, 0, "variable MTRR mask: invalid"),
    init(0x206, 0, "variable MTRR base"),
    init(0x207, 0, "variable MTRR mask: invalid"),
    init(0x208, 0, "variable MTRR base"),
    init(0x209, 0, "variable MTRR mask: invalid"),
    init(0x20A, 0, "variable MTRR base"),
    init(0x20B, 0, "variable MTRR mask: invalid"),
    init(0x20C, 0, "variable MTRR base"),
    init(0x20D, 0, "variable MTRR mask: invalid"),
    init(0x20E, 0, "variable MTRR base"),
    init(0x20F, 0, "variable MTRR mask: invalid"),
    init(0x174, 0, "IA32_SYSENTER_CS"),
    init(0x175, 0, "IA32_SYSENTER_ESP"),
    init(0x176, 0, "IA32_SYSENTER_EIP"),
    init(0xC000_0081, 0, "STAR"),
    init(0xC000_0082, 0, "LSTAR"),
    init(0xC000_0083, 0, "CSTAR"),
    init(0xC000_0084, 0, "SFMASK"),
    init(0xC000_0102, 0, "KERNEL_GS_BASE"),
    init(0xC000_0103, 0, "TSC_AUX"),
    init(0x48, 0, "IA32_SPEC_CTRL"),
    init(0x122, 0, "IA32_TSX_CTRL"),
    init(0xE1, 0, "IA32_UMWAIT_CONTROL"),
    init(0xD90, 0, "IA32_BNDCFGS"),
    init(0xDA0, 0, "IA32_XSS: no supervisor state component enabled"),
    init(0x1C4, 0, "IA32_XFD"),
    init(0x1C5, 0, "IA32_XFD_ERR"),
    init(0x6A0, 0, "IA32_U_CET"),
    init(0x6A2, 0, "IA32_S_CET"),
    init(0x6A4, 0, "IA32_PL0_SSP"),
    init(0x6A5, 0, "IA32_PL1_SSP"),
    init(0x6A6, 0, "IA32_PL2_SSP"),
    init(0x6A7, 0, "IA32_PL3_SSP"),
    init(0x6A8, 0, "IA32_INTERRUPT_SSP_TABLE"),
    init(0x1D9, 0, "IA32_DEBUGCTL"),
    init(0x17A, 0, "IA32_MCG_STATUS: no machine check in progress"),
    init(0x38F, 0, "IA32_PERF_GLOBAL_CTRL: counters stopped"),
    init(0x38D, 0, "IA32_FIXED_CTR_CTRL"),
    init(0x186, 0, "IA32_PERFEVTSEL0"),
    init(0x187, 0, "IA32_PERFEVTSEL1"),
    init(0x188, 0, "IA32_PERFEVTSEL2"),
    init(0x189, 0, "IA32_PERFEVTSEL3"),
    init(0xC001_0117, 0, "VM_HSAVE_PA"),
];

/// The entries of an in-place reset that the host knows, in order. `host` is
/// `KVM_GET_MSR_INDEX_LIST`; MTRRs and the PAT are absent from that list on every kernel, yet
/// always settable, so they are kept.
#[must_use]
pub fn reset(host: &[u32]) -> Vec<kvm_msr_entry> {
    RESET
        .iter()
        .filter(|msr| host.contains(&msr.index) || never_listed(msr.index))
        .map(|msr| kvm_msr_entry {
            index: msr.index,
            data: msr.value,
            ..Default::default()
        })
        .collect()
}

/// The entries a fresh vCPU needs.
#[must_use]
pub fn boot() -> Vec<kvm_msr_entry> {
    BOOT.iter()
        .map(|msr| kvm_msr_entry {
            index: msr.index,
            data: msr.value,
            ..Default::default()
        })
        .collect()
}

/// The registers to save, in the order to restore them in: what the host lists, but for those that
/// are not a guest's state, then MTRRs and PAT, and the TSC deadline last, because it arms a timer
/// whose mode the local APIC and whose clock the TSC must already have set.
#[must_use]
pub fn to_save(host: &[u32]) -> Vec<u32> {
    let mut list: Vec<u32> = host
        .iter()
        .copied()
        .filter(|index| !not_state(*index) && *index != IA32_TSC_DEADLINE)
        .collect();
    list.extend(
        RESET
            .iter()
            .map(|msr| msr.index)
            .filter(|index| never_listed(*index) && !host.contains(index)),
    );
    list.sort_unstable();
    list.dedup();
    if host.contains(&IA32_TSC_DEADLINE) {
        list.push(IA32_TSC_DEADLINE);
    }
    list
}

/// Registers every KVM has but none lists.
fn never_listed(index: u32) -> bool {
    matches!(index, 0x200..=0x20F | 0x250 | 0x258 | 0x259 | 0x268..=0x26F | 0x277 | 0x2FF)
}

/// Listed registers that are not the guest's state: those describing the processor, which follow
/// from the CPUID profile (VMX capabilities, ARCH_CAPABILITIES, PERF_CAPABILITIES, the microcode
/// level, PLATFORM_INFO, AMD's DE_CFG), Hyper-V's, which this machine does not offer, and SMBASE.
fn not_state(index: u32) -> bool {
    matches!(
        index,
        0x480..=0x493 | 0x10A | 0x345 | 0x8B | 0xCE | 0xC001_1029 | 0x9E | 0xCF
            | 0x4000_0000..=0x4000_01FF
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_register_is_initialised_twice_and_each_has_a_reason() {
        for list in [BOOT, RESET] {
            for (position, msr) in list.iter().enumerate() {
                assert!(!msr.reason.is_empty());
                assert!(
                    list.iter()
                        .skip(position + 1)
                        .all(|other| other.index != msr.index)
                );
            }
        }
    }

    #[test]
    fn reset_agrees_with_boot() {
        for msr in BOOT {
            assert!(
                RESET
                    .iter()
                    .any(|r| (r.index, r.value) == (msr.index, msr.value))
            );
        }
    }

    #[test]
    fn reset_keeps_what_the_host_knows_and_stops_shared_pages_first() {
        let entries = reset(&[IA32_TSC, 0x4B56_4D01, 0xC000_0081]);
        let indices: Vec<u32> = entries.iter().map(|entry| entry.index).collect();
        assert_eq!(indices.first(), Some(&0x4B56_4D01));
        assert!(indices.contains(&IA32_TSC) && indices.contains(&0x277));
        assert!(!indices.contains(&0x48));
    }

    #[test]
    fn the_deadline_is_saved_last_and_descriptions_not_at_all() {
        let list = to_save(&[
            IA32_TSC_DEADLINE,
            0x10A,
            0x480,
            IA32_TSC,
            0x4000_0020,
            0x174,
            0x174,
        ]);
        assert_eq!(list.last(), Some(&IA32_TSC_DEADLINE));
        assert_eq!(list.iter().filter(|index| **index == 0x174).count(), 1);
        assert!(list.contains(&IA32_TSC) && list.contains(&0x2FF));
        assert!(!list.contains(&0x10A) && !list.contains(&0x480) && !list.contains(&0x4000_0020));
        assert!(!to_save(&[]).contains(&IA32_TSC_DEADLINE));
    }
}
