//! The code at F000:FFF0, where a PC's firmware starts: a guest that jumps there wants a reset, and
//! gets one from the i8042.
//!
//! It is needed. Linux built with CONFIG_EFI prefers EFI's reset on hardware-reduced ACPI, whether
//! there is EFI or not, and then falls back to this jump, past the ACPI reset register
//! (`efi_reboot_required` in arch/x86/platform/efi/quirks.c, `native_machine_emergency_restart` in
//! arch/x86/kernel/reboot.c). Without code here such a guest hangs in `reboot`.
//!
//! Pure. The page is in the reserved part of the memory map, beside the VM generation ID.

use crate::layout::{I8042_COMMAND_PORT, I8042_RESET};

/// 16-bit code, to be written at `layout::RESET_VECTOR`, where 16 bytes are left below 1 MiB:
/// `mov al, 0xFE`; `out 0x64, al`; then, in a loop, `hlt`.
pub(crate) const CODE: [u8; 7] = [
    0xB0,
    I8042_RESET,
    0xE6,
    I8042_COMMAND_PORT,
    0xF4,
    0xEB,
    0xFD,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{KERNEL_MIN, RESET_VECTOR};

    #[test]
    fn fits_below_the_kernels_and_is_the_code_said() {
        assert_eq!(RESET_VECTOR, 0xF000 * 16 + 0xFFF0);
        assert!(RESET_VECTOR + CODE.len() as u64 <= KERNEL_MIN);
        assert_eq!(CODE, [0xB0, 0xFE, 0xE6, 0x64, 0xF4, 0xEB, 0xFD]);
    }
}
