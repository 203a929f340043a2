//! Which kind of kernel a file is, and where it goes.
//!
//! `plan` reads headers only and decides; `Kernel::copy_to` then copies. Between the two the
//! loader places the initrd and checks the command line, so that a refusal comes before anything is
//! written. Called on the main thread.

use linux_loader::bootparam::setup_header;

use crate::image::{Image, ImageError};
use crate::{GuestMemory, bzimage, elf, foreign, layout};

pub use crate::bzimage::BzImageError;
pub use crate::elf::ElfError;

/// Which boot protocol to use with an ELF kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelProtocol {
    /// PVH if the kernel has that entry, else the 64-bit protocol. A bzImage is always entered by
    /// the 64-bit protocol.
    #[default]
    Auto,
    /// PVH, or refuse.
    Pvh,
    /// Linux's 64-bit protocol.
    Linux64,
}

/// Why the kernel was refused. The texts speak of the file as "it".
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// A known kind of file, but no kernel.
    #[error("it is {0}")]
    Foreign(&'static str),
    /// Nothing we know.
    #[error("it is neither an ELF vmlinux nor a bzImage")]
    Unknown,
    /// An ELF that cannot be loaded.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// A bzImage that cannot be loaded.
    #[error(transparent)]
    BzImage(#[from] BzImageError),
    /// Reading failed.
    #[error("it cannot be read")]
    Image(#[from] ImageError),
}

/// Where execution starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// In 32-bit mode without paging.
    Pvh(u32),
    /// In 64-bit mode.
    Linux64(u64),
}

impl Entry {
    pub(crate) fn address(self) -> u64 {
        match self {
            Self::Pvh(address) => u64::from(address),
            Self::Linux64(address) => address,
        }
    }
}

/// A piece of the file and where it goes. What the file does not fill is 0, because guest RAM is
/// empty when a kernel is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Offset in the file.
    pub(crate) offset: u64,
    /// Guest-physical address.
    pub(crate) address: u64,
    /// Bytes in the file.
    pub(crate) file_len: u64,
    /// Bytes in memory, at least as many. Together with `address` checked to be inside low RAM.
    pub(crate) memory_len: u64,
}

impl Segment {
    /// First address after it.
    pub(crate) fn end(&self) -> u64 {
        self.address.saturating_add(self.memory_len)
    }
}

/// A kernel that can be loaded: everything checked, nothing written.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) entry: Entry,
    /// In ascending order, not overlapping, between `layout::KERNEL_MIN` and the end of low RAM.
    pub(crate) segments: Vec<Segment>,
    /// First address after all memory that the kernel uses before it has read its memory map.
    pub(crate) end: u64,
    /// First address that the initrd may not use; at most the end of low RAM.
    pub(crate) initrd_end: u64,
    /// Longest command line, without its NUL; below `layout::CMDLINE_MAX`.
    pub(crate) cmdline_max: usize,
    /// The header of a bzImage, which goes back to the kernel in the zero page.
    pub(crate) setup_header: Option<setup_header>,
}

impl Kernel {
    /// Copies the kernel to guest memory.
    pub(crate) fn copy_to(
        &self,
        image: &Image<'_>,
        memory: &GuestMemory,
    ) -> Result<(), KernelError> {
        for segment in self.segments.iter().filter(|segment| segment.file_len > 0) {
            image.copy_to_guest(segment.offset, segment.file_len, memory, segment.address)?;
        }
        Ok(())
    }
}

/// Bytes that are read to tell what a file is: more than any of the headers needs.
const HEAD_LEN: usize = 4096;

/// Plans to load the kernel in `image` into a guest whose low RAM ends at `ram_end`.
pub(crate) fn plan(
    image: &Image<'_>,
    protocol: KernelProtocol,
    ram_end: u64,
) -> Result<Kernel, KernelError> {
    let ram_end = ram_end.min(layout::LOW_RAM_MAX);
    let mut head = [0; HEAD_LEN];
    let len = image.read_head(&mut head)?;
    let head = head.get(..len).unwrap_or_default();
    if head.is_empty() {
        return Err(KernelError::Empty);
    }
    if head.starts_with(b"\x7fELF") {
        return Ok(elf::plan(image, head, protocol, ram_end)?);
    }
    if bzimage::is_bzimage(head) {
        return Ok(bzimage::plan(image, head, protocol, ram_end)?);
    }
    Err(foreign::describe(head).map_or(KernelError::Unknown, KernelError::Foreign))
}
