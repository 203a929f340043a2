//! Writing memory to a file: sparse where the file can be, in chunks, with progress and cancel.
//!
//! Called on a job thread. The guest may run on: memory is read through volatile accessors, and a
//! page that changes meanwhile is written as it was at some moment. A caller that wants one moment
//! holds the vCPUs, as `dump-guest-memory` does.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::memory::GuestMemory;
use firmware::layout::AddressRange;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress,
};

use super::plan::DumpPlan;

/// Bytes copied between two looks at the cancel flag: about half a millisecond's worth.
const CHUNK: u64 = 1 << 20;
/// How long a stream without a reader is waited for before the cancel flag is looked at.
const CANCEL_LATENCY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// The unit of sparseness, and what a pipe takes at once when it says that it has room (PIPE_BUF).
const PAGE: usize = 4096;
/// A page of zeroes to compare with.
static ZEROES: [u8; PAGE] = [0; PAGE];

/// How a job ended that met no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All written, and on the disk as far as it goes.
    Complete {
        /// Bytes of the file that were really written; the rest is holes.
        written: u64,
    },
    /// The cancel flag was seen. The file is incomplete and the caller removes it.
    Cancelled,
}

/// Why memory could not be written out.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// Writing failed: ENOSPC, EIO, EDQUOT, EPIPE.
    #[error("writing the file failed at byte {offset}")]
    Write {
        /// Where in the file.
        offset: u64,
        /// The errno.
        source: io::Error,
    },
    /// The file could not be set up or finished.
    #[error("{call} on the file failed")]
    File {
        /// The system call.
        call: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// The plan names memory the guest does not have.
    #[error("guest memory at {address:#x} cannot be read")]
    Memory {
        /// Guest-physical address.
        address: u64,
        /// What the accessor said.
        source: vm_memory::GuestMemoryError,
    },
    /// The range asked for holds no RAM, or ends past the address space.
    #[error("no guest RAM lies in {length:#x} bytes from {address:#x}")]
    NoRam {
        /// First guest-physical address.
        address: u64,
        /// Bytes.
        length: u64,
    },
    /// The range asked for goes on where no RAM follows.
    #[error("guest RAM ends at {end:#x}; at most {} bytes can be had from {address:#x}", end - address)]
    BeyondRam {
        /// First guest-physical address.
        address: u64,
        /// The first one after all RAM.
        end: u64,
    },
}

/// Writes the planned dump. `progress` gets the bytes done, out of [`DumpPlan::total_bytes`], after
/// every chunk; it must be quick. A regular file is emptied first and may be sparse afterwards;
/// into a pipe or socket every byte is written. A reader that stalls does not delay the cancel.
///
/// # Errors
/// [`DumpError`]; the file is incomplete then.
pub fn run(
    plan: &DumpPlan,
    memory: &GuestMemory,
    out: &File,
    cancel: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<Outcome, DumpError> {
    let job = Job {
        memory,
        sink: Sink::new(out, cancel)?,
        cancel,
        progress,
    };
    or_cancelled(job.dump(plan), cancel)
}

/// A job that was cancelled has been, however it noticed.
fn or_cancelled(
    result: Result<Outcome, DumpError>,
    cancel: &AtomicBool,
) -> Result<Outcome, DumpError> {
    match result {
        Err(DumpError::Write { .. }) if cancel.load(Ordering::Relaxed) => Ok(Outcome::Cancelled),
        other => other,
    }
}

/// Writes `length` bytes of guest-physical memory from `address` to the file, as QMP's `pmemsave`
/// does. What is not RAM between two parts of it reads as zeroes; what follows all RAM is refused,
/// where QEMU would write zeroes until the disk is full.
///
/// # Errors
/// [`DumpError`]; [`DumpError::NoRam`] and [`DumpError::BeyondRam`] before anything is written.
pub fn pmemsave(
    memory: &GuestMemory,
    address: u64,
    length: u64,
    out: &File,
    cancel: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<Outcome, DumpError> {
    let end = address
        .checked_add(length)
        .filter(|end| {
            memory.iter().any(|region| {
                region.start_addr().0 < *end && region.last_addr().0 >= address && length > 0
            })
        })
        .ok_or(DumpError::NoRam { address, length })?;
    let ends = memory.iter().map(|region| region.last_addr().0);
    let ram_end = ends.max().unwrap_or(0).saturating_add(1);
    if end > ram_end {
        return Err(DumpError::BeyondRam {
            address,
            end: ram_end,
        });
    }
    let job = Job {
        memory,
        sink: Sink::new(out, cancel)?,
        cancel,
        progress,
    };
    or_cancelled(job.save(address, end), cancel)
}

/// One run: where from, where to, and who is told.
struct Job<'a> {
    memory: &'a GuestMemory,
    sink: Sink<'a>,
    cancel: &'a AtomicBool,
    progress: &'a mut dyn FnMut(u64),
}

impl Job<'_> {
    fn dump(mut self, plan: &DumpPlan) -> Result<Outcome, DumpError> {
        self.sink.write(plan.headers())?;
        for region in plan.regions() {
            if !self.copy(*region)? {
                return Ok(Outcome::Cancelled);
            }
        }
        self.sink.finish()
    }

    /// Everything from `address` to `end`, with zeroes for what is not RAM.
    fn save(mut self, address: u64, end: u64) -> Result<Outcome, DumpError> {
        let memory = self.memory;
        let mut at = address;
        for region in memory.iter() {
            let start = region.start_addr().0.max(at);
            let stop = region.start_addr().0.saturating_add(region.len()).min(end);
            if start >= stop {
                continue;
            }
            let len = stop - start;
            if !self.zeroes(start - at)? || !self.copy(AddressRange { start, len })? {
                return Ok(Outcome::Cancelled);
            }
            at = stop;
        }
        if !self.zeroes(end - at)? {
            return Ok(Outcome::Cancelled);
        }
        self.sink.finish()
    }

    /// Copies a range of RAM; false when cancelled.
    fn copy(&mut self, region: AddressRange) -> Result<bool, DumpError> {
        let mut buffer = Vec::new();
        let end = region.end().unwrap_or(u64::MAX);
        let mut at = region.start;
        while at < end {
            if self.cancelled() {
                return Ok(false);
            }
            let step = match self.extent(at, end - at) {
                Extent::Data(length) => length.min(CHUNK),
                Extent::Hole(length) => {
                    if !self.zeroes(length)? {
                        return Ok(false);
                    }
                    at += length;
                    continue;
                }
            };
            buffer.resize(usize::try_from(step).unwrap_or(PAGE), 0);
            self.memory
                .read_slice(&mut buffer, GuestAddress(at))
                .map_err(|source| DumpError::Memory {
                    address: at,
                    source,
                })?;
            self.sink.write_sparse(&buffer)?;
            at += step;
            (self.progress)(self.sink.offset);
        }
        Ok(true)
    }

    /// Writes or skips `length` zero bytes; false when cancelled.
    fn zeroes(&mut self, length: u64) -> Result<bool, DumpError> {
        let mut left = length;
        while left > 0 {
            if self.cancelled() {
                return Ok(false);
            }
            // A hole in a file costs nothing, however long; a pipe takes every byte.
            let step = if self.sink.regular {
                left
            } else {
                left.min(CHUNK)
            };
            self.sink.skip(step)?;
            left -= step;
            (self.progress)(self.sink.offset);
        }
        Ok(true)
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// What lies at `at`, at most `length` bytes of it. Where the backing file cannot tell, data.
    fn extent(&self, at: u64, length: u64) -> Extent {
        self.memory
            .to_region_addr(GuestAddress(at))
            .and_then(|(region, offset)| extent_in(region, offset))
            .map_or(Extent::Data(length), |extent| match extent {
                Extent::Hole(hole) => Extent::Hole(hole.min(length)),
                Extent::Data(data) => Extent::Data(data.min(length)),
            })
    }
}

/// A run of guest memory, at least one byte long.
enum Extent {
    /// Never touched by anyone: zeroes. Reading it through the mapping would make the kernel
    /// allocate it.
    Hole(u64),
    /// Perhaps something else.
    Data(u64),
}

/// The run of the backing file at `offset` in the region. Only a shared mapping shows its file:
/// behind a private one, a page may have been written and the file not. This moves the file's
/// position, which nobody uses: guest memory is only ever mapped.
fn extent_in(region: &GuestRegionMmap<()>, offset: MemoryRegionAddress) -> Option<Extent> {
    let backing = region
        .file_offset()
        .filter(|_| region.flags() & libc::MAP_SHARED != 0)?;
    let at = backing.start().checked_add(offset.0)?;
    let left = region.len().checked_sub(offset.0)?;
    let file = backing.file().as_fd();
    let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data,
        // No data from here to the end of the file.
        Err(Errno::NXIO) => return Some(Extent::Hole(left)),
        Err(_) => return None,
    };
    if data > at {
        return Some(Extent::Hole((data - at).min(left)));
    }
    // The guest may be changing the file: a run of no length is taken for one byte.
    let hole = rustix::fs::seek(file, SeekFrom::Hole(at)).ok()?;
    Some(Extent::Data(hole.saturating_sub(at).max(1).min(left)))
}

/// The file being written: sparse and positioned when regular, a plain stream otherwise.
struct Sink<'a> {
    file: &'a File,
    regular: bool,
    cancel: &'a AtomicBool,
    offset: u64,
    written: u64,
}

impl<'a> Sink<'a> {
    fn new(file: &'a File, cancel: &'a AtomicBool) -> Result<Self, DumpError> {
        let metadata = file.metadata().map_err(|source| DumpError::File {
            call: "fstat",
            source,
        })?;
        let regular = metadata.is_file();
        if regular {
            file.set_len(0).map_err(|source| DumpError::File {
                call: "ftruncate",
                source,
            })?;
        }
        Ok(Self {
            file,
            regular,
            cancel,
            offset: 0,
            written: 0,
        })
    }

    /// Writes all of it.
    fn write(&mut self, bytes: &[u8]) -> Result<(), DumpError> {
        let result = if self.regular {
            self.file.write_all_at(bytes, self.offset)
        } else {
            self.write_stream(bytes)
        };
        result.map_err(|source| DumpError::Write {
            offset: self.offset,
            source,
        })?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.offset = self.offset.saturating_add(length);
        self.written = self.written.saturating_add(length);
        Ok(())
    }

    /// Writes to a pipe or the like, whose reader may be slow or asleep. There is no waiting in
    /// write(2), which nothing but a signal would end: poll(2) says when a page fits.
    fn write_stream(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let mut room = [PollFd::new(self.file, PollFlags::OUT)];
            match poll(&mut room, Some(&CANCEL_LATENCY)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            let page = rest.get(..PAGE.min(rest.len())).unwrap_or(rest);
            match rustix::io::write(self.file, page) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Writes runs of pages that hold something, and skips runs of pages that do not.
    fn write_sparse(&mut self, bytes: &[u8]) -> Result<(), DumpError> {
        if !self.regular {
            return self.write(bytes);
        }
        let same = |a: &&[u8], b: &&[u8]| is_zero(a) == is_zero(b);
        let pages: Vec<&[u8]> = bytes.chunks(PAGE).collect();
        let mut rest = bytes;
        for run in pages.chunk_by(same) {
            let length = run.iter().map(|page| page.len()).sum();
            let Some((now, after)) = rest.split_at_checked(length) else {
                break;
            };
            if run.first().is_some_and(|page| is_zero(page)) {
                self.skip(u64::try_from(length).unwrap_or(u64::MAX))?;
            } else {
                self.write(now)?;
            }
            rest = after;
        }
        Ok(())
    }

    /// Leaves a hole in a regular file, writes zeroes to a stream.
    fn skip(&mut self, length: u64) -> Result<(), DumpError> {
        if self.regular {
            self.offset = self.offset.saturating_add(length);
            return Ok(());
        }
        let mut left = length;
        while left > 0 {
            let step = left.min(u64::try_from(PAGE).unwrap_or(left));
            let page = ZEROES
                .get(..usize::try_from(step).unwrap_or(PAGE))
                .unwrap_or(&ZEROES);
            self.write(page)?;
            left -= step;
        }
        Ok(())
    }

    /// Sets the length, which a hole at the end does not, and waits for the disk, so that a late
    /// ENOSPC or EIO is reported and not lost.
    fn finish(self) -> Result<Outcome, DumpError> {
        if self.regular {
            self.file
                .set_len(self.offset)
                .map_err(|source| DumpError::File {
                    call: "ftruncate",
                    source,
                })?;
            self.file.sync_data().map_err(|source| DumpError::File {
                call: "fdatasync",
                source,
            })?;
        }
        Ok(Outcome::Complete {
            written: self.written,
        })
    }
}

fn is_zero(page: &[u8]) -> bool {
    ZEROES.get(..page.len()) == Some(page)
}
