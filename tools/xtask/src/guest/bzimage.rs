//! Taking the uncompressed kernel out of a bzImage, by the fields of the boot header
//! (Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").

use std::path::Path;
use std::process::Command;

use crate::apt::{Tool, tool};
use crate::failure::{Failure, Outcome};
use crate::process;

/// `setup_sects`: 512-byte sectors of setup code after the boot sector.
const SETUP_SECTS: usize = 0x1F1;
/// `header`: "HdrS".
const MAGIC: usize = 0x202;
/// `payload_offset`, from the end of the setup code, u32.
const PAYLOAD_OFFSET: usize = 0x248;
/// `payload_length` in bytes, u32.
const PAYLOAD_LENGTH: usize = 0x24C;
/// The build appends the uncompressed size, u32, to the payload, which decompressors but gzip's
/// take for rubbish after the end.
const SIZE_TRAILER: usize = 4;

/// The programs that [`extract`] may run for Debian's kernels of the series we use.
pub(crate) const TOOLS: [Tool; 3] = [
    tool("lz4", "lz4"),
    tool("zstd", "zstd"),
    tool("xz", "xz-utils"),
];

/// Writes the ELF kernel inside `bzimage` to `vmlinux`.
pub(crate) fn extract(bzimage: &[u8], vmlinux: &Path) -> Outcome<()> {
    let payload = payload(bzimage).ok_or_else(|| Failure::new("not a bzImage"))?;
    let program = decompressor(payload)
        .ok_or_else(|| Failure::new("a kernel payload in no compression known here"))?;
    process::filter(Command::new(program).arg("-dc"), payload, vmlinux)
}

/// The compressed kernel, without the size after it.
fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    // Zero stands for four, for the sake of very old boot loaders.
    let sectors = match image.get(SETUP_SECTS)? {
        0 => 4,
        count => usize::from(*count),
    };
    let setup = (sectors + 1) * 512;
    let start = setup.checked_add(field(image, PAYLOAD_OFFSET)?)?;
    let end = start
        .checked_add(field(image, PAYLOAD_LENGTH)?)?
        .checked_sub(SIZE_TRAILER)?;
    image.get(start..end)
}

/// A little-endian u32 field.
fn field(image: &[u8], at: usize) -> Option<usize> {
    let bytes = image.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

/// The program that undoes what a payload's first bytes announce.
fn decompressor(payload: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 4] = [
        (&[0x02, 0x21, 0x4C, 0x18], "lz4"), // LZ4's legacy frame
        (&[0x28, 0xB5, 0x2F, 0xFD], "zstd"),
        (&[0xFD, b'7', b'z', b'X', b'Z'], "xz"),
        (&[0x1F, 0x8B], "gzip"),
    ];
    KNOWN
        .iter()
        .find(|(magic, _)| payload.starts_with(magic))
        .map(|(_, program)| *program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(sectors: u8, payload: &[u8]) -> Vec<u8> {
        let setup = (if sectors == 0 {
            4
        } else {
            usize::from(sectors)
        } + 1)
            * 512;
        let mut image = vec![0; setup];
        image[SETUP_SECTS] = sectors;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len() + SIZE_TRAILER).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image.extend([0xEE; SIZE_TRAILER]);
        image
    }

    #[test]
    fn the_payload_is_found_without_its_trailer() {
        assert_eq!(payload(&image(0, b"kernel")), Some(&b"kernel"[..]));
        assert_eq!(payload(&image(27, b"kernel")), Some(&b"kernel"[..]));
    }

    #[test]
    fn a_short_or_foreign_file_is_no_image() {
        let good = image(1, b"kernel");
        assert_eq!(payload(&good[..good.len() - SIZE_TRAILER - 1]), None);
        assert_eq!(payload(&good[..0x210]), None);
        assert_eq!(payload(&[0; 4096]), None);
    }

    #[test]
    fn compressions_are_told_by_their_magic() {
        assert_eq!(decompressor(&[0x28, 0xB5, 0x2F, 0xFD, 0]), Some("zstd"));
        assert_eq!(decompressor(b"rubbish"), None);
    }
}
