//! What every engine of raw disks must do, asked of each: the plain one and the ring.
#![expect(unsafe_code, reason = "a disk's event is lent by its number")]

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use vm_memory::{Bytes, GuestAddress};

use super::open::{OpenError, open};
use super::raw::RawDisk;
use super::uring::UringDisk;
use super::*;
use crate::memory::{GuestMemory, SharedMemory};
use crate::virtio::fake_driver::{DATA, memory};

const MODES: [CacheMode; 5] = [
    CacheMode::Writeback,
    CacheMode::None,
    CacheMode::Writethrough,
    CacheMode::Directsync,
    CacheMode::Unsafe,
];

/// Puts an engine before a raw disk; `None` where the host has it not.
type Engine = fn(RawDisk) -> Option<Box<dyn Disk>>;

const ENGINES: [(&str, Engine); 2] = [("plain", plain), ("ring", ring)];

fn plain(raw: RawDisk) -> Option<Box<dyn Disk>> {
    Some(Box::new(raw))
}

fn ring(raw: RawDisk) -> Option<Box<dyn Disk>> {
    match UringDisk::new(raw) {
        Ok(disk) => Some(Box::new(disk)),
        Err((_, error)) => {
            eprintln!("skipped: the ring: {error}");
            None
        }
    }
}

fn buffers(memory: &SharedMemory, ranges: &[(u64, u32)]) -> GuestBuffers {
    let mut buffers = GuestBuffers::new(memory.clone());
    for &(address, len) in ranges {
        buffers.push(address, len).unwrap();
    }
    buffers
}

/// Carries `op` out and waits for its end.
fn outcome(disk: &mut dyn Disk, op: Op, buffers: &mut GuestBuffers, recall: &Recall) -> Outcome {
    match disk.submit(7, op, buffers, recall) {
        Submission::Done(outcome) => outcome,
        Submission::Pending => {
            disk.kick();
            let mut done = Vec::new();
            while done.is_empty() {
                wait(disk);
                disk.reap(recall, &mut done);
            }
            let Completion { tag, outcome } = done.remove(0);
            assert_eq!((tag, done.len()), (7, 0));
            outcome
        }
    }
}

/// Waits until there is something to reap.
fn wait(disk: &dyn Disk) {
    let event = disk.completion_event().unwrap();
    // SAFETY: the disk is borrowed, and with it its descriptor stays open.
    let event = unsafe { BorrowedFd::borrow_raw(event) };
    poll(&mut [PollFd::new(&event, PollFlags::IN)], None).unwrap();
}

fn done(disk: &mut dyn Disk, op: Op, buffers: &mut GuestBuffers) -> io::Result<()> {
    match outcome(disk, op, buffers, &Recall::default()) {
        Outcome::Success => Ok(()),
        Outcome::Failed(error) => Err(error),
        Outcome::Recalled => panic!("nobody wants it back"),
    }
}

/// A directory on the file system of the build, which has direct I/O more often than `/tmp`.
fn directory() -> tempfile::TempDir {
    let program = std::env::current_exe().unwrap();
    tempfile::tempdir_in(program.parent().unwrap()).unwrap()
}

/// A disk in `dir`; `None`, said by name, where the file system has no direct I/O.
fn disk(dir: &Path, bytes: u64, cache: CacheMode) -> Option<(RawDisk, File)> {
    let path = dir.join("disk.img");
    let plain = File::create(&path).unwrap();
    plain.set_len(bytes).unwrap();
    let plain = File::options().read(true).write(true).open(&path).unwrap();
    match open(&path, false, cache) {
        Ok(file) => Some((RawDisk::new(file, cache, false).unwrap(), plain)),
        Err(OpenError::NoDirectIo(path)) => {
            eprintln!("skipped: direct I/O on {}", path.display());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn all_cache_modes_do_io_at_any_alignment_up_to_an_odd_end() {
    let dir = directory();
    for (name, engine) in ENGINES {
        for mode in MODES {
            // No multiple of a page, nor of a sector: the last 100 bytes are left out.
            let bytes = 64 * 1024 + 3 * 512;
            let Some((raw, plain)) = disk(dir.path(), bytes + 100, mode) else {
                continue;
            };
            let file = raw.file().try_clone().unwrap();
            let Some(mut disk) = engine(raw) else {
                continue;
            };
            assert_eq!(disk.geometry().capacity, bytes);
            let memory = memory();
            let pattern: Vec<u8> = (0..8192_u32).map(|n| (n % 249) as u8).collect();
            for place in [DATA + 1, DATA + 0x1_0000] {
                memory.write_slice(&pattern, GuestAddress(place)).unwrap();
            }
            for (offset, address, durable) in [
                (0, DATA + 0x1_0000, false),
                (8192, DATA + 0x1_0000, true),
                (20_480 + 512, DATA + 1, true),
                (bytes - 8192, DATA + 1, false),
                (8192, DATA + 0x1_0000, true),
            ] {
                let odd = [
                    (address, 512),
                    (address + 512, 7),
                    (address + 519, 8192 - 519),
                ];
                for cut in [&odd[..], &[(address, 8192)]] {
                    plain.write_all_at(&[0; 8192], offset).unwrap();
                    let write = Op::Write { offset, durable };
                    done(&mut *disk, write, &mut buffers(&memory, cut)).unwrap();
                    let mut back = vec![0; 8192];
                    plain.read_exact_at(&mut back, offset).unwrap();
                    assert!(back == pattern, "{name} {mode:?} {offset}");
                    for into in [DATA + 0x2_0000, DATA + 0x2_2001] {
                        let read = Op::Read { offset };
                        done(&mut *disk, read, &mut buffers(&memory, &[(into, 8192)])).unwrap();
                        memory.read_slice(&mut back, GuestAddress(into)).unwrap();
                        assert!(back == pattern, "{name} {mode:?} {offset} {into:#x}");
                    }
                }
            }
            done(&mut *disk, Op::Flush, &mut buffers(&memory, &[])).unwrap();
            assert_eq!(plain.metadata().unwrap().len(), bytes + 100);
            let flags = rustix::fs::fcntl_getfl(&file).unwrap();
            assert_eq!(flags.contains(OFlags::DIRECT), mode.is_direct());
        }
    }
}

#[test]
fn zeroes_come_by_every_way_there_is() {
    let dir = directory();
    let memory = memory();
    for (name, engine) in ENGINES {
        for (can_punch, can_zero_range) in [(true, true), (false, true), (false, false)] {
            let (mut raw, plain) = disk(dir.path(), 1 << 20, CacheMode::Writeback).unwrap();
            (raw.can_punch, raw.can_zero_range) = (can_punch, can_zero_range);
            let Some(mut disk) = engine(raw) else {
                continue;
            };
            for (unmap, durable) in [(false, true), (true, true), (true, false)] {
                plain.write_all_at(&[1; 300_000], 0).unwrap();
                let (offset, len) = (512, 200_192);
                let op = Op::WriteZeroes {
                    offset,
                    len,
                    unmap,
                    durable,
                };
                done(&mut *disk, op, &mut buffers(&memory, &[])).unwrap();
                let mut back = vec![9; 300_000];
                plain.read_exact_at(&mut back, 0).unwrap();
                let zeroes = back.iter().filter(|&&byte| byte == 0).count();
                assert_eq!(zeroes as u64, len, "{name} {unmap}");
                let edges = (back[511], back[512], back[200_703], back[200_704]);
                assert_eq!(edges, (1, 0, 0, 1), "{name} {unmap}");
            }
            // A disk that cannot discard leaves the data as it is.
            plain.write_all_at(&[1; 4096], 0).unwrap();
            let discard = Op::Discard {
                offset: 0,
                len: 4096,
            };
            done(&mut *disk, discard, &mut buffers(&memory, &[])).unwrap();
            let mut back = [9; 4096];
            plain.read_exact_at(&mut back, 0).unwrap();
            assert_eq!(back, [if can_punch { 0 } else { 1 }; 4096], "{name}");
            assert_eq!(plain.metadata().unwrap().len(), 1 << 20);
        }
    }
}

#[test]
fn errors_of_the_host_come_through() {
    let memory = memory();
    for (name, engine) in ENGINES {
        // A descriptor that cannot be written.
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(4096).unwrap();
        let file = File::open(image.path()).unwrap();
        let raw = RawDisk::new(file, CacheMode::Writeback, true).unwrap();
        let Some(mut disk) = engine(raw) else {
            continue;
        };
        let sector = &mut buffers(&memory, &[(DATA, 512)]);
        let write = Op::Write {
            offset: 0,
            durable: true,
        };
        let error = done(&mut *disk, write, sector).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{name}");
        // A file that became shorter: what is there of it is not taken for the whole.
        image.as_file().set_len(100).unwrap();
        let sector = &mut buffers(&memory, &[(DATA, 512)]);
        let error = done(&mut *disk, Op::Read { offset: 0 }, sector).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
    }
    assert!(RawDisk::new(File::open("/").unwrap(), CacheMode::Writeback, true).is_err());
}

/// Some file systems know no synchronous writes, nor the zeroes and holes of `fallocate`.
#[test]
fn what_a_file_system_lacks_is_done_by_other_means() {
    let memory = memory();
    for (name, engine) in ENGINES {
        let (mut raw, plain) = disk(directory().path(), 1 << 20, CacheMode::Writethrough).unwrap();
        raw.can_dsync = false;
        let Some(mut disk) = engine(raw) else {
            continue;
        };
        memory.write_slice(&[5; 512], GuestAddress(DATA)).unwrap();
        for offset in [0, 512] {
            let write = Op::Write {
                offset,
                durable: true,
            };
            done(&mut *disk, write, &mut buffers(&memory, &[(DATA, 512)])).unwrap();
        }
        let mut back = [0; 1024];
        plain.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(back, [5; 1024], "{name}");
    }
}

/// A request of gigabytes is done in pieces, and given up between them when its worker is wanted.
#[test]
fn a_long_request_is_given_up_when_its_worker_is_wanted() {
    let dir = directory();
    let regions = [(GuestAddress(0), 64 << 20)];
    let memory: SharedMemory = GuestMemory::from_ranges(&regions).unwrap().into();
    let last = (64 << 20) - 1;
    memory.write_slice(&[7], GuestAddress(last)).unwrap();
    let recalled = Recall::default();
    recalled.set();
    for (name, engine) in ENGINES {
        let (mut raw, plain) = disk(dir.path(), 64 << 20, CacheMode::Writeback).unwrap();
        (raw.can_punch, raw.can_zero_range) = (false, false);
        let Some(mut disk) = engine(raw) else {
            continue;
        };
        let write = Op::Write {
            offset: 0,
            durable: false,
        };
        for op in [Op::Read { offset: 0 }, write] {
            let whole = &mut buffers(&memory, &[(0, 64 << 20)]);
            let ended = outcome(&mut *disk, op, whole, &recalled);
            assert!(matches!(ended, Outcome::Recalled), "{name}: {ended:?}");
            // What a driver would ask for is over sooner than anybody could ask for the worker.
            let usual = &mut buffers(&memory, &[(0, 1 << 20), (4 << 20, 1 << 20)]);
            let ended = outcome(&mut *disk, op, usual, &recalled);
            assert!(matches!(ended, Outcome::Success), "{name}: {ended:?}");
        }
        let zeroes = Op::WriteZeroes {
            offset: 0,
            len: 64 << 20,
            unmap: false,
            durable: false,
        };
        let ended = outcome(&mut *disk, zeroes, &mut buffers(&memory, &[]), &recalled);
        assert!(matches!(ended, Outcome::Recalled), "{name}: {ended:?}");
        let whole = &mut buffers(&memory, &[(0, 64 << 20)]);
        memory.write_slice(&[7], GuestAddress(last)).unwrap();
        done(&mut *disk, write, whole).unwrap();
        let mut back = [0];
        plain.read_exact_at(&mut back, last).unwrap();
        assert_eq!(back, [7], "{name}: to the last byte");
    }
}

#[test]
fn more_vectors_than_a_call_takes() {
    let dir = directory();
    let memory = memory();
    let pattern: Vec<u8> = (0..4096_u32).map(|n| (n % 241) as u8).collect();
    memory.write_slice(&pattern, GuestAddress(DATA)).unwrap();
    let cut: Vec<_> = (0..2048).map(|n| (DATA + n * 2, 2)).collect();
    for (name, engine) in ENGINES {
        let (raw, plain) = disk(dir.path(), 1 << 20, CacheMode::Writeback).unwrap();
        let Some(mut disk) = engine(raw) else {
            continue;
        };
        let write = Op::Write {
            offset: 512,
            durable: false,
        };
        done(&mut *disk, write, &mut buffers(&memory, &cut)).unwrap();
        let mut back = vec![0; 4096];
        plain.read_exact_at(&mut back, 512).unwrap();
        assert!(back == pattern, "{name}");
    }
}

/// More than the ring has places for, each answered once.
#[test]
fn many_requests_at_a_time() {
    const COUNT: u64 = 1000;
    let (raw, plain) = disk(directory().path(), 1 << 20, CacheMode::Writeback).unwrap();
    let Some(mut disk) = ring(raw) else {
        return;
    };
    let memory = memory();
    let recall = Recall::default();
    for number in 0..COUNT {
        let place = DATA + number * 8;
        memory.write_obj(number, GuestAddress(place)).unwrap();
        let write = Op::Write {
            offset: number * 8,
            durable: number % 7 == 0,
        };
        let submitted = disk.submit(number, write, &mut buffers(&memory, &[(place, 8)]), &recall);
        assert!(matches!(submitted, Submission::Pending));
    }
    disk.kick();
    let mut done = Vec::new();
    while (done.len() as u64) < COUNT {
        wait(&*disk);
        disk.reap(&recall, &mut done);
    }
    let mut tags: Vec<u64> = done.iter().map(|completion| completion.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..COUNT).collect::<Vec<_>>());
    let success = |completion: &Completion| matches!(completion.outcome, Outcome::Success);
    assert!(done.iter().all(success));
    for number in 0..COUNT {
        let mut back = [0; 8];
        plain.read_exact_at(&mut back, number * 8).unwrap();
        assert_eq!(u64::from_le_bytes(back), number);
    }
}

/// Locks must not last longer than the process, nor a file system be busy.
#[test]
fn a_ring_gives_its_file_up_at_once() {
    let (raw, _plain) = disk(directory().path(), 1 << 20, CacheMode::Writeback).unwrap();
    let file = raw.file().try_clone().unwrap();
    lock::lock(&file, lock::Access::Write).unwrap();
    let other = File::open(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&file)
    ));
    let other = other.unwrap();
    let disk = ring(raw);
    lock::check_unused(&other).unwrap_err();
    drop((disk, file));
    lock::check_unused(&other).unwrap();
}
