//! Nearly valid kernels, and what must hold of every load.

use std::fs::File;
use std::os::unix::fs::FileExt;

use firmware::boot::{BootInput, load};
use firmware::cpu_state::{BootProtocol, BootState};
use firmware::image::Image;
use firmware::kernel::KernelProtocol;
use firmware::layout;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::source::Source;
use crate::sparse::Sparse;

/// RAM of the guest that kernels are loaded into.
pub const RAM: u64 = layout::MIN_RAM;
const PAGE: u64 = 4096;
/// Where a kernel's content usually is in its file, and how much of it there is.
const CONTENT: usize = 0x400;
const CONTENT_LEN: usize = 0x400;

fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if image.len() < at + bytes.len() {
        image.resize(at + bytes.len(), 0);
    }
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// An ELF with some segments and notes.
pub fn elf(source: &mut Source<'_>) -> Vec<u8> {
    let content: Vec<u8> = (0..CONTENT_LEN).map(|n| (n % 251) as u8 + 1).collect();
    let mut image = Vec::new();
    put(&mut image, CONTENT, &content);
    let count = 1 + source.below(5);
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    let entry = 0x20_0000 + u64::from(source.u8()) * 64;
    for (at, value) in [(16, 2), (18, 62), (54, 56), (56, count as u64)] {
        let value = source.mostly(value) as u16;
        put(&mut image, at, &value.to_le_bytes());
    }
    for (at, value) in [(24, entry), (32, 64)] {
        put(&mut image, at, &source.mostly(value).to_le_bytes());
    }
    let mut address = 0x20_0000;
    for number in 0..count {
        let header = 64 + number * 56;
        if source.rarely(3) {
            let notes = notes(source);
            let at = CONTENT - notes.len();
            put(&mut image, at, &notes);
            let len = notes.len() as u64;
            let align = source.pick(&[4, 8, 0]);
            program_header(
                &mut image,
                header,
                source,
                4,
                [at as u64, 0, 0, len, len, align],
            );
            continue;
        }
        let file_len = source.below(CONTENT_LEN) as u64;
        let len = file_len + u64::from(source.u8()) * 64;
        let offset = (CONTENT + source.below(64)) as u64;
        let kind = source.pick(&[1, 1, 1, 0, 0x6474_e551]);
        program_header(
            &mut image,
            header,
            source,
            kind,
            [offset, 0, address, file_len, len, PAGE],
        );
        address = (address + len).next_multiple_of(source.pick(&[PAGE, 1, 16]));
    }
    source.damage(&mut image);
    image
}

fn program_header(
    image: &mut Vec<u8>,
    at: usize,
    source: &mut Source<'_>,
    kind: u32,
    fields: [u64; 6],
) {
    put(image, at, &kind.to_le_bytes());
    for (n, field) in fields.into_iter().enumerate() {
        put(image, at + 8 + n * 8, &source.mostly(field).to_le_bytes());
    }
}

fn notes(source: &mut Source<'_>) -> Vec<u8> {
    let mut notes = Vec::new();
    for _ in 0..=source.below(3) {
        let name = source.pick(&[&b"Xen\0"[..], b"GNU\0", b"", b"Xen"]);
        let descriptor = source.pick(&[
            &[0x10, 0, 0x20, 0][..],
            &[0, 0, 0x20, 0, 0, 0, 0, 0],
            &[],
            &[1; 5],
        ]);
        for word in [name.len() as u64, descriptor.len() as u64, 18] {
            notes.extend((source.mostly(word) as u32).to_le_bytes());
        }
        for field in [name, descriptor] {
            notes.extend(field);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
    }
    notes
}

/// A bzImage.
pub fn bzimage(source: &mut Source<'_>) -> Vec<u8> {
    let sectors = source.pick(&[1_u8, 2, 0, 4]);
    let payload = if sectors == 0 {
        5
    } else {
        usize::from(sectors) + 1
    } * 512;
    let len = 0x210 + source.below(64) * 16;
    let mut image = vec![0; payload];
    image.extend((0..len).map(|n| (n % 251) as u8 + 1));
    let fields: [(usize, usize, u64); 14] = [
        (0x1F1, 1, sectors.into()),
        (0x1F4, 4, len as u64 / 16),
        (0x1FE, 2, 0xAA55),
        (0x200, 2, 0x6AEB),
        (0x202, 4, 0x5372_6448),
        (0x206, 2, 0x020F),
        (0x211, 1, 1),
        (0x22C, 4, 0x7FFF_FFFF),
        (0x230, 4, 0x20_0000),
        (0x234, 1, 1),
        (0x236, 2, 0x7F),
        (0x238, 4, 2047),
        (0x258, 8, 0x20_0000),
        (0x260, 4, 0x10_0000),
    ];
    for (at, size, value) in fields {
        let value = source.mostly(value).to_le_bytes();
        put(&mut image, at, &value[..size]);
    }
    source.damage(&mut image);
    image
}

/// One load of a kernel.
pub struct Load<'a> {
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// The initrd's, if there is one.
    pub initrd: Option<&'a [u8]>,
    /// The command line.
    pub cmdline: &'a str,
    /// The protocol.
    pub protocol: KernelProtocol,
    /// Number of CPUs.
    pub cpus: u8,
    /// Slots with a device.
    pub slots: &'a [u8],
}

/// The protocols, the usual one first.
pub const PROTOCOLS: [KernelProtocol; 3] = [
    KernelProtocol::Auto,
    KernelProtocol::Pvh,
    KernelProtocol::Linux64,
];

/// Guest memory, and a file to load from: made once, emptied for each input.
pub struct Loader {
    ram: Sparse,
    file: File,
}

impl Default for Loader {
    fn default() -> Self {
        let fd = memfd_create("kernel", MemfdFlags::CLOEXEC).expect("a memfd");
        Self {
            ram: Sparse::new(RAM, 1),
            file: File::from(fd),
        }
    }
}

impl Loader {
    /// Loads, from bytes and from a file alike. A refused kernel leaves memory as it was; one that
    /// is taken is where the headers of an ELF say, the initrd is whole and apart from it, and
    /// nothing else is written above 1 MiB. Says whether it was taken.
    pub fn check(&self, input: &Load<'_>) -> bool {
        let Self { ram, file } = self;
        file.set_len(0).expect("a memfd shrinks");
        file.write_all_at(input.kernel, 0).expect("room");
        ram.clear();
        let from_file = self.load(Image::File(file), input);
        let by_file = ram.touched();
        let bytes_by_file = content(ram);
        ram.clear();
        let from_bytes = self.load(Image::Bytes(input.kernel), input);
        let touched = ram.touched();
        let taken = match (from_file, from_bytes) {
            (Ok(one), Ok(other)) => {
                assert_eq!(one, other);
                assert_eq!(bytes_by_file, content(ram));
                self.check_loaded(&one, input, &touched);
                true
            }
            (Err(one), Err(other)) => {
                assert_eq!(one, other);
                assert!(
                    touched.is_empty() && by_file.is_empty(),
                    "{touched:x?} {by_file:x?}"
                );
                false
            }
            (one, other) => panic!("from a file {one:?}, from bytes {other:?}"),
        };
        ram.clear();
        taken
    }

    fn load(&self, kernel: Image<'_>, input: &Load<'_>) -> Result<BootState, String> {
        let state = load(&BootInput {
            memory: &self.ram.memory,
            kernel,
            protocol: input.protocol,
            initrd: input.initrd.map(Image::Bytes),
            cmdline: input.cmdline,
            cpus: input.cpus,
            virtio_mmio_slots: input.slots,
            vm_generation_id: [7; 16],
        });
        state.map_err(|error| chain(&error))
    }

    fn number(&self, at: u64, len: u64) -> u64 {
        let bytes = self.ram.bytes(at..at + len);
        bytes
            .iter()
            .rev()
            .fold(0, |n, byte| n << 8 | u64::from(*byte))
    }

    fn check_loaded(&self, state: &BootState, input: &Load<'_>, touched: &[std::ops::Range<u64>]) {
        // (address, content, bytes in memory) of all that may be above 1 MiB.
        let mut parts: Vec<(u64, &[u8])> = if input.kernel.starts_with(b"\x7fELF") {
            elf_segments(input.kernel)
        } else {
            vec![bzimage_payload(input.kernel, state.rip - 0x200)]
        };
        let entry_inside = |at: u64| (layout::KERNEL_MIN..RAM).contains(&at);
        assert!(entry_inside(state.rip), "{state:x?}");
        let (start, len) = match state.protocol {
            BootProtocol::Pvh => match self.number(layout::PVH_START_INFO + 12, 4) {
                0 => (0, 0),
                _ => {
                    let module = self.number(layout::PVH_START_INFO + 16, 8);
                    (self.number(module, 8), self.number(module + 8, 8))
                }
            },
            BootProtocol::Linux64 => {
                let page = layout::ZERO_PAGE;
                (
                    self.number(page + 0x218, 4) | self.number(page + 0xC0, 4) << 32,
                    self.number(page + 0x21C, 4) | self.number(page + 0xC4, 4) << 32,
                )
            }
        };
        let initrd = input.initrd.unwrap_or_default();
        assert_eq!(len, initrd.len() as u64);
        if len > 0 {
            assert!(start.is_multiple_of(PAGE) && start + len <= RAM);
            for (address, content) in &parts {
                let end = address + content.len() as u64;
                assert!(content.is_empty() || end <= start || start + len <= *address);
            }
            parts.push((start, initrd));
        }
        for (address, content) in &parts {
            let end = address + content.len() as u64;
            assert!(*content == self.ram.bytes(*address..end), "at {address:#x}");
        }
        for range in touched {
            for page in (range.start..range.end).step_by(PAGE as usize) {
                let named = parts.iter().any(|(address, content)| {
                    page + PAGE > *address && page < address + content.len() as u64
                });
                assert!(named || page < layout::KERNEL_MIN, "{page:#x} was written");
            }
        }
    }
}

fn content(ram: &Sparse) -> Vec<(u64, Vec<u8>)> {
    let ranges = ram.touched();
    ranges
        .into_iter()
        .map(|range| (range.start, ram.bytes(range)))
        .collect()
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn field(image: &[u8], at: usize, len: usize) -> u64 {
    image[at..at + len]
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// Where a taken ELF's loadable segments are and what they hold. A header that lies is a panic: it
/// should not have been taken.
fn elf_segments(image: &[u8]) -> Vec<(u64, &[u8])> {
    let (table, count) = (field(image, 32, 8) as usize, field(image, 56, 2) as usize);
    (0..count)
        .map(|number| table + number * 56)
        .filter(|at| field(image, *at, 4) == 1 && field(image, at + 40, 8) > 0)
        .map(|at| {
            let (offset, address) = (field(image, at + 8, 8), field(image, at + 24, 8));
            let (len, memory_len) = (field(image, at + 32, 8), field(image, at + 40, 8));
            assert!(address >= layout::KERNEL_MIN && address + memory_len <= RAM);
            if len == 0 {
                return (address, &[][..]);
            }
            (address, &image[offset as usize..][..len as usize])
        })
        .collect()
}

fn bzimage_payload(image: &[u8], load: u64) -> (u64, &[u8]) {
    let sectors = match field(image, 0x1F1, 1) as usize {
        0 => 4,
        sectors => sectors,
    };
    let payload = &image[(sectors + 1) * 512..];
    let len = (field(image, 0x1F4, 4) as usize * 16).min(payload.len());
    (load, &payload[..len])
}
