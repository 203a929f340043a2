//! Guest memory whose pages tell whether anybody wrote to them.
//!
//! The memory is a memfd, as a real guest's is: a page that was never touched is a hole in it. So
//! "nothing was written" is one `lseek`, and emptying the memory two `ftruncate`s. Reading through
//! the mapping fills holes too; [`Sparse::bytes`] reads the file.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use rustix::io::Errno;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

/// One region of guest memory from address 0, or two that meet in its middle.
pub struct Sparse {
    /// The memory as devices and loaders see it.
    pub memory: Arc<GuestMemoryMmap<()>>,
    file: File,
    len: u64,
}

impl Sparse {
    /// `len` bytes of empty memory in `regions` (1 or 2) regions of equal size.
    pub fn new(len: u64, regions: u64) -> Self {
        let fd = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memfd");
        let file = File::from(fd);
        file.set_len(len).expect("room");
        let size = len / regions;
        let ranges: Vec<_> = (0..regions)
            .map(|n| {
                let file = file.try_clone().expect("a descriptor");
                let size = usize::try_from(size).expect("small");
                let start = n * len / regions;
                (
                    GuestAddress(start),
                    size,
                    Some(FileOffset::new(file, start)),
                )
            })
            .collect();
        let memory = GuestMemoryMmap::from_ranges_with_files(&ranges).expect("a mapping");
        let memory = Arc::new(memory);
        Self { memory, file, len }
    }

    /// Empties the memory.
    pub fn clear(&self) {
        self.file.set_len(0).expect("a memfd shrinks");
        self.file.set_len(self.len).expect("and grows");
    }

    /// The ranges of pages that somebody touched, in order.
    pub fn touched(&self) -> Vec<Range<u64>> {
        let mut touched = Vec::new();
        let mut at = 0;
        while at < self.len {
            match seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => {
                    at = seek(&self.file, SeekFrom::Hole(start)).expect("a hole at the end");
                    touched.push(start..at);
                }
                Err(Errno::NXIO) => break,
                Err(error) => panic!("lseek: {error}"),
            }
        }
        touched
    }

    /// The bytes at `range`, without touching a page.
    pub fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let len = usize::try_from(range.end - range.start).expect("small");
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, range.start)
            .expect("inside the memory");
        bytes
    }
}
