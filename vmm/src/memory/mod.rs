//! Guest RAM: one shared memfd, sealed in size, mapped as the machine's RAM regions.
//!
//! A memfd rather than anonymous memory, because holes stay visible (an idle guest saves in
//! milliseconds) and because the whole of RAM can be handed to another process by descriptor.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use devices::memory::{GuestMemory, SharedMemory};
use firmware::layout::AddressRange;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use vm_memory::{FileOffset, GuestAddress};

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The memfd could not be made.
    #[error("cannot create {bytes} bytes of guest memory")]
    Create {
        /// RAM size asked for.
        bytes: u64,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The memfd could not be mapped.
    #[error(
        "cannot map {bytes} bytes of guest memory: give the guest less memory, or raise this \
         process's address-space limit (ulimit -v)"
    )]
    Map {
        /// RAM size asked for.
        bytes: u64,
        /// What the mapping code answered.
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    /// A size this host cannot address.
    #[error("{bytes} bytes of guest memory do not fit this host's address space")]
    TooLarge {
        /// RAM size asked for.
        bytes: u64,
    },
    /// RAM could not be emptied for a reset.
    #[error("cannot empty guest memory for the reset")]
    Clear(#[source] io::Error),
}

/// The guest's RAM and the file behind it.
#[derive(Debug)]
pub struct GuestRam {
    file: File,
    size: u64,
    memory: SharedMemory,
}

impl GuestRam {
    /// Creates `regions`, all zero and unbacked until touched.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn new(regions: &[AddressRange]) -> Result<Self, MemoryError> {
        let size: u64 = regions.iter().map(|region| region.len).sum();
        let file = sealed_memfd(size).map_err(|e| MemoryError::Create {
            bytes: size,
            source: e.into(),
        })?;
        let mut ranges = Vec::with_capacity(regions.len());
        let mut offset = 0;
        for &AddressRange { start, len } in regions {
            let backing = file.try_clone().map_err(|source| MemoryError::Create {
                bytes: size,
                source,
            })?;
            let bytes = usize::try_from(len).map_err(|_| MemoryError::TooLarge { bytes: size })?;
            ranges.push((
                GuestAddress(start),
                bytes,
                Some(FileOffset::new(backing, offset)),
            ));
            offset += len;
        }
        let memory =
            GuestMemory::from_ranges_with_files(ranges).map_err(|source| MemoryError::Map {
                bytes: size,
                source,
            })?;
        Ok(Self {
            file,
            size,
            memory: Arc::new(memory),
        })
    }

    /// The mapped regions.
    #[must_use]
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// Another descriptor of the file behind it.
    ///
    /// # Errors
    /// EMFILE.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// RAM size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes all of RAM zero again and gives its pages back to the host. vCPUs and workers must be
    /// held.
    ///
    /// # Errors
    /// [`MemoryError::Clear`].
    pub fn clear(&self) -> Result<(), MemoryError> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, 0, self.size)
            .map_err(|e| MemoryError::Clear(e.into()))
    }
}

/// A memfd of `size` bytes that can neither grow nor shrink, nor be executed.
fn sealed_memfd(size: u64) -> Result<File, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // NOEXEC_SEAL exists since Linux 6.3; older kernels refuse the flag.
    let fd = match rustix::fs::memfd_create(c"thimble-ram", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(c"thimble-ram", flags)?,
        other => other?,
    };
    rustix::fs::ftruncate(&fd, size)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend};

    fn range(start: u64, len: u64) -> AddressRange {
        AddressRange { start, len }
    }

    #[test]
    fn regions_share_one_sealed_file_and_clear_to_zero() {
        let regions = [range(0, 0x20_0000), range(0x1_0000_0000, 0x10_0000)];
        let ram = GuestRam::new(&regions).unwrap();
        assert_eq!(ram.size(), 0x30_0000);
        assert_eq!(ram.file.metadata().unwrap().len(), 0x30_0000);
        ram.file.set_len(0x1000).unwrap_err();
        ram.file.set_len(0x40_0000).unwrap_err();

        let high = GuestAddress(0x1_0000_0000);
        ram.memory().write_obj(0x5a_u8, high).unwrap();
        let mut byte = [0];
        rustix::io::pread(&ram.file, &mut byte, 0x20_0000).unwrap();
        assert_eq!(byte, [0x5a], "the second region continues the file");
        assert_eq!(ram.memory().num_regions(), 2);

        ram.clear().unwrap();
        assert_eq!(ram.memory().read_obj::<u8>(high).unwrap(), 0);
    }

    #[test]
    fn a_size_the_host_cannot_map_is_an_error() {
        let error = GuestRam::new(&[range(0, 1 << 62)]).unwrap_err();
        assert!(
            matches!(error, MemoryError::Map { .. } | MemoryError::Create { .. }),
            "{error}"
        );
    }
}
