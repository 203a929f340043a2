//! Names for files that are no kernel we can load: users hand over compressed kernels, kernels of
//! other machines, disk images and archives, and want to hear what to do.
//!
//! Pure: the first bytes of the file in, a sentence out.

/// What the file is and what to do about it; `None` if it is nothing known. `head` is the
/// beginning of the file, as long as it has one.
pub(crate) fn describe(head: &[u8]) -> Option<&'static str> {
    SIGNATURES
        .iter()
        .find(|(offset, magic, _)| head.get(*offset..).is_some_and(|at| at.starts_with(magic)))
        .map(|(_, _, description)| *description)
}

/// Offset, bytes found there, description. In order: what is more specific comes first.
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (
        56,
        b"ARM\x64",
        "an arm64 Image: this machine runs x86-64 kernels",
    ),
    (
        56,
        b"RSC\x05",
        "a RISC-V Image: this machine runs x86-64 kernels",
    ),
    (0, b"\x1f\x8b", "a gzip file: decompress it with `gunzip`"),
    (0, b"\xfd7zXZ\0", "an xz file: decompress it with `unxz`"),
    (
        0,
        b"\x28\xb5\x2f\xfd",
        "a zstd file: decompress it with `unzstd`",
    ),
    (
        0,
        b"\x04\x22\x4d\x18",
        "an lz4 file: decompress it with `unlz4`",
    ),
    (
        0,
        b"\x02\x21\x4c\x18",
        "an lz4 file: decompress it with `unlz4`",
    ),
    (0, b"BZh", "a bzip2 file: decompress it with `bunzip2`"),
    (0, b"\x5d\0\0", "an lzma file: decompress it with `unlzma`"),
    (0, b"\x89LZO", "an lzop file: decompress it with `lzop -d`"),
    (
        0,
        b"\x27\x05\x19\x56",
        "a U-Boot image: name the vmlinux or bzImage it was made from",
    ),
    (
        0,
        b"07070",
        "a cpio archive: it looks like an initrd, give it as that",
    ),
    (
        0,
        b"!<arch>\n",
        "an ar archive or Debian package: unpack it and name the kernel inside",
    ),
    (
        0,
        b"\xed\xab\xee\xdb",
        "an RPM package: unpack it and name the kernel inside",
    ),
    (
        257,
        b"ustar",
        "a tar archive: unpack it and name the kernel inside",
    ),
    (
        0,
        b"PK\x03\x04",
        "a zip archive: unpack it and name the kernel inside",
    ),
    (
        0,
        b"QFI\xfb",
        "a qcow2 disk image: give it as a disk, and name a kernel",
    ),
    (
        0,
        b"hsqs",
        "a squashfs image: give it as a disk, and name a kernel",
    ),
    (0, b"#!", "a script, not a kernel"),
    (
        0,
        b"MZ",
        "a PE (EFI) program without a Linux boot header: name the vmlinux or bzImage itself",
    ),
    (
        510,
        b"\x55\xaa",
        "a boot sector or disk image: give it as a disk, and name a kernel",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_it_knows_and_nothing_else() {
        let mut arm = vec![0; 64];
        arm[..2].copy_from_slice(b"MZ");
        arm[56..60].copy_from_slice(b"ARM\x64");
        assert!(describe(&arm).unwrap().starts_with("an arm64 Image"));
        assert!(
            describe(b"MZ\x90\0")
                .unwrap()
                .starts_with("a PE (EFI) program")
        );
        assert_eq!(
            describe(b"\x1f\x8b\x08"),
            Some("a gzip file: decompress it with `gunzip`")
        );
        let mut disk = vec![0; 512];
        disk[510..].copy_from_slice(b"\x55\xaa");
        assert!(describe(&disk).unwrap().starts_with("a boot sector"));
        assert_eq!(describe(b""), None);
        assert_eq!(describe(b"hello"), None);
        assert_eq!(describe(&[0; 4096]), None);
    }
}
