//! The address map of the machine `thimble-1`: every guest-visible address, in one place.
//!
//! Pure: numbers and functions of the RAM size. Read by the loader here, and by the VMM when it
//! places memory slots, devices and interrupt lines.
//!
//! This is a contract with guests and with saved states: a number here never changes under
//! `thimble-1`; a different one belongs to a new machine version.

/// One kibibyte, mebibyte and gibibyte, in bytes.
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Smallest RAM a guest can have. A kernel loads at 1 MiB at the earliest, and the smallest Linux
/// configurations reach user space in about 12 MiB.
pub const MIN_RAM: u64 = 16 * MIB;

/// RAM below this address is contiguous from 0; the quarter above it up to 4 GiB belongs to
/// devices.
pub const LOW_RAM_MAX: u64 = 3 * GIB;

/// RAM that does not fit below [`LOW_RAM_MAX`] continues here.
pub const HIGH_RAM_START: u64 = 4 * GIB;

/// End of the first usable piece of RAM. The KiB above it is where a PC keeps its extended BIOS
/// data area; kernels expect it not to be theirs.
pub const EBDA_START: u64 = 0x9_FC00;

/// Start of the PC's video memory window, which ends the conventional memory. The window is RAM
/// here, but no memory map names it.
pub const VIDEO_START: u64 = 0xA_0000;

/// ACPI tables, the RSDP first. A kernel that is not told finds the RSDP by scanning 0xE0000 to
/// 0xFFFFF in steps of 16 bytes (ACPI 6.5, 5.2.5.1).
pub const ACPI_START: u64 = 0xE_0000;

/// First address the ACPI tables may not use: [`VM_GENERATION_ID`].
pub const ACPI_END: u64 = VM_GENERATION_ID;

/// The 16 bytes of the VM generation ID. Alone in its page, so that it is never in memory that
/// the guest uses as RAM.
pub const VM_GENERATION_ID: u64 = 0xF_F000;

/// F000:FFF0, where a CPU of a PC starts: a guest that jumps here wants a reset. In the page of the
/// VM generation ID, at its end.
pub const RESET_VECTOR: u64 = 0xF_FFF0;

/// Kernels are loaded at or above this address; everything the loader itself writes lies below it,
/// so the two cannot overlap.
pub const KERNEL_MIN: u64 = MIB;

/// Descriptor table that the first instruction runs with.
pub const GDT: u64 = 0x500;

/// PVH start information, its module list and memory map: one page.
pub const PVH_START_INFO: u64 = 0x6000;

/// `boot_params`, the "zero page" of the Linux boot protocol: one page.
pub const ZERO_PAGE: u64 = 0x7000;

/// Stack pointer at a 64-bit entry: the page below the page tables, growing down. The boot protocol
/// does not ask for a stack; a guest that pushes before it sets its own must not hit boot data.
pub const BOOT_STACK: u64 = 0x8FF0;

/// Page tables of a 64-bit entry: one PML4 page, one PDPT page, four page directories.
pub const PML4: u64 = 0x9000;
/// See [`PML4`].
pub const PDPT: u64 = 0xA000;
/// See [`PML4`]; the first of [`PAGE_DIRECTORY_COUNT`] consecutive pages.
pub const PAGE_DIRECTORY: u64 = 0xB000;
/// Page directories, each mapping 1 GiB.
pub const PAGE_DIRECTORY_COUNT: u64 = 4;

/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;

/// Longest command line, with its terminating NUL: `COMMAND_LINE_SIZE` of Linux on x86
/// (arch/x86/include/asm/setup.h).
pub const CMDLINE_MAX: usize = 2048;

/// First I/O port, and number of ports, of the first serial port (16550A).
pub const COM1_PORT: u16 = 0x3F8;
/// See [`COM1_PORT`].
pub const COM1_PORTS: u8 = 8;
/// Interrupt line of the first serial port.
pub const COM1_GSI: u32 = 4;

/// Index and data port of the CMOS clock.
pub const RTC_PORT: u16 = 0x70;
/// See [`RTC_PORT`].
pub const RTC_PORTS: u8 = 2;

/// First port of the i8042, which exists for its reset line only and is in no table.
pub const I8042_PORT: u16 = 0x60;
/// Ports 0x60 to 0x64.
pub const I8042_PORTS: u8 = 5;
/// Command port of the i8042, and the command that resets the machine: a pulse on output line 0.
pub const I8042_COMMAND_PORT: u8 = 0x64;
/// See [`I8042_COMMAND_PORT`].
pub const I8042_RESET: u8 = 0xFE;

/// Port of the pvpanic device (QEMU's docs/specs/pvpanic).
pub const PVPANIC_PORT: u16 = 0x505;
/// See [`PVPANIC_PORT`].
pub const PVPANIC_PORTS: u8 = 1;

/// The power block: event selector, sleep and reset registers.
pub const POWER_BASE: u64 = 0xC000_0000;
/// Length of the power block.
pub const POWER_LEN: u64 = 4 * KIB;
/// Event selector of the generic event device, 32 bits: which events are pending.
pub const POWER_EVENT_SELECTOR: u64 = POWER_BASE;
/// Sleep control register, 8 bits (ACPI 6.5, 4.8.3.7).
pub const POWER_SLEEP_CONTROL: u64 = POWER_BASE + 0x10;
/// Sleep status register, 8 bits.
pub const POWER_SLEEP_STATUS: u64 = POWER_BASE + 0x14;
/// Reset register, 8 bits (ACPI 6.5, 4.8.3.6).
pub const POWER_RESET: u64 = POWER_BASE + 0x18;
/// Value that resets the machine when written to [`POWER_RESET`].
pub const POWER_RESET_VALUE: u8 = 0x42;
/// SLP_TYP of the S5 (soft off) state, as the `\_S5` package says it.
pub const SLEEP_TYPE_S5: u8 = 5;
/// Bit of [`POWER_EVENT_SELECTOR`]: the power button was pressed.
pub const EVENT_POWER_BUTTON: u32 = 1 << 0;
/// Bit of [`POWER_EVENT_SELECTOR`]: the VM generation ID changed.
pub const EVENT_VM_GENERATION: u32 = 1 << 1;
/// Interrupt line of the generic event device.
pub const GED_GSI: u32 = 9;

/// First virtio-mmio window; slot n is n pages further.
pub const VIRTIO_MMIO_BASE: u64 = 0xC000_1000;
/// Length of one virtio-mmio window.
pub const VIRTIO_MMIO_LEN: u64 = 4 * KIB;
/// Interrupt lines of the virtio-mmio slots: what the 24 pins of one I/O APIC leave after the
/// timer (0, 2), keyboard (1), serial ports (3, 4), clock (8) and event device (9).
const VIRTIO_MMIO_GSI: [u32; 17] = [
    5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
];
/// Number of virtio-mmio slots.
pub const VIRTIO_MMIO_SLOTS: usize = VIRTIO_MMIO_GSI.len();

/// The I/O APIC, its ID and first interrupt line: KVM's in-kernel chip.
pub const IO_APIC: u32 = 0xFEC0_0000;
/// See [`IO_APIC`].
pub const IO_APIC_ID: u8 = 0;
/// The local APIC of every CPU.
pub const LOCAL_APIC: u32 = 0xFEE0_0000;

// Boot data must stay in its order and below what follows it.
const _: () = {
    assert!(GDT + 0x100 <= PVH_START_INFO);
    assert!(PVH_START_INFO + 4 * KIB <= ZERO_PAGE);
    assert!(ZERO_PAGE + 4 * KIB <= BOOT_STACK && BOOT_STACK <= PML4);
    assert!(PML4 + 4 * KIB <= PDPT && PDPT + 4 * KIB <= PAGE_DIRECTORY);
    assert!(PAGE_DIRECTORY + PAGE_DIRECTORY_COUNT * 4 * KIB <= CMDLINE);
    assert!(CMDLINE + CMDLINE_MAX as u64 <= EBDA_START);
    assert!(ACPI_START < ACPI_END && VM_GENERATION_ID + 16 <= RESET_VECTOR);
    assert!(VIRTIO_MMIO_BASE == POWER_BASE + POWER_LEN && LOW_RAM_MAX == POWER_BASE);
};

/// A piece of guest-physical address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// First address.
    pub start: u64,
    /// Length in bytes; not 0.
    pub len: u64,
}

impl AddressRange {
    /// One past the last address; `None` past the end of the address space.
    pub fn end(self) -> Option<u64> {
        self.start.checked_add(self.len)
    }
}

/// What the guest may do with a piece of the memory map. The numbers are those of both the e820
/// and the PVH memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// Usable memory.
    Ram = 1,
    /// Keep off.
    Reserved = 2,
}

/// One entry of the memory map told to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryMapEntry {
    /// Where.
    pub range: AddressRange,
    /// What for.
    pub kind: MemoryKind,
}

/// The RAM regions of a guest with `size` bytes of RAM, in ascending order: one, or two split at
/// the device hole below 4 GiB. Empty for size 0.
pub fn ram_regions(size: u64) -> Vec<AddressRange> {
    let low = size.min(LOW_RAM_MAX);
    let parts = [
        AddressRange { start: 0, len: low },
        AddressRange {
            start: HIGH_RAM_START,
            len: size - low,
        },
    ];
    parts.into_iter().filter(|part| part.len > 0).collect()
}

/// The memory map of a guest with `size` bytes of RAM, in ascending order, as e820 and PVH tell it.
/// `size` is at least [`MIN_RAM`].
pub fn memory_map(size: u64) -> Vec<MemoryMapEntry> {
    let entry = |start: u64, end: u64, kind| MemoryMapEntry {
        range: AddressRange {
            start,
            len: end.saturating_sub(start),
        },
        kind,
    };
    let low_end = size.min(LOW_RAM_MAX);
    let high_end = HIGH_RAM_START.saturating_add(size - low_end);
    let mut map = vec![
        entry(0, EBDA_START, MemoryKind::Ram),
        entry(EBDA_START, VIDEO_START, MemoryKind::Reserved),
        entry(ACPI_START, KERNEL_MIN, MemoryKind::Reserved),
        entry(KERNEL_MIN, low_end, MemoryKind::Ram),
        entry(HIGH_RAM_START, high_end, MemoryKind::Ram),
    ];
    map.retain(|entry| entry.range.len > 0);
    map
}

/// A virtio-mmio slot: where its registers are and which line it pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioMmioSlot {
    /// Number of the slot, from 0; also its ACPI `_UID`.
    pub slot: u8,
    /// First address of its [`VIRTIO_MMIO_LEN`] bytes of registers.
    pub address: u32,
    /// Its interrupt line.
    pub gsi: u32,
}

/// The slot with this number; `None` from [`VIRTIO_MMIO_SLOTS`] on.
pub fn virtio_mmio_slot(slot: u8) -> Option<VirtioMmioSlot> {
    let gsi = *VIRTIO_MMIO_GSI.get(usize::from(slot))?;
    let address = u32::try_from(VIRTIO_MMIO_BASE + u64::from(slot) * VIRTIO_MMIO_LEN).ok()?;
    Some(VirtioMmioSlot { slot, address, gsi })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_region_below_the_hole_two_above() {
        assert_eq!(ram_regions(0), []);
        assert_eq!(
            ram_regions(MIN_RAM),
            [AddressRange {
                start: 0,
                len: MIN_RAM
            }]
        );
        assert_eq!(
            ram_regions(LOW_RAM_MAX),
            [AddressRange {
                start: 0,
                len: LOW_RAM_MAX
            }]
        );
        assert_eq!(
            ram_regions(LOW_RAM_MAX + 4096),
            [
                AddressRange {
                    start: 0,
                    len: LOW_RAM_MAX
                },
                AddressRange {
                    start: HIGH_RAM_START,
                    len: 4096
                },
            ]
        );
    }

    #[test]
    fn memory_map_of_a_small_and_a_large_guest() {
        let plain = |size| -> Vec<_> {
            memory_map(size)
                .iter()
                .map(|e| (e.range.start, e.range.start + e.range.len, e.kind))
                .collect()
        };
        use MemoryKind::{Ram, Reserved};
        let first = [
            (0, 0x9_FC00, Ram),
            (0x9_FC00, 0xA_0000, Reserved),
            (0xE_0000, 0x10_0000, Reserved),
        ];
        let mut small = first.to_vec();
        small.push((0x10_0000, 0x800_0000, Ram));
        assert_eq!(plain(128 * MIB), small);
        let mut large = first.to_vec();
        large.extend([
            (0x10_0000, 0xC000_0000, Ram),
            (0x1_0000_0000, 0x1_4000_0000, Ram),
        ]);
        assert_eq!(plain(4 * GIB), large);
    }

    #[test]
    fn slots_are_pages_with_lines_of_their_own() {
        let slots: Vec<_> = (0..=u8::MAX).map_while(virtio_mmio_slot).collect();
        assert_eq!(slots.len(), VIRTIO_MMIO_SLOTS);
        assert_eq!(
            slots[0],
            VirtioMmioSlot {
                slot: 0,
                address: 0xC000_1000,
                gsi: 5
            }
        );
        assert_eq!(
            slots[16],
            VirtioMmioSlot {
                slot: 16,
                address: 0xC001_1000,
                gsi: 23
            }
        );
        let mut lines: Vec<_> = slots
            .iter()
            .map(|s| s.gsi)
            .chain([COM1_GSI, GED_GSI])
            .collect();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), VIRTIO_MMIO_SLOTS + 2);
        assert!(lines.iter().all(|line| *line < 24));
    }

    proptest! {
        #[test]
        fn map_and_regions_agree(pages in (MIN_RAM >> 12)..(1_u64 << 34)) {
            let size = pages << 12;
            let regions = ram_regions(size);
            prop_assert_eq!(regions.iter().map(|r| r.len).sum::<u64>(), size);
            let map = memory_map(size);
            for pair in map.windows(2) {
                let end = pair[0].range.start + pair[0].range.len;
                prop_assert!(end <= pair[1].range.start);
            }
            for entry in map {
                let inside = regions.iter().any(|r| {
                    r.start <= entry.range.start
                        && entry.range.start + entry.range.len <= r.start + r.len
                });
                prop_assert!(inside);
            }
        }
    }
}
