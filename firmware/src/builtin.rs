//! The built-in guest: the program `thimble run` boots when it is given no kernel.
//!
//! Compiled by build.rs from firmware/guest and embedded here, so that the launcher is one file.
//! The VMM loads it as it loads any other ELF kernel.

/// ELF image of the built-in guest: loaded at 1 MiB, with a PVH entry (Xen ELF note 18) and, as
/// `e_entry`, an entry by Linux's 64-bit protocol. At most 64 KiB.
pub static BUILTIN_GUEST: &[u8] = include_bytes!(env!("BUILTIN_GUEST"));

#[cfg(test)]
mod tests {
    use super::BUILTIN_GUEST;

    #[test]
    fn is_a_small_elf_image_with_a_pvh_note() {
        assert_eq!(BUILTIN_GUEST.get(..4), Some(b"\x7fELF".as_slice()));
        assert!(
            BUILTIN_GUEST.len() <= 64 << 10,
            "{} bytes",
            BUILTIN_GUEST.len()
        );
        let note = [4u32, 4, 18].map(u32::to_le_bytes).concat();
        let note = [note.as_slice(), b"Xen\0"].concat();
        assert!(BUILTIN_GUEST.windows(note.len()).any(|bytes| bytes == note));
    }
}
