//! The state of the boot CPU at its first instruction, as plain data.
//!
//! Pure. The VMM's x86-64 code turns [`BootState`] into KVM's register structures, on the main
//! thread, before the first `KVM_RUN` and on every reset. What is not named here is as after a
//! hardware reset: general registers 0, interrupt table empty, LDT unusable.
//!
//! Sources: Linux's Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"; Xen's docs/misc/pvh,
//! "Description of the x86 boot ABI"; Intel SDM volume 3, 2.5 (control registers) and 3.4.5
//! (segment descriptors).

use crate::layout::{BOOT_STACK, GDT, PML4, PVH_START_INFO, ZERO_PAGE};

/// Protection enable.
const CR0_PE: u64 = 1 << 0;
/// Extension type: always set on CPUs since the 486.
const CR0_ET: u64 = 1 << 4;
/// Paging.
const CR0_PG: u64 = 1 << 31;
/// Physical address extension: 8-byte page table entries.
const CR4_PAE: u64 = 1 << 5;
/// Long mode enabled, long mode active.
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always 1; interrupts are off.
const RFLAGS: u64 = 1 << 1;

/// Descriptor types: code (execute, read, accessed), data (read, write, accessed), busy TSS.
const CODE: u8 = 0xB;
const DATA: u8 = 0x3;
const TASK_BUSY: u8 = 0xB;

/// Selectors of the boot GDT. Linux wants its `__BOOT_CS` and `__BOOT_DS` there.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;
/// Entries of the boot GDT: two empty, code, data, and a task's two (in 64-bit mode).
const GDT_ENTRIES: usize = 6;
/// Limit of a TSS without an I/O map: its 104 bytes, less one.
const TASK_LIMIT: u32 = 0x67;

/// How the kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootProtocol {
    /// 32-bit protected mode, no paging, RBX points to the start information.
    Pvh,
    /// 64-bit mode, RSI points to the zero page.
    Linux64,
}

/// A segment register with its hidden part; the fields are those of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRegister {
    /// Selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Last valid offset, in bytes whatever the granularity.
    pub limit: u32,
    /// Type field, 4 bits.
    pub kind: u8,
    /// Code or data, not a system segment (the S bit).
    pub code_or_data: bool,
    /// The segment is present.
    pub present: bool,
    /// Privilege level.
    pub dpl: u8,
    /// 32-bit code or stack (the D/B bit).
    pub default_32: bool,
    /// 64-bit code (the L bit).
    pub long: bool,
    /// The descriptor's limit counts in 4 KiB (the G bit).
    pub granular: bool,
}

impl SegmentRegister {
    /// A flat segment over all addresses.
    const fn flat(selector: u16, kind: u8, long: bool) -> Self {
        Self {
            selector,
            base: 0,
            limit: u32::MAX,
            kind,
            code_or_data: true,
            present: true,
            dpl: 0,
            default_32: !long,
            long,
            granular: true,
        }
    }

    const fn task() -> Self {
        Self {
            selector: TASK_SELECTOR,
            base: 0,
            limit: TASK_LIMIT,
            kind: TASK_BUSY,
            code_or_data: false,
            present: true,
            dpl: 0,
            default_32: false,
            long: false,
            granular: false,
        }
    }

    /// The descriptor of this segment, as it lies in the GDT; its low 8 bytes if the segment is a
    /// 64-bit task's.
    fn descriptor(&self) -> u64 {
        let limit = u64::from(if self.granular {
            self.limit >> 12
        } else {
            self.limit
        });
        (limit & 0xFFFF)
            | (self.base & 0xFF_FFFF) << 16
            | u64::from(self.kind & 0xF) << 40
            | u64::from(self.code_or_data) << 44
            | u64::from(self.dpl & 0b11) << 45
            | u64::from(self.present) << 47
            | (limit >> 16 & 0xF) << 48
            | u64::from(self.long) << 53
            | u64::from(self.default_32) << 54
            | u64::from(self.granular) << 55
            | (self.base >> 24 & 0xFF) << 56
    }
}

/// A descriptor table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Guest-physical address of the table.
    pub base: u64,
    /// Its length in bytes, less one.
    pub limit: u16,
}

/// The boot CPU's state at its first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootState {
    /// How the kernel is entered; everything below follows from it.
    pub protocol: BootProtocol,
    /// First instruction.
    pub rip: u64,
    /// A stack that does not touch boot data; neither protocol asks for one.
    pub rsp: u64,
    /// PVH: the start information. Else 0.
    pub rbx: u64,
    /// 64-bit protocol: the zero page. Else 0.
    pub rsi: u64,
    /// Flags: interrupts off.
    pub rflags: u64,
    /// Control register 0.
    pub cr0: u64,
    /// Page table root; 0 without paging.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// The EFER register (MSR 0xC000_0080).
    pub efer: u64,
    /// Code segment.
    pub cs: SegmentRegister,
    /// DS, ES, FS, GS and SS alike.
    pub data: SegmentRegister,
    /// Task register.
    pub tr: SegmentRegister,
    /// Where the descriptors of the above are.
    pub gdt: DescriptorTable,
}

impl BootState {
    /// Entry at `rip` by PVH.
    pub(crate) fn pvh(rip: u32) -> Self {
        Self {
            protocol: BootProtocol::Pvh,
            rip: u64::from(rip),
            rsp: BOOT_STACK,
            rbx: PVH_START_INFO,
            rsi: 0,
            rflags: RFLAGS,
            cr0: CR0_PE | CR0_ET,
            cr3: 0,
            cr4: 0,
            efer: 0,
            cs: SegmentRegister::flat(CODE_SELECTOR, CODE, false),
            data: SegmentRegister::flat(DATA_SELECTOR, DATA, false),
            tr: SegmentRegister::task(),
            gdt: BOOT_GDT,
        }
    }

    /// Entry at `rip` by the 64-bit protocol.
    pub(crate) fn linux64(rip: u64) -> Self {
        Self {
            protocol: BootProtocol::Linux64,
            rbx: 0,
            rsi: ZERO_PAGE,
            rip,
            cr0: CR0_PE | CR0_ET | CR0_PG,
            cr3: PML4,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            cs: SegmentRegister::flat(CODE_SELECTOR, CODE, true),
            ..Self::pvh(0)
        }
    }

    /// The GDT that the segments were loaded from, for guests that load them again.
    pub(crate) fn gdt_bytes(&self) -> [u8; GDT_ENTRIES * 8] {
        let entries: [u64; GDT_ENTRIES] = [
            0,
            0,
            self.cs.descriptor(),
            self.data.descriptor(),
            self.tr.descriptor(),
            // The upper half of a 64-bit task's descriptor: the upper half of base 0.
            0,
        ];
        let mut bytes = [0; GDT_ENTRIES * 8];
        for (to, entry) in bytes.chunks_exact_mut(8).zip(entries) {
            to.copy_from_slice(&entry.to_le_bytes());
        }
        bytes
    }
}

const BOOT_GDT: DescriptorTable = DescriptorTable {
    base: GDT,
    limit: GDT_ENTRIES as u16 * 8 - 1,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(state: &BootState) -> Vec<u64> {
        let bytes = state.gdt_bytes();
        bytes
            .chunks_exact(8)
            .map(|b| u64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn descriptors_are_the_well_known_ones() {
        let task = 0x0000_8B00_0000_0067;
        let code32 = 0x00CF_9B00_0000_FFFF;
        let code64 = 0x00AF_9B00_0000_FFFF;
        let data = 0x00CF_9300_0000_FFFF;
        assert_eq!(entries(&BootState::pvh(0)), [0, 0, code32, data, task, 0]);
        assert_eq!(
            entries(&BootState::linux64(0)),
            [0, 0, code64, data, task, 0]
        );
    }

    #[test]
    fn entry_states_are_what_the_protocols_say() {
        let pvh = BootState::pvh(0x100_0000);
        assert_eq!((pvh.rip, pvh.rbx, pvh.rsi), (0x100_0000, 0x6000, 0));
        assert_eq!((pvh.cr0, pvh.cr3, pvh.cr4, pvh.efer), (0x11, 0, 0, 0));
        assert!(pvh.cs.default_32 && !pvh.cs.long);
        let long = BootState::linux64(0x100_0200);
        assert_eq!((long.rip, long.rbx, long.rsi), (0x100_0200, 0, 0x7000));
        assert_eq!(
            (long.cr0, long.cr3, long.cr4, long.efer),
            (0x8000_0011, 0x9000, 0x20, 0x500)
        );
        assert!(!long.cs.default_32 && long.cs.long);
        assert_eq!((long.gdt.base, long.gdt.limit), (0x500, 47));
        assert_eq!((pvh.rflags, long.rflags), (2, 2));
    }
}
