//! Port I/O, ports 0 to 0xfff: what the I/O permission map in boot.s opens to CPL 3.
//!
//! Safe functions: a port reaches devices, never this program's memory.

use core::arch::asm;

/// Reads one byte.
pub fn read8(port: u16) -> u8 {
    let value;
    // SAFETY: touches a device and AL only.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Writes one byte. Ordered after all earlier memory writes: it may be a doorbell.
pub fn write8(port: u16, value: u8) {
    // SAFETY: touches a device only.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags));
    }
}

/// Reads two bytes.
pub fn read16(port: u16) -> u16 {
    let value;
    // SAFETY: touches a device and AX only.
    unsafe {
        asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Writes two bytes.
pub fn write16(port: u16, value: u16) {
    // SAFETY: touches a device only.
    unsafe {
        asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags));
    }
}

/// Reads four bytes.
pub fn read32(port: u16) -> u32 {
    let value;
    // SAFETY: touches a device and EAX only.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value,
            options(nomem, nostack, preserves_flags));
    }
    value
}

/// Writes four bytes.
pub fn write32(port: u16, value: u32) {
    // SAFETY: touches a device only.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags));
    }
}
