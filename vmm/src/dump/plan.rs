//! What a dump will hold, decided before a byte is written.
//!
//! Pure: made on the main thread from facts. ELF64 structures: System V ABI, chapters 4 and 5.

use firmware::layout::AddressRange;

use super::notes::{VcpuRegisters, notes};

/// Bytes of an ELF64 header.
const EHDR: usize = 64;
/// Bytes of an ELF64 program header.
const PHDR: usize = 56;
/// `PT_LOAD`.
const PT_LOAD: u32 = 1;
/// `PT_NOTE`.
const PT_NOTE: u32 = 4;
/// The program-header count that means "see section 0"; one fewer is the most told plainly.
const PN_XNUM: usize = 0xFFFF;

/// The `begin` and `length` arguments: only this much of guest-physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// First guest-physical address.
    pub begin: u64,
    /// Bytes.
    pub length: u64,
}

/// Why there is nothing to dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// `length` is 0.
    #[error("the length to dump is 0")]
    EmptyFilter,
    /// `begin` + `length` is past the end of the address space.
    #[error("begin {begin:#x} plus length {length:#x} is past the end of the address space")]
    FilterOverflow {
        /// `begin`.
        begin: u64,
        /// `length`.
        length: u64,
    },
    /// No RAM lies in the range.
    #[error("no guest RAM lies between {begin:#x} and {end:#x}")]
    NoRam {
        /// First address asked for.
        begin: u64,
        /// One past the last.
        end: u64,
    },
    /// More regions than an ELF file tells plainly, or a file longer than a file can be.
    #[error("the memory map is too large for an ELF core")]
    TooLarge,
}

/// A dump, planned: its headers, and which memory goes where in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpPlan {
    headers: Vec<u8>,
    regions: Vec<AddressRange>,
    total: u64,
}

impl DumpPlan {
    /// Plans a dump of `regions`, which must be sorted and apart, or of the part of them in
    /// `filter`.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(
        vcpus: &[VcpuRegisters],
        regions: &[AddressRange],
        filter: Option<Filter>,
    ) -> Result<Self, PlanError> {
        let regions = clip(regions, filter)?;
        let phnum = u16::try_from(regions.len() + 1).map_err(|_| PlanError::TooLarge)?;
        if usize::from(phnum) >= PN_XNUM {
            return Err(PlanError::TooLarge);
        }
        let notes = notes(vcpus);
        let notes_at = EHDR + PHDR * usize::from(phnum);
        let data_at = to_u64(notes_at + notes.len())?;

        let mut headers = file_header(phnum);
        let notes_len = to_u64(notes.len())?;
        program_header(&mut headers, PT_NOTE, to_u64(notes_at)?, 0, notes_len);
        let mut at = data_at;
        for region in &regions {
            program_header(&mut headers, PT_LOAD, at, region.start, region.len);
            at = at.checked_add(region.len).ok_or(PlanError::TooLarge)?;
        }
        headers.extend(notes);
        // The greatest file offset is signed.
        if i64::try_from(at).is_err() {
            return Err(PlanError::TooLarge);
        }
        Ok(Self {
            headers,
            regions,
            total: at,
        })
    }

    /// Everything before the first byte of memory.
    #[must_use]
    pub fn headers(&self) -> &[u8] {
        &self.headers
    }

    /// The memory that follows, in file order.
    #[must_use]
    pub fn regions(&self) -> &[AddressRange] {
        &self.regions
    }

    /// Length of the finished file in bytes, holes included; what `query-dump` calls total.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total
    }
}

/// The regions, cut to the filter.
fn clip(regions: &[AddressRange], filter: Option<Filter>) -> Result<Vec<AddressRange>, PlanError> {
    let (begin, end) = match filter {
        None => (0, u64::MAX),
        Some(Filter { length: 0, .. }) => return Err(PlanError::EmptyFilter),
        Some(Filter { begin, length }) => {
            let end = begin.checked_add(length);
            (
                begin,
                end.ok_or(PlanError::FilterOverflow { begin, length })?,
            )
        }
    };
    let mut clipped = Vec::with_capacity(regions.len());
    for region in regions {
        let start = region.start.max(begin);
        let stop = region.end().ok_or(PlanError::TooLarge)?.min(end);
        if start < stop {
            clipped.push(AddressRange {
                start,
                len: stop - start,
            });
        }
    }
    if clipped.is_empty() {
        Err(PlanError::NoRam { begin, end })
    } else {
        Ok(clipped)
    }
}

/// The ELF64 header of a core of x86-64.
fn file_header(phnum: u16) -> Vec<u8> {
    /// 64-bit, little-endian, version 1, System V.
    const IDENT: [u8; 16] = *b"\x7FELF\x02\x01\x01\0\0\0\0\0\0\0\0\0";
    const ET_CORE: u16 = 4;
    const EM_X86_64: u16 = 62;
    let mut bytes = IDENT.to_vec();
    bytes.extend(ET_CORE.to_le_bytes());
    bytes.extend(EM_X86_64.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    // Entry point; program headers at 64; no section headers.
    for offset in [0u64, 64, 0] {
        bytes.extend(offset.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    // Sizes and counts: this header, a program header, how many; no sections.
    for half in [64u16, 56, phnum, 0, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    bytes
}

/// Appends a program header. Without paging the virtual address is 0, as QEMU writes it.
fn program_header(bytes: &mut Vec<u8>, kind: u32, offset: u64, physical: u64, length: u64) {
    bytes.extend(kind.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    for word in [offset, 0, physical, length, length, 0] {
        bytes.extend(word.to_le_bytes());
    }
}

fn to_u64(length: usize) -> Result<u64, PlanError> {
    u64::try_from(length).map_err(|_| PlanError::TooLarge)
}
