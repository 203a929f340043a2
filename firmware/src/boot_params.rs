//! The zero page: `boot_params` of the Linux boot protocol, for a 64-bit entry.
//!
//! Pure: one page of bytes. Linux's Documentation/arch/x86/zero-page.rst and boot.rst; the
//! structures are linux-loader's, from the kernel's bootparam.h.

use linux_loader::bootparam::{LOADED_HIGH, boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

use crate::layout::{ACPI_START, AddressRange, CMDLINE, MemoryMapEntry};

/// `type_of_loader`: a boot loader without a registered number.
const LOADER_UNDEFINED: u8 = 0xFF;
/// `boot_flag` and `header`, by which a kernel knows that the header was filled in.
const BOOT_FLAG: u16 = 0xAA55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Version told to an ELF kernel, which has no header of its own: the one that names all fields we
/// fill in, as Linux's own PVH entry does.
const PROTOCOL_VERSION: u16 = 0x020C;

// The page is written as a whole, so that no byte of it is left over from before, the sentinel
// (which tells a kernel that a loader did not clear it) among them.
const _: () = assert!(size_of::<boot_params>() == 4096);
const _: () = assert!(core::mem::offset_of!(boot_params, acpi_rsdp_addr) == 0x70);
const _: () = assert!(core::mem::offset_of!(boot_params, e820_entries) == 0x1E8);
const _: () = assert!(core::mem::offset_of!(boot_params, sentinel) == 0x1EF);
const _: () = assert!(core::mem::offset_of!(boot_params, hdr) == crate::bzimage::SETUP_HEADER);
const _: () = assert!(core::mem::offset_of!(boot_params, e820_table) == 0x2D0);

/// The bytes to be written at `layout::ZERO_PAGE`. `header` is the kernel's own, if it has one.
pub(crate) fn zero_page(
    header: Option<&setup_header>,
    initrd: Option<AddressRange>,
    map: &[MemoryMapEntry],
) -> Vec<u8> {
    let mut params = boot_params {
        hdr: setup(header),
        ..Default::default()
    };
    params.acpi_rsdp_addr = ACPI_START;
    if let Some(AddressRange { start, len }) = initrd {
        (params.hdr.ramdisk_image, params.ext_ramdisk_image) = halves(start);
        (params.hdr.ramdisk_size, params.ext_ramdisk_size) = halves(len);
    }
    (params.hdr.cmd_line_ptr, params.ext_cmd_line_ptr) = halves(CMDLINE);
    let mut table = params.e820_table;
    let mut entries = 0;
    for (slot, MemoryMapEntry { range, kind }) in table.iter_mut().zip(map) {
        *slot = boot_e820_entry {
            addr: range.start,
            size: range.len,
            r#type: *kind as u32,
        };
        entries += 1;
    }
    params.e820_table = table;
    params.e820_entries = entries;
    params.as_slice().to_vec()
}

/// The header that goes back to the kernel: its own, with what a boot loader fills in.
fn setup(header: Option<&setup_header>) -> setup_header {
    let mut setup = header.copied().unwrap_or(setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: PROTOCOL_VERSION,
        loadflags: LOADED_HIGH,
        ..Default::default()
    });
    setup.type_of_loader = LOADER_UNDEFINED;
    setup.ext_loader_type = 0;
    setup.ext_loader_ver = 0;
    setup.setup_data = 0;
    setup.ramdisk_image = 0;
    setup.ramdisk_size = 0;
    setup
}

/// Low and high 32 bits: the high ones are in fields of their own.
fn halves(value: u64) -> (u32, u32) {
    ((value & 0xFFFF_FFFF) as u32, (value >> 32) as u32)
}
