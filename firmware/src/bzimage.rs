//! bzImage kernels: a real-mode setup area with a header, then a compressed kernel with its own
//! decompressor, entered in 64-bit mode.
//!
//! Linux's Documentation/arch/x86/boot.rst, sections "Details of Header Fields" and "64-bit Boot
//! Protocol". The header structure is linux-loader's; its loader is not used, because it takes a
//! short read of the header for a whole one, ignores `init_size`, `pref_address` and the alignment,
//! and accepts kernels without a 64-bit entry.

use linux_loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use vm_memory::ByteValued;

use crate::image::{Image, ImageError};
use crate::kernel::{Entry, Kernel, KernelProtocol, Segment};
use crate::layout::{CMDLINE_MAX, KERNEL_MIN};

/// Offset of the setup header in the file and in the zero page.
pub(crate) const SETUP_HEADER: usize = 0x1F1;
/// Offset of the magic in the file, and the magic.
const MAGIC_OFFSET: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
/// The byte that says how far beyond the magic the header reaches: the target of the jump at 0x200.
const HEADER_LENGTH: usize = 0x201;

/// First version with `xloadflags`, thus with a 64-bit entry one can know of.
const MIN_VERSION: u16 = 0x020C;
/// Where the 64-bit entry is, in the protected-mode part.
const ENTRY_64: u64 = 0x200;
/// Unit of `setup_sects`.
const SECTOR: u64 = 512;
/// What `setup_sects` means when it is 0.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// Unit of `syssize`.
const PARAGRAPH: u64 = 16;

/// Why a bzImage is no kernel for this guest.
#[derive(Debug, thiserror::Error)]
pub enum BzImageError {
    /// An old or 32-bit kernel.
    #[error(
        "it is a bzImage without a 64-bit entry (boot protocol {}.{:02}): use a 64-bit kernel, \
         Linux 3.8 or later",
        version >> 8,
        version & 0xFF
    )]
    No64BitEntry {
        /// Boot protocol version, major in the high byte.
        version: u16,
    },
    /// The protocol was demanded, but a bzImage has no such entry.
    #[error("it is a bzImage, which has no PVH entry: name the vmlinux it was made from")]
    NoPvhEntry,
    /// Fields of the header contradict each other.
    #[error("its setup header is malformed: {field}")]
    Header {
        /// Which one, and how.
        field: &'static str,
    },
    /// The kernel needs memory the guest does not have.
    #[error(
        "it needs memory from {start:#x} to {end:#x} to unpack itself, the guest's ends at \
         {ram_end:#x}: give the guest more memory"
    )]
    Outside {
        /// First address it uses.
        start: u64,
        /// First address after it.
        end: u64,
        /// End of the low RAM.
        ram_end: u64,
    },
    /// Reading failed.
    #[error("its setup header cannot be read")]
    Image(#[from] ImageError),
    /// The file is shorter than its header says.
    #[error(
        "it has {have} bytes and its header promises {want}: it is truncated, copy or download it \
         again"
    )]
    Truncated {
        /// Length of the file.
        have: u64,
        /// Length according to `setup_sects` and `syssize`.
        want: u64,
    },
}

/// Whether the file that begins with `head` has a Linux boot header.
pub(crate) fn is_bzimage(head: &[u8]) -> bool {
    head.get(MAGIC_OFFSET..)
        .is_some_and(|at| at.starts_with(MAGIC))
}

/// Plans to load the bzImage in `image`; `head` is its beginning. `ram_end` is the end of low RAM.
pub(crate) fn plan(
    image: &Image<'_>,
    head: &[u8],
    protocol: KernelProtocol,
    ram_end: u64,
) -> Result<Kernel, BzImageError> {
    let header = read_header(head)?;
    let (version, flags, xflags) = (header.version, header.loadflags, header.xloadflags);
    if version < MIN_VERSION || flags & LOADED_HIGH == 0 || xflags & XLF_KERNEL_64 == 0 {
        return Err(BzImageError::No64BitEntry { version });
    }
    if protocol == KernelProtocol::Pvh {
        return Err(BzImageError::NoPvhEntry);
    }
    let (offset, len) = payload(image, &header)?;
    let (load, end) = placement(&header, len)?;
    if end > ram_end {
        return Err(BzImageError::Outside {
            start: load,
            end,
            ram_end,
        });
    }
    Ok(Kernel {
        entry: Entry::Linux64(load + ENTRY_64),
        segments: vec![Segment {
            offset,
            address: load,
            file_len: len,
            memory_len: len,
        }],
        end,
        // The field names the last address the initrd may use.
        initrd_end: ram_end.min(u64::from(header.initrd_addr_max).saturating_add(1)),
        // Without the NUL.
        cmdline_max: usize::try_from(header.cmdline_size)
            .unwrap_or(CMDLINE_MAX)
            .min(CMDLINE_MAX - 1),
        setup_header: Some(header),
    })
}

/// The setup header, as long as the kernel says its own is; what it does not have stays 0.
fn read_header(head: &[u8]) -> Result<setup_header, BzImageError> {
    let mut header = setup_header::default();
    let length = *head
        .get(HEADER_LENGTH)
        .ok_or(BzImageError::Header { field: "no length" })?;
    let end = MAGIC_OFFSET + usize::from(length);
    let available = head.get(SETUP_HEADER..end).ok_or(BzImageError::Header {
        field: "it is longer than the file",
    })?;
    let known = header.as_slice().len().min(available.len());
    for (to, from) in header
        .as_mut_slice()
        .iter_mut()
        .zip(available.iter().take(known))
    {
        *to = *from;
    }
    Ok(header)
}

/// Offset and length of the protected-mode part.
fn payload(image: &Image<'_>, header: &setup_header) -> Result<(u64, u64), BzImageError> {
    let sectors = match header.setup_sects {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => sectors,
    };
    let offset = (u64::from(sectors) + 1) * SECTOR;
    let promised = u64::from(header.syssize) * PARAGRAPH;
    let (have, want) = (image.len()?, offset + promised);
    // The size is rounded up; a file may lack what the rounding added. Signatures follow after it.
    if have + PARAGRAPH <= want || have <= offset {
        return Err(BzImageError::Truncated { have, want });
    }
    let len = promised.min(have - offset);
    if len <= ENTRY_64 {
        return Err(BzImageError::Header {
            field: "syssize leaves no room for the entry",
        });
    }
    Ok((offset, len))
}

/// Where the protected-mode part of `len` bytes is loaded, and the end of the memory that it and
/// the kernel unpacked from it use.
fn placement(header: &setup_header, len: u64) -> Result<(u64, u64), BzImageError> {
    let (preferred, need) = (header.pref_address, u64::from(header.init_size));
    let (load, run) = if header.relocatable_kernel == 0 {
        // Goes where it was always loaded, and unpacks itself to the address it was linked for.
        (KERNEL_MIN, preferred)
    } else {
        let alignment = u64::from(header.kernel_alignment);
        if !alignment.is_power_of_two() {
            return Err(BzImageError::Header {
                field: "kernel_alignment is no power of two",
            });
        }
        let load = preferred
            .max(KERNEL_MIN)
            .checked_next_multiple_of(alignment);
        let load = load.ok_or(BzImageError::Header {
            field: "pref_address is too high",
        })?;
        (load, load)
    };
    let too_high = BzImageError::Header {
        field: "pref_address is too high",
    };
    let ends = load.checked_add(len).zip(run.checked_add(need));
    let (loaded_end, run_end) = ends.ok_or(too_high)?;
    Ok((load, loaded_end.max(run_end)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_kernels::{
        BZIMAGE_ADDRESS, BZIMAGE_LEN, BZIMAGE_NEED, BZIMAGE_PAYLOAD, bzimage, put,
    };

    const RAM: u64 = 64 << 20;

    fn plan_of(image: &[u8], ram_end: u64) -> Result<Kernel, BzImageError> {
        plan(&Image::Bytes(image), image, KernelProtocol::Auto, ram_end)
    }

    /// The plan for the sample with `bytes` at `offset`.
    fn with(offset: usize, bytes: &[u8]) -> Result<Kernel, BzImageError> {
        let mut image = bzimage();
        put(&mut image, offset, bytes);
        plan_of(&image, RAM)
    }

    #[test]
    fn goes_where_it_prefers() {
        let kernel = plan_of(&bzimage(), RAM).unwrap();
        assert_eq!(kernel.entry, Entry::Linux64(BZIMAGE_ADDRESS + 0x200));
        assert_eq!(kernel.end, BZIMAGE_ADDRESS + u64::from(BZIMAGE_NEED));
        assert_eq!((kernel.initrd_end, kernel.cmdline_max), (RAM, 2047));
        let len = BZIMAGE_LEN as u64;
        let segment = Segment {
            offset: BZIMAGE_PAYLOAD as u64,
            address: BZIMAGE_ADDRESS,
            file_len: len,
            memory_len: len,
        };
        assert_eq!(kernel.segments, [segment]);
    }

    #[test]
    fn limits_of_the_header_are_kept() {
        assert_eq!(
            with(0x22C, &0x2FF_FFFF_u32.to_le_bytes())
                .unwrap()
                .initrd_end,
            0x300_0000
        );
        assert_eq!(with(0x22C, &[0xFF; 4]).unwrap().initrd_end, RAM);
        assert_eq!(
            with(0x238, &255_u32.to_le_bytes()).unwrap().cmdline_max,
            255
        );
        assert_eq!(with(0x238, &[0xFF; 4]).unwrap().cmdline_max, 2047);
        // An odd address is rounded up to the alignment; one below the kernels' memory is raised.
        let address = |kernel: Kernel| kernel.segments[0].address;
        assert_eq!(
            address(with(0x258, &0x20_0001_u64.to_le_bytes()).unwrap()),
            0x40_0000
        );
        assert_eq!(address(with(0x258, &[0; 8]).unwrap()), 0x20_0000);
        // One that cannot be moved is loaded at 1 MiB and runs where it was linked.
        let fixed = with(0x234, &[0]).unwrap();
        assert_eq!(
            (fixed.segments[0].address, fixed.end),
            (KERNEL_MIN, 0x30_0000)
        );
    }

    #[test]
    fn old_and_32_bit_kernels() {
        for (offset, bytes) in [(0x206, &[0x0B, 2][..]), (0x211, &[0]), (0x236, &[0, 0])] {
            let error = with(offset, bytes).unwrap_err();
            assert!(
                matches!(error, BzImageError::No64BitEntry { .. }),
                "{error}"
            );
        }
        let old = with(0x206, &[0x0B, 2]).unwrap_err();
        assert!(old.to_string().contains("boot protocol 2.11"), "{old}");
        let image = bzimage();
        let error = plan(&Image::Bytes(&image), &image, KernelProtocol::Pvh, RAM).unwrap_err();
        assert!(matches!(error, BzImageError::NoPvhEntry), "{error}");
    }

    #[test]
    fn truncated_at_every_length() {
        let image = bzimage();
        let full = image.len();
        for len in 0x206..full {
            let planned = plan_of(&image[..len], RAM);
            // The size in the header is rounded up to 16 bytes.
            assert_eq!(planned.is_ok(), len + 16 > full, "{len:#x}");
        }
        let error = plan_of(&image[..full - 16], RAM).unwrap_err();
        assert!(
            matches!(error, BzImageError::Truncated { have, want }
                if have == full as u64 - 16 && want == full as u64),
            "{error}"
        );
        let signed = [image, vec![0xAB; 1536]].concat();
        assert_eq!(
            plan_of(&signed, RAM).unwrap().segments[0].file_len,
            BZIMAGE_LEN as u64
        );
    }

    #[test]
    fn a_header_that_contradicts_itself() {
        let huge = with(0x1F4, &[0xFF; 4]).unwrap_err();
        assert!(matches!(huge, BzImageError::Truncated { .. }), "{huge}");
        for (offset, bytes) in [
            (0x1F4, &[0; 4][..]),
            (0x230, &[3, 0, 0, 0]),
            (0x230, &[0; 4]),
        ] {
            let error = with(offset, bytes).unwrap_err();
            assert!(matches!(error, BzImageError::Header { .. }), "{error}");
        }
        let error = with(0x258, &[0xFF; 8]).unwrap_err();
        assert!(matches!(error, BzImageError::Header { .. }), "{error}");
        let mut fixed = bzimage();
        put(&mut fixed, 0x234, &[0]);
        put(&mut fixed, 0x258, &[0xFF; 8]);
        let error = plan_of(&fixed, RAM).unwrap_err();
        assert!(matches!(error, BzImageError::Header { .. }), "{error}");
    }

    #[test]
    fn needs_room_to_unpack() {
        let end = BZIMAGE_ADDRESS + u64::from(BZIMAGE_NEED);
        assert!(plan_of(&bzimage(), end).is_ok());
        let error = plan_of(&bzimage(), end - 1).unwrap_err();
        assert!(
            matches!(error, BzImageError::Outside { end: e, .. } if e == end),
            "{error}"
        );
        let error = with(0x260, &[0xFF; 4]).unwrap_err();
        assert!(matches!(error, BzImageError::Outside { .. }), "{error}");
    }
}
