//! The page tables a 64-bit entry runs on: the first 4 GiB mapped to themselves by 2 MiB pages.
//!
//! The boot protocol asks for the kernel, the zero page and the command line. Mapping all that is
//! below 4 GiB costs three pages more than mapping 1 GiB, and also covers the initrd, the ACPI
//! tables and every device, wherever a kernel looks early. 1 GiB pages would be fewer, but not every
//! CPU has them. Intel SDM volume 3, 4.5.

use crate::layout::{PAGE_DIRECTORY, PAGE_DIRECTORY_COUNT, PDPT};

/// Entries of a table.
const ENTRIES: u64 = 512;
/// Bytes of a table.
const TABLE: u64 = 4096;
/// Bits of an entry: present and writable; and "maps a page" in a directory.
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
/// Bytes that a directory's entry maps.
const LARGE_PAGE_LEN: u64 = 2 << 20;

/// The used beginning of the PML4: one entry, for 512 GiB.
pub(crate) fn pml4() -> Vec<u8> {
    table([PDPT | PRESENT_WRITABLE])
}

/// The used beginning of the PDPT: an entry for each GiB.
pub(crate) fn pdpt() -> Vec<u8> {
    table((0..PAGE_DIRECTORY_COUNT).map(|n| (PAGE_DIRECTORY + n * TABLE) | PRESENT_WRITABLE))
}

/// The page directories, one after the other.
pub(crate) fn page_directories() -> Vec<u8> {
    table(
        (0..PAGE_DIRECTORY_COUNT * ENTRIES)
            .map(|n| (n * LARGE_PAGE_LEN) | LARGE_PAGE | PRESENT_WRITABLE),
    )
}

fn table(entries: impl IntoIterator<Item = u64>) -> Vec<u8> {
    entries.into_iter().flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::PML4;

    /// Walks the tables as the CPU does.
    fn translate(address: u64) -> Option<u64> {
        let tables = [
            (PML4, pml4()),
            (PDPT, pdpt()),
            (PAGE_DIRECTORY, page_directories()),
        ];
        let mut table = PML4;
        for shift in [39, 30, 21] {
            let at = table + ((address >> shift) & 0x1FF) * 8;
            let (start, bytes) = tables.iter().rev().find(|(start, _)| *start <= at).unwrap();
            let offset = usize::try_from(at - start).unwrap();
            let entry = bytes.get(offset..offset + 8)?;
            let entry = u64::from_le_bytes(entry.try_into().unwrap());
            assert_eq!(entry & 0b11, 0b11);
            if entry & LARGE_PAGE != 0 {
                return Some((entry & !(LARGE_PAGE_LEN - 1)) | (address & (LARGE_PAGE_LEN - 1)));
            }
            table = entry & !0xFFF;
        }
        None
    }

    #[test]
    fn the_first_four_gib_map_to_themselves() {
        for address in [
            0,
            0x7123,
            0x1F_FFFF,
            0x20_0000,
            0x3FFF_FFFF,
            0x4000_0000,
            0xFFFF_FFFF,
        ] {
            assert_eq!(translate(address), Some(address), "{address:#x}");
        }
        assert_eq!(translate(0x1_0000_0000), None);
        assert_eq!(page_directories().len(), 4 * 4096);
    }
}
