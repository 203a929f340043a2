//! The memory functions the compiler calls. Bare metal has no C library to supply them.

use core::arch::asm;

unsafe extern "C" {
    static mut rt_bss_start: u8;
    static mut rt_bss_end: u8;
}

/// Clears bss: after a reset in place it holds what the last run left.
///
/// # Safety
/// Nothing in bss may be in use.
pub(crate) unsafe fn clear_bss() {
    let start = &raw mut rt_bss_start;
    let length = (&raw mut rt_bss_end).addr() - start.addr();
    // SAFETY: the linker made these the bounds of bss; the caller vouches for the rest.
    unsafe { memset(start, 0, length) };
}

// SAFETY (of all five names): they are the C functions of these names, and nothing else in the
// image defines them.

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller gives `length` writable bytes.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, inout("rcx") length => _, in("al") byte as u8,
            options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller gives two ranges of `length` bytes that do not overlap.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") length => _,
            options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= length {
        // SAFETY: copying upwards never overwrites what is still to be read.
        return unsafe { memcpy(to, from, length) };
    }
    // SAFETY: the caller gives two ranges of `length` bytes; downwards, nothing still to be read
    // is overwritten. `length` is not 0 here. The direction flag is set back.
    unsafe {
        asm!("std", "rep movsb", "cld",
            inout("rdi") to.add(length - 1) => _, inout("rsi") from.add(length - 1) => _,
            inout("rcx") length => _, options(nostack));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    for i in 0..length {
        // SAFETY: the caller gives two ranges of `length` readable bytes.
        let (a, b) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, length) }
}
