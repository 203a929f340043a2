//! PVH start information: `hvm_start_info` version 1, the initrd as its module, the memory map.
//!
//! Pure: one page of bytes. Xen's public/arch-x86/hvm/start_info.h; the structures are
//! linux-loader's.

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::ByteValued;

use crate::layout::{ACPI_START, AddressRange, CMDLINE, MemoryMapEntry, PVH_START_INFO};

/// "xEn3" with the high bit of the E set.
const MAGIC: u32 = 0x336E_C578;
/// The first version with a memory map.
const VERSION: u32 = 1;
/// Offsets in the page: of the module list and of the memory map.
const MODULES: u64 = 0x40;
const MEMORY_MAP: u64 = 0x80;

const _: () = assert!(size_of::<hvm_start_info>() as u64 <= MODULES);
const _: () = assert!(MODULES + size_of::<hvm_modlist_entry>() as u64 <= MEMORY_MAP);

/// The bytes to be written at [`PVH_START_INFO`].
pub(crate) fn start_info(initrd: Option<AddressRange>, map: &[MemoryMapEntry]) -> Vec<u8> {
    let info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        flags: 0,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: if initrd.is_some() {
            PVH_START_INFO + MODULES
        } else {
            0
        },
        cmdline_paddr: CMDLINE,
        rsdp_paddr: ACPI_START,
        memmap_paddr: PVH_START_INFO + MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or(u32::MAX),
        reserved: 0,
    };
    let mut page = info.as_slice().to_vec();
    if let Some(AddressRange { start, len }) = initrd {
        pad(&mut page, MODULES);
        let module = hvm_modlist_entry {
            paddr: start,
            size: len,
            cmdline_paddr: 0,
            reserved: 0,
        };
        page.extend_from_slice(module.as_slice());
    }
    pad(&mut page, MEMORY_MAP);
    for MemoryMapEntry { range, kind } in map {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.len,
            type_: *kind as u32,
            reserved: 0,
        };
        page.extend_from_slice(entry.as_slice());
    }
    page
}

fn pad(page: &mut Vec<u8>, offset: u64) {
    if let Ok(offset) = usize::try_from(offset) {
        page.resize(offset, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{MIN_RAM, memory_map};

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn long(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn fields_are_where_the_header_file_says() {
        let map = memory_map(MIN_RAM);
        let page = start_info(
            Some(AddressRange {
                start: 0xF0_0000,
                len: 0x1234,
            }),
            &map,
        );
        assert_eq!(
            (word(&page, 0), word(&page, 4), word(&page, 12)),
            (0x336E_C578, 1, 1)
        );
        assert_eq!(
            [
                long(&page, 16),
                long(&page, 24),
                long(&page, 32),
                long(&page, 40)
            ],
            [0x6040, 0x2_0000, 0xE_0000, 0x6080]
        );
        assert_eq!(word(&page, 48), 4);
        assert_eq!((long(&page, 0x40), long(&page, 0x48)), (0xF0_0000, 0x1234));
        let last = 0x80 + 3 * 24;
        assert_eq!(
            (long(&page, last), long(&page, last + 8)),
            (0x10_0000, 0xF0_0000)
        );
        assert_eq!((word(&page, last + 16), page.len()), (1, last + 24));
    }

    #[test]
    fn no_initrd_is_no_module() {
        let page = start_info(None, &[]);
        assert_eq!((word(&page, 12), long(&page, 16)), (0, 0));
    }
}
