//! Device registers in memory, thimble-1's MMIO window: 3 to 4 GiB, mapped from the start.
//!
//! Safe functions: the window holds devices, never this program's memory.

/// The window.
pub const WINDOW: core::ops::Range<u64> = 0xc000_0000..0x1_0000_0000;

fn checked<T>(address: u64) -> *mut T {
    assert!(
        WINDOW.contains(&address),
        "{address:#x} is not in the MMIO window"
    );
    address as *mut T
}

/// Reads one byte.
pub fn read8(address: u64) -> u8 {
    // SAFETY: `checked`: in the window, which is mapped and holds no Rust object.
    unsafe { checked::<u8>(address).read_volatile() }
}

/// Reads two bytes. The address may be misaligned: devices are asked that, too.
pub fn read16(address: u64) -> u16 {
    let value;
    // SAFETY: `checked`, and x86 has no alignment rule for MOV.
    unsafe { core::arch::asm!("mov {:x}, [{}]", out(reg) value, in(reg) checked::<u16>(address)) };
    value
}

/// Reads four bytes. The address may be misaligned.
pub fn read32(address: u64) -> u32 {
    let value;
    // SAFETY: `checked`, and x86 has no alignment rule for MOV.
    unsafe { core::arch::asm!("mov {:e}, [{}]", out(reg) value, in(reg) checked::<u32>(address)) };
    value
}

/// Writes one byte.
pub fn write8(address: u64, value: u8) {
    // SAFETY: `checked`: in the window, which is mapped and holds no Rust object.
    unsafe { checked::<u8>(address).write_volatile(value) };
}

/// Writes two bytes. The address may be misaligned.
pub fn write16(address: u64, value: u16) {
    // SAFETY: `checked`, and x86 has no alignment rule for MOV.
    unsafe { core::arch::asm!("mov [{}], {:x}", in(reg) checked::<u16>(address), in(reg) value) };
}

/// Writes four bytes. The address may be misaligned.
pub fn write32(address: u64, value: u32) {
    // SAFETY: `checked`, and x86 has no alignment rule for MOV.
    unsafe { core::arch::asm!("mov [{}], {:e}", in(reg) checked::<u32>(address), in(reg) value) };
}

/// Writes eight bytes, as one access. The address may be misaligned.
pub fn write64(address: u64, value: u64) {
    // SAFETY: `checked`, and x86 has no alignment rule for MOV.
    unsafe { core::arch::asm!("mov [{}], {}", in(reg) checked::<u64>(address), in(reg) value) };
}
