//! ELF kernels: an uncompressed vmlinux, or any program that speaks one of the two protocols.
//!
//! Reads the headers into a [`Kernel`] plan and checks it whole before a byte of guest memory is
//! written. ELF-64 Object File Format 1.5; the PVH note is described in Xen's docs/misc/pvh and
//! public/elfnote.h.
//!
//! The structures are linux-loader's, the loader is ours, because the input is hostile. Its loader
//! takes a 32-bit or foreign ELF for a kernel, writes segments over boot data, notices a segment
//! outside RAM only after it has written others, reads up to 65,535 program headers with a system
//! call each, and scans a note segment of any size once for each of them.

use linux_loader::elf::{EI_CLASS, EI_DATA, ELFDATA2LSB, Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use vm_memory::ByteValued;

use crate::image::{Image, ImageError};
use crate::kernel::{Entry, Kernel, KernelProtocol, Segment};
use crate::layout::{CMDLINE_MAX, KERNEL_MIN};

/// `ELFCLASS64` of the ELF header's `EI_CLASS`.
const CLASS_64: u8 = 2;
/// `ET_REL` and `ET_CORE`: ELF files that are no programs.
const TYPE_RELOCATABLE: u16 = 1;
const TYPE_CORE: u16 = 4;
/// `EM_X86_64`.
const MACHINE_X86_64: u16 = 62;

/// Program headers that are read. Linux has 5, the largest unikernels about 15.
const MAX_PROGRAM_HEADERS: u16 = 64;
/// Largest note segment that is read. Linux's has 512 bytes.
const MAX_NOTES: u64 = 64 << 10;

/// `XEN_ELFNOTE_PHYS32_ENTRY`: the physical address of the PVH entry.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// Why an ELF file is no kernel for this guest.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// Not an ELF for a 64-bit little-endian x86 machine.
    #[error(
        "it is an ELF file, but for another machine (class {class}, data {data}, machine \
         {machine}): this machine runs x86-64 kernels"
    )]
    OtherMachine {
        /// `EI_CLASS`: 1 for 32 bits, 2 for 64.
        class: u8,
        /// `EI_DATA`: 1 for little-endian, 2 for big.
        data: u8,
        /// `e_machine`; 62 is x86-64.
        machine: u16,
    },
    /// An object file, a kernel module or a core dump.
    #[error("it is an ELF object file, kernel module or core dump: name the vmlinux itself")]
    NoProgram,
    /// The table of program headers is not what the format says.
    #[error("its table of {count} program headers of {size} bytes is malformed or too long")]
    ProgramHeaders {
        /// `e_phnum`.
        count: u16,
        /// `e_phentsize`.
        size: u16,
    },
    /// Nothing to load.
    #[error("it has no loadable segment")]
    Empty,
    /// A segment is larger in the file than in memory, or its range wraps around.
    #[error("the size of its segment {segment} makes no sense")]
    SegmentSize {
        /// Number of the program header, from 0.
        segment: usize,
    },
    /// A segment does not fit guest memory.
    #[error(
        "its segment {segment}, at {start:#x} to {end:#x}, lies outside the guest's memory for \
         kernels, {KERNEL_MIN:#x} to {ram_end:#x}: give the guest more memory, or link the \
         kernel elsewhere"
    )]
    SegmentOutside {
        /// Number of the program header, from 0.
        segment: usize,
        /// First guest-physical address.
        start: u64,
        /// First address after it.
        end: u64,
        /// End of the low RAM.
        ram_end: u64,
    },
    /// Two segments want the same memory.
    #[error("its segments overlap in memory at {address:#x}")]
    SegmentsOverlap {
        /// First address that both want.
        address: u64,
    },
    /// A note segment is malformed or too long.
    #[error("its note segment {segment} is malformed or longer than {MAX_NOTES} bytes")]
    Notes {
        /// Number of the program header, from 0.
        segment: usize,
    },
    /// The protocol was demanded, but there is no note.
    #[error(
        "it has no PVH entry (the ELF note XEN_ELFNOTE_PHYS32_ENTRY): build it with CONFIG_PVH, \
         or let the 64-bit protocol be used"
    )]
    NoPvhEntry,
    /// The entry is not in a loaded segment.
    #[error("its entry point {entry:#x} lies outside its segments")]
    EntryOutside {
        /// Where execution would start.
        entry: u64,
    },
    /// Reading failed.
    #[error("it cannot be read as an ELF file")]
    Image(#[from] ImageError),
}

/// Plans to load the ELF in `image`; `head` is its beginning. `ram_end` is the end of low RAM.
pub(crate) fn plan(
    image: &Image<'_>,
    head: &[u8],
    protocol: KernelProtocol,
    ram_end: u64,
) -> Result<Kernel, ElfError> {
    let header = file_header(image, head)?;
    let mut segments = Vec::new();
    let mut pvh_entry = None;
    for (number, entry) in program_headers(image, &header)?.into_iter().enumerate() {
        match entry.p_type {
            PT_LOAD if entry.p_memsz > 0 => segments.push(segment(number, &entry, ram_end)?),
            PT_NOTE if pvh_entry.is_none() => pvh_entry = find_pvh_entry(image, number, &entry)?,
            _ => {}
        }
    }
    check_in_file(image, &segments)?;
    segments.sort_unstable_by_key(|segment| segment.address);
    let overlap = segments.windows(2).find_map(|pair| match pair {
        [first, second] if first.end() > second.address => Some(second.address),
        _ => None,
    });
    if let Some(address) = overlap {
        return Err(ElfError::SegmentsOverlap { address });
    }
    let end = segments.last().ok_or(ElfError::Empty)?.end();
    let entry = match (protocol, pvh_entry) {
        (KernelProtocol::Auto | KernelProtocol::Pvh, Some(address)) => Entry::Pvh(address),
        (KernelProtocol::Pvh, None) => return Err(ElfError::NoPvhEntry),
        (KernelProtocol::Auto, None) | (KernelProtocol::Linux64, _) => {
            Entry::Linux64(header.e_entry)
        }
    };
    let address = entry.address();
    if !segments
        .iter()
        .any(|part| part.address <= address && address < part.end())
    {
        return Err(ElfError::EntryOutside { entry: address });
    }
    // An ELF says nothing of limits for the initrd: it may lie anywhere in low RAM.
    Ok(Kernel {
        entry,
        segments,
        end,
        initrd_end: ram_end,
        cmdline_max: CMDLINE_MAX - 1,
        setup_header: None,
    })
}

fn file_header(image: &Image<'_>, head: &[u8]) -> Result<Elf64_Ehdr, ElfError> {
    let mut header = Elf64_Ehdr::default();
    let size = header.as_slice().len();
    match head.get(..size) {
        Some(bytes) => header.as_mut_slice().copy_from_slice(bytes),
        // Shorter than a header: let the reading say so.
        None => image.read_at(0, header.as_mut_slice())?,
    }
    let (class, data) = (header.e_ident[EI_CLASS], header.e_ident[EI_DATA]);
    if class != CLASS_64 || data != ELFDATA2LSB || header.e_machine != MACHINE_X86_64 {
        // In a big-endian file the machine's bytes are the other way round.
        let machine = if data == ELFDATA2LSB {
            header.e_machine
        } else {
            header.e_machine.swap_bytes()
        };
        return Err(ElfError::OtherMachine {
            class,
            data,
            machine,
        });
    }
    if matches!(header.e_type, TYPE_RELOCATABLE | TYPE_CORE) {
        return Err(ElfError::NoProgram);
    }
    Ok(header)
}

fn program_headers(image: &Image<'_>, header: &Elf64_Ehdr) -> Result<Vec<Elf64_Phdr>, ElfError> {
    let size = size_of::<Elf64_Phdr>();
    let (count, entry_size) = (header.e_phnum, header.e_phentsize);
    if count > MAX_PROGRAM_HEADERS || (count > 0 && usize::from(entry_size) != size) {
        return Err(ElfError::ProgramHeaders {
            count,
            size: entry_size,
        });
    }
    let mut bytes = vec![0; usize::from(count) * size];
    image.read_at(header.e_phoff, &mut bytes)?;
    let entries = bytes.chunks_exact(size).map(|chunk| {
        let mut entry = Elf64_Phdr::default();
        entry.as_mut_slice().copy_from_slice(chunk);
        entry
    });
    Ok(entries.collect())
}

fn segment(number: usize, entry: &Elf64_Phdr, ram_end: u64) -> Result<Segment, ElfError> {
    let (start, end) = (entry.p_paddr, entry.p_paddr.checked_add(entry.p_memsz));
    let Some(end) = end.filter(|_| entry.p_filesz <= entry.p_memsz) else {
        return Err(ElfError::SegmentSize { segment: number });
    };
    if start < KERNEL_MIN || end > ram_end {
        return Err(ElfError::SegmentOutside {
            segment: number,
            start,
            end,
            ram_end,
        });
    }
    Ok(Segment {
        offset: entry.p_offset,
        address: start,
        file_len: entry.p_filesz,
        memory_len: entry.p_memsz,
    })
}

/// Refuses a truncated file before a part of it is in guest memory.
fn check_in_file(image: &Image<'_>, segments: &[Segment]) -> Result<(), ElfError> {
    let len = image.len()?;
    let ends = segments.iter().filter(|part| part.file_len > 0);
    let end = ends
        .map(|part| part.offset.saturating_add(part.file_len))
        .max()
        .unwrap_or(0);
    if end > len {
        return Err(ElfError::Image(ImageError::Truncated { end }));
    }
    Ok(())
}

/// The physical address in the PVH note of this note segment, if it has one.
fn find_pvh_entry(
    image: &Image<'_>,
    segment: usize,
    entry: &Elf64_Phdr,
) -> Result<Option<u32>, ElfError> {
    let malformed = || ElfError::Notes { segment };
    let len = Some(entry.p_filesz).filter(|len| *len <= MAX_NOTES);
    let len = len
        .and_then(|len| usize::try_from(len).ok())
        .ok_or_else(malformed)?;
    let mut bytes = vec![0; len];
    image.read_at(entry.p_offset, &mut bytes)?;
    // Names and descriptors are padded to 4 bytes, or to 8 where the segment says so.
    let align = if entry.p_align == 8 { 8 } else { 4 };
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let note = take_note(&mut rest, align).ok_or_else(malformed)?;
        if note.kind == NOTE_PHYS32_ENTRY && note.name == b"Xen\0" {
            // 4 bytes, or 8 with an address that still has to fit 32 bits.
            let entry = match *note.descriptor {
                [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => u32::from_le_bytes([a, b, c, d]),
                _ => return Err(malformed()),
            };
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

struct Note<'a> {
    kind: u32,
    name: &'a [u8],
    descriptor: &'a [u8],
}

/// Takes the first note off `rest`; `None` if it does not hold a whole one.
fn take_note<'a>(rest: &mut &'a [u8], align: usize) -> Option<Note<'a>> {
    let (header, mut body) = rest.split_first_chunk::<12>()?;
    let word = |at: usize| {
        header
            .get(at..at + 4)
            .and_then(|word| word.try_into().ok())
            .map(u32::from_le_bytes)
    };
    let mut take = |len: u32| {
        let len = usize::try_from(len).ok()?;
        let field = body.get(..len)?;
        // The padding of the last field may be missing.
        body = body
            .get(len.checked_next_multiple_of(align)?..)
            .unwrap_or_default();
        Some(field)
    };
    let name = take(word(0)?)?;
    let descriptor = take(word(4)?)?;
    let kind = word(8)?;
    *rest = body;
    Some(Note {
        kind,
        name,
        descriptor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_kernels::{
        ELF_ADDRESS, ELF_CONTENT, ELF_DATA, ELF_LOAD, ELF_NOTE, ELF_NOTES, elf, note,
        program_header, put,
    };

    const RAM: u64 = 16 << 20;

    fn plan_of(image: &[u8], protocol: KernelProtocol) -> Result<Kernel, ElfError> {
        plan(&Image::Bytes(image), image, protocol, RAM)
    }

    /// What `plan` says to the sample with `bytes` at `offset`.
    fn refusal(offset: usize, bytes: &[u8]) -> ElfError {
        let mut image = elf();
        put(&mut image, offset, bytes);
        plan_of(&image, KernelProtocol::Auto).unwrap_err()
    }

    #[test]
    fn the_note_decides_unless_told_otherwise() {
        let mut image = elf();
        let pvh = Entry::Pvh(ELF_ADDRESS as u32 + 16);
        let kernel = plan_of(&image, KernelProtocol::Auto).unwrap();
        assert_eq!((kernel.entry, kernel.end), (pvh, ELF_ADDRESS + 0x2000));
        assert_eq!((kernel.initrd_end, kernel.cmdline_max), (RAM, 2047));
        let segment = Segment {
            offset: ELF_DATA as u64,
            address: ELF_ADDRESS,
            file_len: ELF_CONTENT.len() as u64,
            memory_len: 0x2000,
        };
        assert_eq!(kernel.segments, [segment]);
        assert_eq!(plan_of(&image, KernelProtocol::Pvh).unwrap().entry, pvh);
        let long = Entry::Linux64(ELF_ADDRESS);
        assert_eq!(
            plan_of(&image, KernelProtocol::Linux64).unwrap().entry,
            long
        );

        put(&mut image, ELF_NOTE, &0_u32.to_le_bytes()); // no note segment
        assert_eq!(plan_of(&image, KernelProtocol::Auto).unwrap().entry, long);
        let error = plan_of(&image, KernelProtocol::Pvh).unwrap_err();
        assert!(matches!(error, ElfError::NoPvhEntry), "{error}");
    }

    #[test]
    fn notes_of_eight_bytes_and_eight_byte_padding() {
        let mut image = elf();
        let entry = ELF_ADDRESS + 32;
        let mut notes = note(5, b"GNU\0", &[0; 8]);
        notes.truncate(12 + 4);
        notes.extend([0; 4 + 8]); // name padded to 8, then the descriptor
        notes[4..8].copy_from_slice(&8_u32.to_le_bytes());
        let mut xen = note(18, b"Xen\0", &[]);
        xen[4..8].copy_from_slice(&8_u32.to_le_bytes());
        xen.extend([0; 4]);
        xen.extend(entry.to_le_bytes());
        notes.extend(xen);
        put(&mut image, ELF_NOTES, &notes);
        let fields = [ELF_NOTES as u64, 0, 0, notes.len() as u64];
        program_header(&mut image, ELF_NOTE, 4, fields, 0, 8);
        let kernel = plan_of(&image, KernelProtocol::Pvh).unwrap();
        assert_eq!(kernel.entry, Entry::Pvh(entry as u32));
    }

    #[test]
    fn other_machines_and_object_files() {
        assert!(matches!(
            refusal(4, &[1]),
            ElfError::OtherMachine { class: 1, .. }
        ));
        assert!(matches!(
            refusal(18, &[183, 0]),
            ElfError::OtherMachine { machine: 183, .. }
        ));
        let mut image = elf();
        put(&mut image, 5, &[2]);
        put(&mut image, 18, &[0, 22]);
        let error = plan_of(&image, KernelProtocol::Auto).unwrap_err();
        assert!(
            matches!(
                error,
                ElfError::OtherMachine {
                    data: 2,
                    machine: 22,
                    ..
                }
            ),
            "{error}"
        );
        assert!(matches!(refusal(16, &[1, 0]), ElfError::NoProgram));
        assert!(matches!(refusal(16, &[4, 0]), ElfError::NoProgram));
    }

    #[test]
    fn program_headers_are_bounded_and_whole() {
        assert!(matches!(refusal(56, &[0, 0]), ElfError::Empty));
        assert!(matches!(
            refusal(56, &[0xFF; 2]),
            ElfError::ProgramHeaders { .. }
        ));
        assert!(matches!(
            refusal(54, &[32, 0]),
            ElfError::ProgramHeaders { size: 32, .. }
        ));
        for offset in [1 << 40, u64::MAX - 8, u64::MAX] {
            let error = refusal(32, &u64::to_le_bytes(offset));
            assert!(
                matches!(error, ElfError::Image(ImageError::Truncated { .. })),
                "{error}"
            );
        }
        let short = &elf()[..40];
        let error = plan_of(short, KernelProtocol::Auto).unwrap_err();
        assert!(
            matches!(error, ElfError::Image(ImageError::Truncated { end: 64 })),
            "{error}"
        );
    }

    #[test]
    fn segments_fit_ram_above_the_first_mebibyte() {
        let (address, file_len, memory_len) = (ELF_LOAD + 24, ELF_LOAD + 32, ELF_LOAD + 40);
        for start in [
            0,
            KERNEL_MIN - 1,
            RAM - 0x1FFF,
            RAM,
            1 << 32,
            u64::MAX - 0x2000,
        ] {
            let error = refusal(address, &u64::to_le_bytes(start));
            assert!(
                matches!(
                    error,
                    ElfError::SegmentOutside {
                        segment: 0,
                        ram_end: RAM,
                        ..
                    }
                ),
                "{start:#x}: {error}"
            );
        }
        let wraps = refusal(address, &u64::to_le_bytes(u64::MAX - 0x100));
        assert!(
            matches!(wraps, ElfError::SegmentSize { segment: 0 }),
            "{wraps}"
        );
        let large = refusal(file_len, &u64::to_le_bytes(0x2001));
        assert!(
            matches!(large, ElfError::SegmentSize { segment: 0 }),
            "{large}"
        );
        let huge = refusal(memory_len, &u64::to_le_bytes(1 << 62));
        assert!(matches!(huge, ElfError::SegmentOutside { .. }), "{huge}");
    }

    #[test]
    fn overlapping_segments_and_wild_entries() {
        let mut image = elf();
        let fields = [ELF_DATA as u64, 0, ELF_ADDRESS + 0x1FFF, 4];
        program_header(&mut image, ELF_NOTE, 1, fields, 16, 1);
        let error = plan_of(&image, KernelProtocol::Auto).unwrap_err();
        let address = ELF_ADDRESS + 0x1FFF;
        assert!(matches!(error, ElfError::SegmentsOverlap { address: a } if a == address));
        for entry in [0, ELF_ADDRESS - 1, ELF_ADDRESS + 0x2000, u64::MAX] {
            let mut image = elf();
            put(&mut image, 24, &entry.to_le_bytes());
            let error = plan_of(&image, KernelProtocol::Linux64).unwrap_err();
            assert!(matches!(error, ElfError::EntryOutside { entry: e } if e == entry));
        }
    }

    #[test]
    fn malformed_notes() {
        let length = ELF_NOTE + 32;
        for len in [3, MAX_NOTES + 1, u64::MAX] {
            let error = refusal(length, &u64::to_le_bytes(len));
            assert!(
                matches!(error, ElfError::Notes { segment: 1 }),
                "{len}: {error}"
            );
        }
        for sizes in [[0xFF; 8], [0xFF, 0xFF, 0xFF, 0x7F, 4, 0, 0, 0]] {
            let error = refusal(ELF_NOTES, &sizes);
            assert!(matches!(error, ElfError::Notes { segment: 1 }), "{error}");
        }
        // The address of the Xen note, four bytes wide, made two.
        let xen = ELF_NOTES + note(18, b"GNU\0", &[0; 5]).len();
        let error = refusal(xen + 4, &[2, 0, 0, 0]);
        assert!(matches!(error, ElfError::Notes { segment: 1 }), "{error}");
    }
}
