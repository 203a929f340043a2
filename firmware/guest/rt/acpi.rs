//! The few ACPI tables a guest program reads: which processors there are, and how to power off.
//! ACPI 6.5, sections 5.2.5 to 5.2.12.

use crate::{boot_info, memory};

const RSDP_REVISION: u64 = 15;
const RSDP_RSDT: u64 = 16;
const RSDP_XSDT: u64 = 24;
const TABLE_LENGTH: u64 = 4;
const TABLE_HEADER: u64 = 36;
const MADT_ENTRIES: u64 = 44;
const MADT_LOCAL_APIC: u8 = 0;
const MADT_LOCAL_X2APIC: u8 = 9;
/// Enabled, or able to be.
const MADT_USABLE: u32 = 0b11;

/// A Generic Address Structure: a register in memory (space 0) or at a port (space 1).
#[derive(Clone, Copy)]
pub struct Register {
    /// Address space.
    pub space: u8,
    /// Address in it.
    pub address: u64,
}

/// Finds a table by its signature.
pub fn find(signature: &[u8; 4]) -> Option<u64> {
    let rsdp = boot_info::rsdp()?;
    let (root, width) = if memory::read::<u8>(rsdp + RSDP_REVISION) >= 2 {
        (memory::read::<u64>(rsdp + RSDP_XSDT), 8)
    } else {
        (u64::from(memory::read::<u32>(rsdp + RSDP_RSDT)), 4)
    };
    (TABLE_HEADER..length(root))
        .step_by(width)
        .map(|offset| match width {
            8 => memory::read::<u64>(root + offset),
            _ => u64::from(memory::read::<u32>(root + offset)),
        })
        .find(|&table| &memory::read::<[u8; 4]>(table) == signature)
}

/// Bytes of a table.
pub fn length(table: u64) -> u64 {
    u64::from(memory::read::<u32>(table + TABLE_LENGTH))
}

/// Whether the bytes of a table add up to 0, as they must.
pub fn sum_is_zero(table: u64) -> bool {
    (0..length(table)).fold(0u8, |sum, i| sum.wrapping_add(memory::read(table + i))) == 0
}

/// The local APIC ids of the usable processors (MADT).
pub fn processors() -> impl Iterator<Item = u32> {
    let (mut at, end) = match find(b"APIC") {
        Some(madt) => (madt + MADT_ENTRIES, madt + length(madt)),
        None => (0, 0),
    };
    core::iter::from_fn(move || {
        while at + 2 <= end {
            let entry = at;
            let [kind, size] = memory::read::<[u8; 2]>(entry);
            at += u64::from(size.max(2));
            let (id, flags) = match kind {
                MADT_LOCAL_APIC => (u32::from(memory::read::<u8>(entry + 3)), entry + 4),
                MADT_LOCAL_X2APIC => (memory::read(entry + 4), entry + 8),
                _ => continue,
            };
            if memory::read::<u32>(flags) & MADT_USABLE != 0 {
                return Some(id);
            }
        }
        None
    })
}

/// The FADT's sleep control register, of hardware-reduced machines.
pub fn sleep_control() -> Option<Register> {
    fadt_register(244)
}

/// The FADT's reset register and the value to write to it.
pub fn reset_register() -> Option<(Register, u8)> {
    Some((fadt_register(116)?, memory::read(find(b"FACP")? + 128)))
}

fn fadt_register(offset: u64) -> Option<Register> {
    let fadt = find(b"FACP")?;
    if length(fadt) < offset + 12 {
        return None;
    }
    let space = memory::read(fadt + offset);
    let address = memory::read(fadt + offset + 4);
    (address != 0).then_some(Register { space, address })
}
