//! A kernel or initrd to load: an open file, or bytes in our own memory (the built-in guest, a
//! fuzzer's input).
//!
//! Every read names its offset, so loading again on a guest reset does not depend on where the last
//! one left the file. Called on the main thread, in the builder and on reset.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use vm_memory::{GuestAddress, GuestMemoryBackend, ReadVolatile, VolatileMemoryError};

use crate::GuestMemory;

/// Where the bytes of a kernel or initrd come from.
#[derive(Clone, Copy, Debug)]
pub enum Image<'a> {
    /// A regular file, open for reading. Its position is moved.
    File(&'a File),
    /// Bytes already in memory.
    Bytes(&'a [u8]),
}

/// Why reading an [`Image`] failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file ends before what its own headers promise, or was cut while it was read.
    #[error(
        "the file ends before byte {end:#x}, which its headers promise: it is truncated, copy or \
         download it again"
    )]
    Truncated {
        /// First byte after what should have been there.
        end: u64,
    },
    /// The system refused.
    #[error("reading at byte {offset:#x} failed")]
    Read {
        /// Where in the file.
        offset: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// Guest memory refused a range that was checked before: a mistake of ours.
    #[error("guest memory at {address:#x} cannot be written")]
    Memory {
        /// Where in guest memory.
        address: u64,
    },
}

impl Image<'_> {
    /// Length in bytes, as of now.
    pub(crate) fn len(&self) -> Result<u64, ImageError> {
        match self {
            Self::File(file) => {
                let metadata = file
                    .metadata()
                    .map_err(|source| ImageError::Read { offset: 0, source })?;
                Ok(metadata.len())
            }
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Reads into `buffer` from the start, as much as there is; returns how much that was.
    pub(crate) fn read_head(&self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let len = usize::try_from(self.len()?)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(head) = buffer.get_mut(..len) else {
            return Ok(0);
        };
        self.read_at(0, head)?;
        Ok(len)
    }

    /// Fills `buffer` from `offset` on.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let end = end_of(offset, buffer.len() as u64)?;
        let result = match self {
            Self::File(file) => file.read_exact_at(buffer, offset),
            Self::Bytes(bytes) => tail(bytes, offset).read_exact(buffer),
        };
        result.map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => ImageError::Truncated { end },
            _ => ImageError::Read { offset, source },
        })
    }

    /// Copies `len` bytes from `offset` to guest memory at `address`, without a buffer between.
    /// The caller has checked that the guest range lies in one region of RAM.
    pub(crate) fn copy_to_guest(
        &self,
        offset: u64,
        len: u64,
        memory: &GuestMemory,
        address: u64,
    ) -> Result<(), ImageError> {
        let end = end_of(offset, len)?;
        let slice = usize::try_from(len).ok();
        let slice = slice.and_then(|len| memory.get_slice(GuestAddress(address), len).ok());
        let mut slice = slice.ok_or(ImageError::Memory { address })?;
        let copied = match self {
            Self::File(file) => {
                let mut file: &File = file;
                file.seek(SeekFrom::Start(offset))
                    .map_err(|source| ImageError::Read { offset, source })?;
                file.read_exact_volatile(&mut slice)
            }
            Self::Bytes(bytes) => tail(bytes, offset).read_exact_volatile(&mut slice),
        };
        copied.map_err(|error| match error {
            VolatileMemoryError::IOError(source) if source.kind() == ErrorKind::UnexpectedEof => {
                ImageError::Truncated { end }
            }
            VolatileMemoryError::IOError(source) => ImageError::Read { offset, source },
            _ => ImageError::Memory { address },
        })
    }
}

/// First byte after `len` bytes at `offset`. No file reaches beyond the largest `off_t`, and the
/// system would call such an offset invalid.
fn end_of(offset: u64, len: u64) -> Result<u64, ImageError> {
    let end = offset.saturating_add(len);
    if i64::try_from(end).is_err() {
        return Err(ImageError::Truncated { end });
    }
    Ok(end)
}

/// What is left of `bytes` from `offset` on; nothing if that is past the end.
fn tail(bytes: &[u8], offset: u64) -> &[u8] {
    usize::try_from(offset)
        .ok()
        .and_then(|start| bytes.get(start..))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use vm_memory::Bytes;

    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap()
    }

    #[test]
    fn file_and_bytes_read_alike_whatever_the_position() {
        let content: Vec<u8> = (0..=255).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        for image in [Image::File(&file), Image::Bytes(&content)] {
            assert_eq!(image.len().unwrap(), 256);
            for _ in 0..2 {
                let memory = memory();
                image.copy_to_guest(16, 32, &memory, 0x1000).unwrap();
                let mut copied = [0; 33];
                memory
                    .read_slice(&mut copied, GuestAddress(0x1000))
                    .unwrap();
                assert_eq!(&copied[..32], &content[16..48]);
                assert_eq!(copied[32], 0);
            }
            let mut head = [0; 300];
            assert_eq!(image.read_head(&mut head).unwrap(), 256);
            assert_eq!(&head[..256], &content[..]);
        }
    }

    #[test]
    fn past_the_end_is_truncated_and_outside_memory_is_named() {
        let content = [7_u8; 64];
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        for image in [Image::File(&file), Image::Bytes(&content)] {
            for (offset, len) in [(60, 8), (64, 1), (1 << 40, 8), (u64::MAX >> 1, 1)] {
                let mut buffer = vec![0; usize::try_from(len).unwrap()];
                let error = image.read_at(offset, &mut buffer).unwrap_err();
                assert!(
                    matches!(error, ImageError::Truncated { end } if end == offset + len),
                    "{error}"
                );
                let error = image.copy_to_guest(offset, len, &memory(), 0).unwrap_err();
                assert!(matches!(error, ImageError::Truncated { .. }), "{error}");
            }
            let error = image.copy_to_guest(0, 64, &memory(), 0xFFF0).unwrap_err();
            assert!(
                matches!(error, ImageError::Memory { address: 0xFFF0 }),
                "{error}"
            );
        }
    }
}
