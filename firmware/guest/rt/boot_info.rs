//! What the loader tells: memory map, command line, RSDP; by PVH's start info or by Linux's
//! boot_params.
//!
//! Xen, xen/include/public/arch-x86/hvm/start_info.h; Linux, Documentation/arch/x86/zero-page.rst.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::memory;

static BOOT_DATA: AtomicU64 = AtomicU64::new(0);
static IS_LINUX: AtomicBool = AtomicBool::new(false);

// Fields of hvm_start_info.
const PVH_MODULES: u64 = 12;
const PVH_MODULE_LIST: u64 = 16;
const PVH_COMMAND_LINE: u64 = 24;
const PVH_RSDP: u64 = 32;
const PVH_MAP: u64 = 40;
const PVH_MAP_ENTRIES: u64 = 48;
const PVH_MAP_ENTRY_SIZE: u64 = 24;

// Fields of boot_params.
const LINUX_RSDP: u64 = 0x70;
const LINUX_INITRD: u64 = 0x218;
const LINUX_INITRD_SIZE: u64 = 0x21c;
const LINUX_MAP_ENTRIES: u64 = 0x1e8;
const LINUX_COMMAND_LINE: u64 = 0x228;
const LINUX_MAP: u64 = 0x2d0;
const LINUX_MAP_ENTRY_SIZE: u64 = 20;

/// More than a loader may give: 4096 bytes is the limit of any of them.
const COMMAND_LINE_MAX: usize = 4096;

/// Type of ordinary memory, in both maps.
pub const RAM: u32 = 1;

/// One entry of the memory map.
#[derive(Clone, Copy)]
pub struct MemoryRange {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// E820 type: 1 is RAM, 2 reserved.
    pub kind: u32,
}

pub(crate) fn init(boot_data: u64, protocol: u64) {
    BOOT_DATA.store(boot_data, Relaxed);
    IS_LINUX.store(protocol != 0, Relaxed);
}

fn field<T: memory::Plain>(pvh: u64, linux: u64) -> T {
    let offset = if IS_LINUX.load(Relaxed) { linux } else { pvh };
    memory::read(BOOT_DATA.load(Relaxed) + offset)
}

/// How the loader entered the program.
pub fn protocol() -> &'static str {
    if IS_LINUX.load(Relaxed) {
        "Linux 64-bit protocol"
    } else {
        "PVH"
    }
}

/// The memory map, in the loader's order, without empty entries.
pub fn memory_map() -> impl Iterator<Item = MemoryRange> {
    let data = BOOT_DATA.load(Relaxed);
    let (map, entries, size) = if IS_LINUX.load(Relaxed) {
        let entries = u32::from(memory::read::<u8>(data + LINUX_MAP_ENTRIES));
        (data + LINUX_MAP, entries, LINUX_MAP_ENTRY_SIZE)
    } else {
        (
            memory::read(data + PVH_MAP),
            memory::read(data + PVH_MAP_ENTRIES),
            PVH_MAP_ENTRY_SIZE,
        )
    };
    (0..u64::from(entries))
        .map(move |i| MemoryRange {
            start: memory::read(map + i * size),
            length: memory::read(map + i * size + 8),
            kind: memory::read(map + i * size + 16),
        })
        .filter(|range| range.length != 0)
}

/// Where the loader says the ACPI root pointer is.
pub fn rsdp() -> Option<u64> {
    let address = field(PVH_RSDP, LINUX_RSDP);
    (address != 0).then_some(address)
}

/// Address and length of the initial RAM disk, if there is one. PVH hands it over as its first
/// module.
pub fn initrd() -> Option<(u64, u64)> {
    let data = BOOT_DATA.load(Relaxed);
    let (address, length) = if IS_LINUX.load(Relaxed) {
        let address: u32 = memory::read(data + LINUX_INITRD);
        let length: u32 = memory::read(data + LINUX_INITRD_SIZE);
        (u64::from(address), u64::from(length))
    } else if memory::read::<u32>(data + PVH_MODULES) != 0 {
        let list: u64 = memory::read(data + PVH_MODULE_LIST);
        (memory::read(list), memory::read(list + 8))
    } else {
        (0, 0)
    };
    (length != 0).then_some((address, length))
}

/// The command line; empty if there is none, or if it is not UTF-8.
pub fn command_line() -> &'static str {
    let address = if IS_LINUX.load(Relaxed) {
        u64::from(field::<u32>(0, LINUX_COMMAND_LINE))
    } else {
        field(PVH_COMMAND_LINE, 0)
    };
    if address == 0 {
        return "";
    }
    let length = (0..COMMAND_LINE_MAX as u64)
        .take_while(|i| memory::read::<u8>(address + i) != 0)
        .count();
    // SAFETY: just read to there; nobody writes the loader's data.
    let bytes = unsafe { core::slice::from_raw_parts(address as *const u8, length) };
    core::str::from_utf8(bytes).unwrap_or_default()
}

/// The value of the word `name=value` of the command line.
pub fn option(name: &str) -> Option<&'static str> {
    command_line()
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// The same, as a number.
pub fn number(name: &str) -> Option<u64> {
    option(name)?.parse().ok()
}
