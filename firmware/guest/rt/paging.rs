//! More of the identity map: boot.s maps the first GiB and the MMIO window, this the rest on
//! demand, a GiB at a time in 2 MiB pages.

use crate::memory::Region;

const GIB: u64 = 1 << 30;
const PAGE_2M: u64 = 2 << 20;
const ENTRIES: u64 = 512;
/// Bytes one PML4 entry maps.
const PDPT_SPAN: u64 = GIB * ENTRIES;

/// Present, writable, user.
const TABLE: u64 = 0x7;
/// The same, and a page rather than a table.
const LARGE_PAGE: u64 = 0x87;

unsafe extern "C" {
    static mut rt_pml4: [u64; ENTRIES as usize];
}

/// Makes `length` bytes from `address` accessible. Memory already mapped stays as it is.
pub fn map(address: u64, length: u64) {
    let first = address / GIB;
    let last = (address + length.max(1) - 1) / GIB;
    for gib in first..=last {
        if gib != 0 && gib != 3 {
            map_gib(gib * GIB);
        }
    }
}

fn map_gib(address: u64) {
    let pml4 = (&raw mut rt_pml4).addr() as u64;
    let pdpt = table_under(pml4, address / PDPT_SPAN);
    let entry = entry_address(pdpt, address / GIB % ENTRIES);
    if read(entry) != 0 {
        return;
    }
    // Filled before it is linked: stores to a live table cost an exit each where the hypervisor
    // shadows the tables. Nothing has to be flushed, as absence is not cached.
    let pages = Region::allocate(ENTRIES * 8);
    for i in 0..ENTRIES {
        pages.write64(i * 8, (address + i * PAGE_2M) | LARGE_PAGE);
    }
    write(entry, pages.address() | TABLE);
}

fn table_under(table: u64, index: u64) -> u64 {
    let entry = entry_address(table, index);
    if read(entry) == 0 {
        write(entry, Region::allocate(ENTRIES * 8).address() | TABLE);
    }
    read(entry) & !0xfff
}

fn entry_address(table: u64, index: u64) -> *mut u64 {
    (table as *mut u64).wrapping_add(index as usize)
}

fn read(entry: *mut u64) -> u64 {
    // SAFETY: an entry of a live table; the tables lie in the first GiB, which is mapped.
    unsafe { entry.read_volatile() }
}

fn write(entry: *mut u64, value: u64) {
    // SAFETY: the same; and `value` only adds memory, where it is.
    unsafe { entry.write_volatile(value) };
}
