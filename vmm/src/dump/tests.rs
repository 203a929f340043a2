//! The dump read back by an independent reader, by readelf and by gdb.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::memory::GuestMemory;
use firmware::layout::AddressRange;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};

use super::*;

const MIB: u64 = 1 << 20;

/// Two regions over one shared memfd: 4 MiB at 0 and 2 MiB at 4 GiB, with something in a few pages.
fn memory() -> (GuestMemory, File) {
    let fd: OwnedFd = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(fd);
    file.set_len(6 * MIB).unwrap();
    let region = |at: u64, length: u64, offset: u64| {
        let backing = FileOffset::new(file.try_clone().unwrap(), offset);
        let map = MmapRegion::from_file(backing, usize::try_from(length).unwrap()).unwrap();
        GuestRegionMmap::new(map, GuestAddress(at)).unwrap()
    };
    let memory = GuestMemory::from_regions(vec![
        region(0, 4 * MIB, 0),
        region(1 << 32, 2 * MIB, 4 * MIB),
    ])
    .unwrap();
    memory.write_slice(b"first", GuestAddress(0x1000)).unwrap();
    memory
        .write_slice(b"second", GuestAddress(2 * MIB + 4093))
        .unwrap();
    memory
        .write_slice(b"last", GuestAddress((1 << 32) + 2 * MIB - 4))
        .unwrap();
    (memory, file)
}

fn regions() -> Vec<AddressRange> {
    vec![
        AddressRange {
            start: 0,
            len: 4 * MIB,
        },
        AddressRange {
            start: 1 << 32,
            len: 2 * MIB,
        },
    ]
}

fn vcpus() -> Vec<VcpuRegisters> {
    let mut vcpus = vec![VcpuRegisters::default(); 2];
    vcpus[0].regs.rip = 0xFFFF_FFFF_8123_4567;
    vcpus[0].regs.rsp = 0xFFFF_C900_0000_1000;
    vcpus[1].regs.rip = 0x10_0000;
    vcpus[0].sregs.cr3 = 0x9000;
    vcpus
}

fn dump(filter: Option<Filter>) -> (DumpPlan, tempfile::NamedTempFile, Outcome) {
    let plan = DumpPlan::new(&vcpus(), &regions(), filter).unwrap();
    let out = tempfile::NamedTempFile::new().unwrap();
    let (memory, _) = memory();
    let mut last = 0;
    let outcome = run(
        &plan,
        &memory,
        out.as_file(),
        &AtomicBool::new(false),
        &mut |done| {
            assert!(done >= last, "progress never goes back");
            last = done;
        },
    )
    .unwrap();
    assert_eq!(last, plan.total_bytes());
    (plan, out, outcome)
}

/// A program header, read without the writer's code.
#[derive(Debug, PartialEq)]
struct Segment {
    kind: u64,
    offset: u64,
    physical: u64,
    length: u64,
}

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length]
        .iter()
        .rev()
        .fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

fn segments(file: &[u8]) -> Vec<Segment> {
    assert_eq!(&file[..7], b"\x7FELF\x02\x01\x01");
    assert_eq!((number(file, 16, 2), number(file, 18, 2)), (4, 62));
    let at = usize::try_from(number(file, 32, 8)).unwrap();
    (0..usize::try_from(number(file, 56, 2)).unwrap())
        .map(|index| {
            let at = at + 56 * index;
            assert_eq!(
                number(file, at + 32, 8),
                number(file, at + 40, 8),
                "file and memory size"
            );
            Segment {
                kind: number(file, at, 4),
                offset: number(file, at + 8, 8),
                physical: number(file, at + 24, 8),
                length: number(file, at + 32, 8),
            }
        })
        .collect()
}

/// The byte of the file that holds a guest-physical address.
fn at_physical(file: &[u8], address: u64, length: usize) -> &[u8] {
    let segment = segments(file)
        .into_iter()
        .find(|s| s.kind == 1 && (s.physical..s.physical + s.length).contains(&address))
        .expect("the address is in the dump");
    let at = usize::try_from(segment.offset + address - segment.physical).unwrap();
    &file[at..at + length]
}

#[test]
fn the_file_holds_the_memory_and_is_sparse() {
    let (plan, out, outcome) = dump(None);
    let file = std::fs::read(out.path()).unwrap();
    assert_eq!(u64::try_from(file.len()).unwrap(), plan.total_bytes());
    assert_eq!(at_physical(&file, 0x1000, 5), b"first");
    assert_eq!(at_physical(&file, 2 * MIB + 4093, 6), b"second");
    assert_eq!(at_physical(&file, (1 << 32) + 2 * MIB - 4, 4), b"last");
    // "second" lies over a page border: four pages hold something.
    let headers = u64::try_from(plan.headers().len()).unwrap();
    assert_eq!(
        outcome,
        Outcome::Complete {
            written: headers + 4 * 4096
        }
    );
    assert!(out.as_file().metadata().unwrap().blocks() * 512 < MIB);
}

#[test]
fn holes_of_guest_memory_stay_holes() {
    let (memory, backing) = memory();
    let before = backing.metadata().unwrap().blocks();
    let plan = DumpPlan::new(&vcpus(), &regions(), None).unwrap();
    let out = tempfile::tempfile().unwrap();
    run(&plan, &memory, &out, &AtomicBool::new(false), &mut |_| ()).unwrap();
    assert_eq!(backing.metadata().unwrap().blocks(), before);
}

#[test]
fn notes_are_two_a_vcpu() {
    let (_, out, _) = dump(None);
    let file = std::fs::read(out.path()).unwrap();
    let note = &segments(&file)[0];
    assert_eq!(note.kind, 4);
    let mut at = usize::try_from(note.offset).unwrap();
    let end = at + usize::try_from(note.length).unwrap();
    let mut seen = Vec::new();
    while at < end {
        let description = usize::try_from(number(&file, at + 4, 4)).unwrap();
        let name = String::from_utf8(file[at + 12..at + 16].to_vec()).unwrap();
        seen.push((name, number(&file, at + 8, 4), description));
        at += 12 + 8 + description.next_multiple_of(4);
    }
    let expected = [
        ("CORE", 1, 336),
        ("CORE", 1, 336),
        ("QEMU", 0, 440),
        ("QEMU", 0, 440),
    ];
    assert_eq!(
        seen,
        expected.map(|(name, kind, length)| (name.to_owned(), kind, length))
    );
}

#[test]
fn a_filter_cuts_regions() {
    let filter = Filter {
        begin: 0x1000,
        length: 2 * MIB,
    };
    let (plan, out, _) = dump(Some(filter));
    assert_eq!(
        plan.regions(),
        [AddressRange {
            start: 0x1000,
            len: 2 * MIB
        }]
    );
    let file = std::fs::read(out.path()).unwrap();
    assert_eq!(at_physical(&file, 0x1000, 5), b"first");

    let across = Filter {
        begin: 3 * MIB,
        length: 1 << 32,
    };
    let plan = DumpPlan::new(&[], &regions(), Some(across)).unwrap();
    assert_eq!(
        plan.regions(),
        [
            AddressRange {
                start: 3 * MIB,
                len: MIB
            },
            AddressRange {
                start: 1 << 32,
                len: 2 * MIB
            },
        ]
    );
}

#[test]
fn bad_filters_are_refused() {
    let plan = |begin, length| DumpPlan::new(&[], &regions(), Some(Filter { begin, length }));
    assert_eq!(plan(0, 0), Err(PlanError::EmptyFilter));
    assert!(matches!(
        plan(1, u64::MAX),
        Err(PlanError::FilterOverflow { .. })
    ));
    assert!(matches!(plan(5 * MIB, MIB), Err(PlanError::NoRam { .. })));
    let endless = [AddressRange {
        start: 1,
        len: u64::MAX,
    }];
    assert_eq!(DumpPlan::new(&[], &endless, None), Err(PlanError::TooLarge));
    let many = vec![AddressRange { start: 0, len: 1 }; 0x10000];
    assert_eq!(DumpPlan::new(&[], &many, None), Err(PlanError::TooLarge));
}

#[test]
fn cancel_is_seen() {
    let plan = DumpPlan::new(&vcpus(), &regions(), None).unwrap();
    let (memory, _) = memory();
    let out = tempfile::tempfile().unwrap();
    let outcome = run(&plan, &memory, &out, &AtomicBool::new(true), &mut |_| ()).unwrap();
    assert_eq!(outcome, Outcome::Cancelled);
}

#[test]
fn a_full_disk_is_reported() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        println!("skipped a_full_disk_is_reported: no /dev/full");
        return;
    };
    let plan = DumpPlan::new(&vcpus(), &regions(), None).unwrap();
    let (memory, _) = memory();
    let error = run(&plan, &memory, &full, &AtomicBool::new(false), &mut |_| ()).unwrap_err();
    let DumpError::Write { offset: 0, source } = error else {
        panic!("{error:?}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn memory_outside_the_plan_is_an_error() {
    let plan = DumpPlan::new(
        &[],
        &[AddressRange {
            start: 8 * MIB,
            len: MIB,
        }],
        None,
    )
    .unwrap();
    let (memory, _) = memory();
    let out = tempfile::tempfile().unwrap();
    let error = run(&plan, &memory, &out, &AtomicBool::new(false), &mut |_| ()).unwrap_err();
    assert!(
        matches!(
            error,
            DumpError::Memory {
                address: 0x80_0000,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_pipe_gets_every_byte() {
    let (memory, _) = memory();
    let plan = DumpPlan::new(&vcpus(), &regions(), None).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let copy = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    });
    let writer = File::from(OwnedFd::from(writer));
    run(
        &plan,
        &memory,
        &writer,
        &AtomicBool::new(false),
        &mut |_| (),
    )
    .unwrap();
    drop(writer);
    let piped = copy.join().unwrap().unwrap();
    let (_, file, _) = dump(None);
    assert!(piped == std::fs::read(file.path()).unwrap());
}

#[test]
fn a_reader_that_stalls_does_not_delay_the_cancel() {
    let (memory, _backing) = memory();
    let (reader, writer) = std::io::pipe().unwrap();
    let file = File::from(OwnedFd::from(writer));
    let room = rustix::pipe::fcntl_getpipe_size(&reader).unwrap();
    let cancel = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let job = scope.spawn(|| pmemsave(&memory, 0, 4 * MIB, &file, &cancel, &mut |_| ()));
        while rustix::io::ioctl_fionread(&reader).unwrap() < room as u64 {
            std::thread::yield_now();
        }
        cancel.store(true, Ordering::Relaxed);
        assert_eq!(job.join().unwrap().unwrap(), Outcome::Cancelled);
    });
}

#[test]
fn pmemsave_fills_gaps_with_zeroes() {
    let (memory, _) = memory();
    let out = tempfile::NamedTempFile::new().unwrap();
    let save = |address, length| {
        pmemsave(
            &memory,
            address,
            length,
            out.as_file(),
            &AtomicBool::new(false),
            &mut |_| (),
        )
    };
    let length = (1 << 32) + 2 * MIB - 0x1000;
    save(0x1000, length).unwrap();
    assert_eq!(out.as_file().metadata().unwrap().len(), length);
    assert!(out.as_file().metadata().unwrap().blocks() * 512 < MIB);
    let mut file = out.reopen().unwrap();
    let mut start = [0; 5];
    file.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"first");

    save(0x1001, 3).unwrap();
    assert_eq!(std::fs::read(out.path()).unwrap(), b"irs");
    for (address, length) in [(0, 0), (5 * MIB, MIB), (u64::MAX, 2)] {
        assert!(matches!(
            save(address, length),
            Err(DumpError::NoRam { .. })
        ));
    }
    let refusal = save(0x1000, length + 1).unwrap_err().to_string();
    assert!(refusal.ends_with(&format!("{length} bytes can be had from 0x1000")));
    save(0x1000, 1 << 60).unwrap_err();
    assert_eq!(out.as_file().metadata().unwrap().len(), 3, "as it was");
}

#[test]
fn readelf_understands_it() {
    let (_, out, _) = dump(None);
    let Ok(output) = Command::new("readelf").arg("-aW").arg(out.path()).output() else {
        println!("skipped readelf_understands_it: no readelf");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{errors}\n{text}"
    );
    for needle in [
        "CORE (Core file)",
        "X86-64",
        "NT_PRSTATUS",
        "QEMU",
        "0x0000000100000000",
    ] {
        assert!(text.contains(needle), "{needle} in\n{text}");
    }
}

#[test]
fn gdb_sees_the_vcpus() {
    let (_, out, _) = dump(None);
    let gdb = Command::new("gdb")
        .args([
            "-nx",
            "-batch",
            "-ex",
            "info threads",
            "-ex",
            "info registers rip rsp",
        ])
        .arg("-c")
        .arg(out.path())
        .output();
    let Ok(output) = gdb else {
        println!("skipped gdb_sees_the_vcpus: no gdb");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("0xffffffff81234567"), "{text}");
    assert!(text.contains("0xffffc90000001000"), "{text}");
    assert!(
        text.contains("0x0000000000100000"),
        "the second vCPU: {text}"
    );
}
