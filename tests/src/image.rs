//! Kernel images made from others, for the ways in that no stock image takes by itself.

use std::path::Path;

/// Where the program header of the notes has its type, in an ELF kernel: a kernel with zeros
/// (`PT_NULL`) there has no PVH entry, which leaves the 64-bit boot protocol.
///
/// # Panics
/// If the file is no 64-bit ELF with notes.
#[must_use]
#[track_caller]
pub fn offset_of_note_type(vmlinux: &Path) -> u64 {
    let image = match std::fs::read(vmlinux) {
        Ok(image) => image,
        Err(error) => panic!("{}: {error}", vmlinux.display()),
    };
    match find_notes(&image) {
        Some(offset) => offset,
        None => panic!("{}: no ELF with notes", vmlinux.display()),
    }
}

/// System V ABI, "Object Files": `e_phoff` at 0x20, `e_phentsize` at 0x36, `e_phnum` at 0x38 of
/// the 64-bit header; `p_type` first in a program header, 4 for notes.
fn find_notes(image: &[u8]) -> Option<u64> {
    const PT_NOTE: u32 = 4;
    let half = |at: usize| Some(u16::from_le_bytes(image.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(image.get(at..at + 8)?.try_into().ok()?));
    if !image.starts_with(b"\x7FELF\x02") {
        return None;
    }
    let table = long(0x20)?;
    let size = u64::from(half(0x36)?);
    let count = u64::from(half(0x38)?);
    (0..count)
        .map(|index| table + index * size)
        .find(|at| usize::try_from(*at).ok().and_then(word) == Some(PT_NOTE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_header_is_found() {
        let mut image = vec![0; 0x40 + 3 * 56];
        image[..5].copy_from_slice(b"\x7FELF\x02");
        image[0x20] = 0x40;
        image[0x36] = 56;
        image[0x38] = 3;
        image[0x40] = 1;
        image[0x40 + 56] = 1;
        assert_eq!(find_notes(&image), None);
        image[0x40 + 112] = 4;
        assert_eq!(find_notes(&image), Some(0x40 + 112));
        assert_eq!(find_notes(&image[..0x50]), None);
        assert_eq!(find_notes(b"no ELF"), None);
    }
}
