//! The notes of a dump: per vCPU, `NT_PRSTATUS` and QEMU's CPU state.
//!
//! Pure. `NT_PRSTATUS` is Linux's `struct elf_prstatus` for x86-64 (include/uapi/linux/elfcore.h,
//! arch/x86/include/asm/user_64.h). The note named "QEMU" has QEMU's `QEMUCPUState`, version 1, 440
//! bytes, as its dumps hold it; `crash` reads CR3 and the descriptor tables from it to find where
//! the kernel lies. All numbers little-endian.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

/// `NT_PRSTATUS`.
const NT_PRSTATUS: u32 = 1;
/// Bytes of `struct elf_prstatus` on x86-64.
const PRSTATUS_BYTES: usize = 336;
/// Where its `pr_pid` is.
const PRSTATUS_PID: usize = 32;
/// Where its registers are.
const PRSTATUS_REGS: usize = 112;
/// QEMU's `QEMUCPUSTATE_VERSION`.
const CPUSTATE_VERSION: u32 = 1;
/// Bytes of `QEMUCPUState`.
const CPUSTATE_BYTES: usize = 440;
/// "No system call" in `orig_rax`.
const NO_SYSCALL: u64 = 0;

/// The registers of one vCPU that a dump holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct VcpuRegisters {
    /// From `KVM_GET_REGS`.
    pub regs: kvm_regs,
    /// From `KVM_GET_SREGS`.
    pub sregs: kvm_sregs,
    /// MSR 0xC000_0102; 0 where it was not read.
    pub kernel_gs_base: u64,
}

/// All notes: every vCPU's status, then every vCPU's QEMU state, as `crash` expects them.
pub(super) fn notes(vcpus: &[VcpuRegisters]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (pid, vcpu) in (1u32..).zip(vcpus) {
        note(&mut bytes, b"CORE\0", NT_PRSTATUS, &prstatus(pid, vcpu));
    }
    for vcpu in vcpus {
        note(&mut bytes, b"QEMU\0", 0, &cpu_state(vcpu));
    }
    bytes
}

/// Appends one ELF note; name and description are padded to four bytes. Both lengths are small
/// constants.
fn note(bytes: &mut Vec<u8>, name: &[u8], kind: u32, description: &[u8]) {
    for length in [name.len(), description.len()] {
        bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    }
    bytes.extend(kind.to_le_bytes());
    for part in [name, description] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
}

/// `struct elf_prstatus`: signals and times are zero, the process id is the vCPU's number from 1.
fn prstatus(pid: u32, vcpu: &VcpuRegisters) -> Vec<u8> {
    let VcpuRegisters { regs, sregs, .. } = vcpu;
    let selector = |segment: &kvm_segment| u64::from(segment.selector);
    // The order of `struct user_regs_struct`.
    let words = [
        regs.r15,
        regs.r14,
        regs.r13,
        regs.r12,
        regs.rbp,
        regs.rbx,
        regs.r11,
        regs.r10,
        regs.r9,
        regs.r8,
        regs.rax,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        NO_SYSCALL,
        regs.rip,
        selector(&sregs.cs),
        regs.rflags,
        regs.rsp,
        selector(&sregs.ss),
        sregs.fs.base,
        sregs.gs.base,
        selector(&sregs.ds),
        selector(&sregs.es),
        selector(&sregs.fs),
        selector(&sregs.gs),
    ];
    let mut bytes = vec![0; PRSTATUS_PID];
    bytes.extend(pid.to_le_bytes());
    bytes.resize(PRSTATUS_REGS, 0);
    words
        .iter()
        .for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes.resize(PRSTATUS_BYTES, 0);
    bytes
}

/// `QEMUCPUState`: version, size, general registers, ten segments, CR0 to CR4, kernel GS base.
fn cpu_state(vcpu: &VcpuRegisters) -> Vec<u8> {
    let VcpuRegisters {
        regs,
        sregs,
        kernel_gs_base,
    } = vcpu;
    let size = u32::try_from(CPUSTATE_BYTES).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(CPUSTATE_BYTES);
    bytes.extend(CPUSTATE_VERSION.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    #[rustfmt::skip]
    let general = [
        regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rsp, regs.rbp, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15, regs.rip, regs.rflags,
    ];
    general
        .iter()
        .for_each(|word| bytes.extend(word.to_le_bytes()));
    for segment in [
        &sregs.cs, &sregs.ds, &sregs.es, &sregs.fs, &sregs.gs, &sregs.ss, &sregs.ldt, &sregs.tr,
    ] {
        let flags = segment_flags(segment);
        push_segment(
            &mut bytes,
            segment.selector,
            segment.limit,
            flags,
            segment.base,
        );
    }
    for kvm_dtable { base, limit, .. } in [sregs.gdt, sregs.idt] {
        push_segment(&mut bytes, 0, u32::from(limit), 0, base);
    }
    // CR1 does not exist; its place is zero.
    for word in [
        sregs.cr0,
        0,
        sregs.cr2,
        sregs.cr3,
        sregs.cr4,
        *kernel_gs_base,
    ] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

fn push_segment(bytes: &mut Vec<u8>, selector: u16, limit: u32, flags: u32, base: u64) {
    for word in [u32::from(selector), limit, flags, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(base.to_le_bytes());
}

/// The attributes as the second word of a descriptor holds them (Intel SDM volume 3A figure 3-8),
/// base and limit bits left out. A segment that is not usable has none.
fn segment_flags(segment: &kvm_segment) -> u32 {
    if segment.unusable != 0 {
        return 0;
    }
    let bit = |value: u8, shift: u32| u32::from(value & 1) << shift;
    (u32::from(segment.type_ & 0xF) << 8)
        | bit(segment.s, 12)
        | (u32::from(segment.dpl & 3) << 13)
        | bit(segment.present, 15)
        | bit(segment.avl, 20)
        | bit(segment.l, 21)
        | bit(segment.db, 22)
        | bit(segment.g, 23)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::x86_64::regs;

    /// The first words of the note as QEMU writes it for a vCPU at power-on, seen in its own dump.
    #[test]
    fn a_vcpu_at_power_on_is_as_qemu_writes_it() {
        let vcpu = VcpuRegisters {
            regs: regs::reset_regs(0x60FB1),
            sregs: regs::reset_sregs(true),
            kernel_gs_base: 0x1122,
        };
        let state = cpu_state(&vcpu);
        assert_eq!(state.len(), CPUSTATE_BYTES);
        assert_eq!(state[..8], [1, 0, 0, 0, 0xB8, 1, 0, 0]);
        assert_eq!(state[32..36], [0xB1, 0x0F, 6, 0]);
        assert_eq!(state[136..144], [0xF0, 0xFF, 0, 0, 0, 0, 0, 0]);
        let cs = [
            0, 0xF0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0x9B, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0,
            0,
        ];
        assert_eq!(state[152..176], cs);
        let ds = [0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0x93, 0, 0];
        assert_eq!(state[176..188], ds);
        assert_eq!(state[296 + 8..296 + 12], [0, 0x82, 0, 0], "LDT");
        assert_eq!(state[320 + 8..320 + 12], [0, 0x8B, 0, 0], "TR");
        assert_eq!(state[392..396], [0x10, 0, 0, 0x60], "CR0");
        assert_eq!(state[432..], [0x22, 0x11, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn status_has_linux_layout() {
        let mut vcpu = VcpuRegisters::default();
        vcpu.regs.r15 = 0x15;
        vcpu.regs.rip = 0x1717;
        vcpu.sregs.gs.selector = 0x2B;
        let status = prstatus(3, &vcpu);
        assert_eq!(status.len(), PRSTATUS_BYTES);
        assert_eq!(status[32], 3);
        assert_eq!(status[112], 0x15);
        assert_eq!(status[112 + 16 * 8..112 + 16 * 8 + 2], [0x17, 0x17]);
        assert_eq!(status[112 + 26 * 8], 0x2B);
    }
}
