//! Memory behind the image: a bump allocator of pages, and bounds-checked volatile access to them.
//!
//! What devices read and write is reached through [`Region`], never through a Rust reference.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{boot_info, paging};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

unsafe extern "C" {
    static rt_image_end: u8;
}

/// Next free address; 0 before the first allocation.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// End of the RAM the image lies in; 0 before the first allocation.
static LIMIT: AtomicU64 = AtomicU64::new(0);

fn limit() -> u64 {
    if LIMIT.load(Relaxed) == 0 {
        // For the tables that may be needed to read the map.
        LIMIT.store(u64::MAX, Relaxed);
        let end = boot_info::memory_map()
            .filter(|range| range.kind == boot_info::RAM && range.start <= image_end())
            .map(|range| range.start + range.length)
            .find(|&end| end > image_end());
        LIMIT.store(end.unwrap_or(u64::MAX), Relaxed);
    }
    LIMIT.load(Relaxed)
}

/// Gives back everything allocated since `allocated_end` was `mark`.
///
/// # Safety
/// No device, page table or `Region` in use may lie behind the mark.
pub unsafe fn release(mark: u64) {
    NEXT.store(mark, Relaxed);
}

/// Where the image, its stacks included, ends.
pub fn image_end() -> u64 {
    (&raw const rt_image_end).addr() as u64
}

/// Where allocated memory ends: everything from here on is unused RAM.
pub fn allocated_end() -> u64 {
    NEXT.load(Relaxed).max(image_end())
}

/// A range of memory of this program that devices may reach too. Physical is virtual.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    address: u64,
    length: u64,
}

macro_rules! accessors {
    ($read:ident, $write:ident, $type:ty) => {
        /// Reads the little-endian number at `offset`, which is aligned.
        pub fn $read(&self, offset: u64) -> $type {
            let address = self.checked(offset, size_of::<$type>() as u64);
            // SAFETY: `checked`: inside the region, which nothing borrows.
            unsafe { (address as *const $type).read_volatile() }
        }

        /// Writes the little-endian number at `offset`, which is aligned.
        pub fn $write(&self, offset: u64, value: $type) {
            let address = self.checked(offset, size_of::<$type>() as u64);
            // SAFETY: `checked`: inside the region, which nothing borrows.
            unsafe { (address as *mut $type).write_volatile(value) };
        }
    };
}

impl Region {
    /// Takes whole pages, zeroed, for at least `length` bytes.
    pub fn allocate(length: u64) -> Self {
        let length = length.next_multiple_of(PAGE);
        let limit = limit();
        let address = allocated_end();
        assert!(
            length <= limit - address,
            "out of memory: {length:#x} bytes at {address:#x}"
        );
        NEXT.store(address + length, Relaxed);
        paging::map(address, length);
        let region = Self { address, length };
        region.fill(0);
        region
    }

    /// First address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    accessors!(read8, write8, u8);
    accessors!(read16, write16, u16);
    accessors!(read32, write32, u32);
    accessors!(read64, write64, u64);

    /// Sets every byte.
    pub fn fill(&self, byte: u8) {
        // SAFETY: the region is this program's and nothing borrows it.
        unsafe { (self.address as *mut u8).write_bytes(byte, self.length as usize) };
    }

    /// Copies bytes out, from `offset` on.
    pub fn copy_to(&self, offset: u64, bytes: &mut [u8]) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = self.read8(offset + i as u64);
        }
    }

    fn checked(&self, offset: u64, length: u64) -> u64 {
        assert!(
            offset.is_multiple_of(length) && offset + length <= self.length,
            "offset {offset:#x} of a region of {:#x} bytes",
            self.length
        );
        self.address + offset
    }
}

/// Types of which every bit pattern is a value.
pub trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl<const N: usize> Plain for [u8; N] {}

/// Reads plain bytes at any physical address of RAM, or of tables in it. Misaligned is fine.
pub fn read<T: Plain>(address: u64) -> T {
    paging::map(address, size_of::<T>() as u64);
    // SAFETY: mapped now; every bit pattern is a `T`; and what the callers read here, the loader's
    // and the firmware's tables, nobody writes.
    unsafe { (address as *const T).read_unaligned() }
}
