//! The raw format: byte n of the disk is byte n of a file or block device.
//!
//! Owned by a device worker, called on the I/O thread; every operation completes before it
//! returns. The file arrives opened (see [`super::open`]); no path is resolved here.
//!
//! Direct I/O (`O_DIRECT`) wants buffers and offsets aligned as the file system says. A guest's
//! requests nearly always are; one that is not goes through the page cache, with `O_DIRECT` off
//! for that one operation, which the kernel keeps coherent with direct I/O. That is rare, needs no
//! bounce buffer, and is right at the end of a file whose size is no multiple of the alignment.
#![expect(
    unsafe_code,
    reason = "vectored I/O on raw addresses of guest memory; block ioctls"
)]

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;

use rustix::fs::{AtFlags, FallocateFlags, OFlags, StatxFlags};
use rustix::io::Errno;

use super::buffers::GuestBuffers;
use super::{CacheMode, Completion, Disk, Geometry, Op, SECTOR_SIZE, Submission};
use crate::io_thread::Recall;

/// Most vectors one system call takes (`IOV_MAX`, `UIO_MAXIOV`).
const IOV_MAX: usize = 1024;
/// Most bytes one system call is given, so that a request of gigabytes ends soon when its worker is
/// recalled. More than drivers put into one request of their own accord; a multiple of any
/// alignment.
const PIECE: usize = 2 << 20;
/// Alignment for direct I/O where the kernel tells none (before 6.1, or not the file system's to
/// say): what every disk and file system accepts.
const FALLBACK_ALIGN: u64 = 4096;
/// `BLKDISCARD`, `_IO(0x12, 119)` (linux/fs.h).
const BLKDISCARD: libc::Ioctl = 0x1277;
/// `BLKZEROOUT`, `_IO(0x12, 127)` (linux/fs.h).
const BLKZEROOUT: libc::Ioctl = 0x127f;

/// Zeroes to write where a file system cannot make them otherwise. Aligned for direct I/O.
#[repr(align(4096))]
struct Zeroes([u8; 65536]);
static ZEROES: Zeroes = Zeroes([0; 65536]);

/// Why a file cannot be a raw disk.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// Looking at the file failed.
    #[error("cannot determine {what} of the disk image")]
    Probe {
        /// What was asked for.
        what: &'static str,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("the disk image is neither a regular file nor a block device")]
    NotADisk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    BlockDevice,
}

/// What buffers and offsets must be multiples of, in direct I/O.
#[derive(Debug, Clone, Copy)]
struct Alignment {
    memory: u64,
    offset: u64,
}

/// A raw disk.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    kind: Kind,
    cache: CacheMode,
    geometry: Geometry,
    /// `None`: the page cache is used, anything goes.
    direct: Option<Alignment>,
    /// Cleared by the first answer that says otherwise, so that it is asked once.
    pub(super) can_punch: bool,
    pub(super) can_zero_range: bool,
    pub(super) can_dsync: bool,
    /// Something was written that no flush has followed.
    unflushed: bool,
}

impl RawDisk {
    /// A disk on `file`, opened for writing unless `read_only`, and with `O_DIRECT` if `cache` is
    /// direct ([`super::open::open`] does both). A regular file's last partial sector is left out.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn new(mut file: File, cache: CacheMode, read_only: bool) -> Result<Self, RawError> {
        let probe = |what| move |source| RawError::Probe { what, source };
        let file_type = file.metadata().map_err(probe("the type"))?.file_type();
        let kind = if file_type.is_block_device() {
            Kind::BlockDevice
        } else if file_type.is_file() {
            Kind::File
        } else {
            return Err(RawError::NotADisk);
        };
        let bytes = size(&mut file).map_err(probe("the size"))?;
        let capacity = bytes - bytes % SECTOR_SIZE;
        let sector = SECTOR_SIZE as u32;
        let (block_size, physical) = match kind {
            Kind::File => (sector, sector),
            Kind::BlockDevice => block_sizes(&file).map_err(probe("the block size"))?,
        };
        let physical_block_size = physical.max(block_size);
        let geometry = Geometry {
            capacity,
            block_size,
            physical_block_size,
            read_only,
        };
        let direct = cache
            .is_direct()
            .then(|| alignment(&file, kind, block_size));
        Ok(Self {
            file,
            kind,
            cache,
            geometry,
            direct,
            can_punch: true,
            can_zero_range: true,
            can_dsync: true,
            unflushed: false,
        })
    }

    /// The file, for locks and for handing it on.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Carries an operation out. [`io::ErrorKind::Interrupted`] means that `recall` was set.
    pub(super) fn perform(
        &mut self,
        op: Op,
        buffers: &mut GuestBuffers,
        recall: &Recall,
    ) -> io::Result<()> {
        match op {
            Op::Read { offset } => self.transfer(offset, buffers, recall, read_some),
            Op::Write { offset, durable } => self.write(offset, durable, buffers, recall),
            Op::Flush => self.flush(),
            Op::Discard { offset, len } => self.discard(offset, len),
            Op::WriteZeroes {
                offset,
                len,
                unmap,
                durable,
            } => {
                self.unflushed = true;
                self.write_zeroes(offset, len, unmap, recall)?;
                if durable { self.flush() } else { Ok(()) }
            }
        }
    }

    /// Whether direct I/O takes a transfer as it is; always so through the page cache.
    pub(super) fn fits(&self, offset: u64, buffers: &GuestBuffers) -> bool {
        self.direct
            .is_none_or(|align| align.fits(offset, buffers.iovecs()))
    }

    /// How a write begins: the flags of its calls, and whether a flush has to follow. A synchronous
    /// write covers its own data only, so what is older needs a flush.
    pub(super) fn durability(&self, durable: bool) -> (i32, bool) {
        match durable && self.flushes() {
            false => (0, false),
            true if self.unflushed || !self.can_dsync => (0, true),
            true => (libc::RWF_DSYNC, false),
        }
    }

    /// Whether flushes do anything.
    pub(super) fn flushes(&self) -> bool {
        self.cache != CacheMode::Unsafe
    }

    /// Whether something was written that no flush has followed.
    pub(super) fn set_unflushed(&mut self, unflushed: bool) {
        self.unflushed = unflushed;
    }

    /// The file system knows no synchronous writes.
    pub(super) fn forget_dsync(&mut self) {
        self.can_dsync = false;
    }

    /// The call that discards, if `fallocate` does.
    pub(super) fn discards_by(&self) -> Option<FallocateFlags> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        (self.can_punch && self.kind == Kind::File).then_some(how)
    }

    /// The call that makes zeroes, if `fallocate` does.
    pub(super) fn zeroes_by(&self, unmap: bool) -> Option<FallocateFlags> {
        if unmap {
            return self.discards_by();
        }
        let how = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        (self.can_zero_range && self.kind == Kind::File).then_some(how)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.cache != CacheMode::Unsafe {
            rustix::fs::fdatasync(&self.file)?;
            self.unflushed = false;
        }
        Ok(())
    }

    fn write(
        &mut self,
        offset: u64,
        durable: bool,
        buffers: &mut GuestBuffers,
        recall: &Recall,
    ) -> io::Result<()> {
        let durable = durable && self.cache != CacheMode::Unsafe;
        // A synchronous write covers its own data only, so what is older needs a flush.
        if !durable || self.unflushed || !self.can_dsync {
            self.unflushed = true;
            self.transfer(offset, buffers, recall, |fd, iovecs, at| {
                write_some(fd, iovecs, at, 0)
            })?;
            return if durable { self.flush() } else { Ok(()) };
        }
        let dsync = |fd, iovecs: &[libc::iovec], at| write_some(fd, iovecs, at, libc::RWF_DSYNC);
        match self.transfer(offset, buffers, recall, dsync) {
            // Refused before anything was written: some file systems know no per-call flags.
            Err(error) if is_unsupported(&error) => {
                self.can_dsync = false;
                self.write(offset, durable, buffers, recall)
            }
            result => result,
        }
    }

    /// Runs `some` until all of `buffers` is done. `some` answers how many bytes it did.
    fn transfer(
        &self,
        offset: u64,
        buffers: &mut GuestBuffers,
        recall: &Recall,
        some: impl Fn(RawFd, &[libc::iovec], u64) -> io::Result<usize>,
    ) -> io::Result<()> {
        let iovecs = buffers.iovecs_mut();
        let _buffered = match self.direct {
            Some(align) if !align.fits(offset, iovecs) => Some(WithoutDirect::new(&self.file)?),
            _ => None,
        };
        let fd = self.file.as_raw_fd();
        let (mut offset, mut rest) = (offset, iovecs);
        while !rest.is_empty() {
            let (whole, part) = piece(rest);
            let now = match &part {
                Some(part) => std::slice::from_ref(part),
                None => rest.get(..whole).unwrap_or(rest),
            };
            let done = match some(fd, now, offset) {
                Ok(0) => return Err(Errno::IO.into()),
                Ok(done) => done,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            offset += done as u64;
            rest = advance(rest, done);
            if !rest.is_empty() && recall.is_set() {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        Ok(())
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let result = match self.kind {
            _ if !self.can_punch => return Ok(()),
            Kind::File => self.fallocate(FallocateFlags::PUNCH_HOLE, offset, len),
            Kind::BlockDevice => block_range(&self.file, BLKDISCARD, offset, len),
        };
        match result {
            // Discarding is a hint; a disk that cannot simply keeps the data.
            Err(error) if is_unsupported(&error) => {
                self.can_punch = false;
                Ok(())
            }
            result => result,
        }
    }

    fn write_zeroes(
        &mut self,
        offset: u64,
        len: u64,
        unmap: bool,
        recall: &Recall,
    ) -> io::Result<()> {
        if unmap && self.can_punch {
            match self.fallocate(FallocateFlags::PUNCH_HOLE, offset, len) {
                Err(error) if is_unsupported(&error) => self.can_punch = self.kind != Kind::File,
                result => return result,
            }
        }
        if self.can_zero_range {
            let result = match self.kind {
                Kind::File => self.fallocate(FallocateFlags::ZERO_RANGE, offset, len),
                Kind::BlockDevice => block_range(&self.file, BLKZEROOUT, offset, len),
            };
            match result {
                Err(error) if is_unsupported(&error) => self.can_zero_range = false,
                result => return result,
            }
        }
        self.write_plain_zeroes(offset, len, recall)
    }

    fn fallocate(&self, how: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        let flags = how | FallocateFlags::KEEP_SIZE;
        Ok(rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(&self.file, flags, offset, len)
        })?)
    }

    fn write_plain_zeroes(&self, offset: u64, len: u64, recall: &Recall) -> io::Result<()> {
        let aligned = |align: Alignment| (offset | len).is_multiple_of(align.offset);
        let _buffered = match self.direct {
            Some(align) if !aligned(align) => Some(WithoutDirect::new(&self.file)?),
            _ => None,
        };
        let Zeroes(zeroes) = &ZEROES;
        let (mut offset, mut left) = (offset, len);
        while left > 0 {
            let count = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(zeroes.len());
            let now = zeroes.get(..count).unwrap_or(zeroes);
            std::os::unix::fs::FileExt::write_all_at(&self.file, now, offset)?;
            offset += count as u64;
            left -= count as u64;
            if left > 0 && recall.is_set() {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        Ok(())
    }
}

impl Disk for RawDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(
        &mut self,
        _tag: u64,
        op: Op,
        buffers: &mut GuestBuffers,
        recall: &Recall,
    ) -> Submission {
        Submission::Done(self.perform(op, buffers, recall).into())
    }

    fn kick(&mut self) {}

    fn completion_event(&self) -> Option<RawFd> {
        None
    }

    fn reap(&mut self, _recall: &Recall, _done: &mut Vec<Completion>) {}

    fn resize(&mut self, bytes: u64) -> io::Result<Geometry> {
        if !bytes.is_multiple_of(SECTOR_SIZE) {
            let text = format!("a disk's size must be a multiple of {SECTOR_SIZE} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if self.kind == Kind::File {
            self.file.set_len(bytes)?;
        }
        let present = size(&mut self.file)?;
        if present != bytes {
            // A block device has the size it has.
            let text = format!("the device has {present} bytes; change its size first");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.geometry.capacity = bytes;
        Ok(self.geometry)
    }
}

impl Alignment {
    fn fits(self, offset: u64, iovecs: &[libc::iovec]) -> bool {
        offset.is_multiple_of(self.offset)
            && iovecs.iter().all(|iovec| {
                (iovec.iov_base.addr() as u64).is_multiple_of(self.memory)
                    && (iovec.iov_len as u64).is_multiple_of(self.offset)
            })
    }
}

/// While this lives, `O_DIRECT` is off. Nobody else does I/O on the file meanwhile: the worker that
/// owns the disk is here.
struct WithoutDirect<'a> {
    file: &'a File,
    flags: OFlags,
}

impl<'a> WithoutDirect<'a> {
    fn new(file: &'a File) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(file)?;
        rustix::fs::fcntl_setfl(file, flags - OFlags::DIRECT)?;
        Ok(Self { file, flags })
    }
}

impl Drop for WithoutDirect<'_> {
    fn drop(&mut self) {
        // It was set before, so it can be set; if not, I/O is buffered from now on and still right.
        let _ = rustix::fs::fcntl_setfl(self.file, self.flags);
    }
}

/// Size in bytes. Seeking to the end tells it for block devices as well (`BLKGETSIZE64`).
fn size(file: &mut File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// Logical and physical block size of a block device.
fn block_sizes(file: &File) -> io::Result<(u32, u32)> {
    let sector = SECTOR_SIZE as u32;
    let logical = rustix::fs::ioctl_blksszget(file)?.max(sector);
    let physical = rustix::fs::ioctl_blkpbszget(file)?;
    let physical = if physical.is_power_of_two() {
        physical
    } else {
        logical
    };
    Ok((logical, physical))
}

/// What direct I/O on `file` wants.
fn alignment(file: &File, kind: Kind, block_size: u32) -> Alignment {
    let mask = StatxFlags::DIOALIGN;
    let told = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, mask)
        .ok()
        .filter(|stat| {
            StatxFlags::from_bits_retain(stat.stx_mask).contains(mask)
                && stat.stx_dio_mem_align.is_power_of_two()
                && stat.stx_dio_offset_align.is_power_of_two()
        });
    match told {
        Some(stat) => Alignment {
            memory: u64::from(stat.stx_dio_mem_align),
            offset: u64::from(stat.stx_dio_offset_align),
        },
        None if kind == Kind::BlockDevice => Alignment {
            memory: u64::from(block_size),
            offset: u64::from(block_size),
        },
        None => Alignment {
            memory: FALLBACK_ALIGN,
            offset: FALLBACK_ALIGN,
        },
    }
}

/// What one system call is to take of `iovecs`, which are not empty: so many whole ones, or part of
/// the first.
pub(super) fn piece(iovecs: &[libc::iovec]) -> (usize, Option<libc::iovec>) {
    let mut bytes = 0;
    let fits = |iovec: &&libc::iovec| {
        bytes += iovec.iov_len;
        bytes <= PIECE
    };
    let whole = iovecs.iter().take(IOV_MAX).take_while(fits).count();
    let part = iovecs
        .first()
        .filter(|_| whole == 0)
        .map(|first| libc::iovec {
            iov_base: first.iov_base,
            iov_len: PIECE,
        });
    (whole, part)
}

/// Skips `done` bytes of `iovecs`.
pub(super) fn advance(iovecs: &mut [libc::iovec], done: usize) -> &mut [libc::iovec] {
    let mut left = done;
    let mut whole = 0;
    for iovec in iovecs.iter_mut() {
        if left < iovec.iov_len {
            iovec.iov_base = iovec.iov_base.wrapping_byte_add(left);
            iovec.iov_len -= left;
            break;
        }
        left -= iovec.iov_len;
        whole += 1;
    }
    iovecs.get_mut(whole..).unwrap_or_default()
}

pub(super) fn is_unsupported(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY))
}

fn count(answer: isize) -> io::Result<usize> {
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

fn offset_argument(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| Errno::INVAL.into())
}

fn vector_count(iovecs: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(iovecs.len()).unwrap_or(libc::c_int::MAX)
}

fn read_some(fd: RawFd, iovecs: &[libc::iovec], offset: u64) -> io::Result<usize> {
    let offset = offset_argument(offset)?;
    // SAFETY: `iovecs` points to `vector_count` vectors, each a range of mapped guest memory that
    // the list they come from keeps mapped. Nothing in Rust refers to that memory.
    count(unsafe { libc::preadv(fd, iovecs.as_ptr(), vector_count(iovecs), offset) })
}

fn write_some(fd: RawFd, iovecs: &[libc::iovec], offset: u64, flags: i32) -> io::Result<usize> {
    let offset = offset_argument(offset)?;
    // SAFETY: as in `read_some`; the kernel only reads the memory.
    count(unsafe { libc::pwritev2(fd, iovecs.as_ptr(), vector_count(iovecs), offset, flags) })
}

fn block_range(file: &File, request: libc::Ioctl, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: both requests this is called with read two u64 at the pointer and write nothing.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request, range.as_ptr()) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
