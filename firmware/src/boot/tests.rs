//! Whole loads into real guest memory: what a kernel would find there, that a second load finds the
//! same, and that hostile files get errors.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::cpu_state::BootProtocol;
use crate::kernel::ElfError;
use crate::sample_kernels::{
    BZIMAGE_ADDRESS, BZIMAGE_CONTENT, ELF_ADDRESS, ELF_CONTENT, bzimage, elf, put,
};

const RAM: u64 = 16 << 20;
const CMDLINE: &str = "console=ttyS0 root=/dev/vda";
const GENERATION: [u8; 16] = *b"generation-id-16";

fn memory(size: u64) -> GuestMemory {
    let regions: Vec<_> = layout::ram_regions(size)
        .iter()
        .map(|part| (GuestAddress(part.start), usize::try_from(part.len).unwrap()))
        .collect();
    GuestMemory::from_ranges(&regions).unwrap()
}

fn input<'a>(memory: &'a GuestMemory, kernel: &'a [u8]) -> BootInput<'a> {
    BootInput {
        memory,
        kernel: Image::Bytes(kernel),
        protocol: KernelProtocol::Auto,
        initrd: None,
        cmdline: CMDLINE,
        cpus: 2,
        virtio_mmio_slots: &[0, 1],
        vm_generation_id: GENERATION,
    }
}

fn bytes(memory: &GuestMemory, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory
        .read_slice(&mut bytes, GuestAddress(address))
        .unwrap();
    bytes
}

fn number(memory: &GuestMemory, address: u64, len: usize) -> u64 {
    bytes(memory, address, len)
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Everything below the kernel, and the kernel's first pages.
fn snapshot(memory: &GuestMemory) -> Vec<u8> {
    bytes(memory, 0, 0x30_0000)
}

fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[test]
fn pvh_kernel_finds_its_start_information() {
    let memory = memory(RAM);
    let kernel = elf();
    let initrd = vec![0x5A; 5000];
    let mut input = input(&memory, &kernel);
    input.initrd = Some(Image::Bytes(&initrd));
    let state = load(&input).unwrap();
    assert_eq!(state.protocol, BootProtocol::Pvh);
    assert_eq!((state.rip, state.rbx), (ELF_ADDRESS + 16, 0x6000));

    assert_eq!(bytes(&memory, ELF_ADDRESS, ELF_CONTENT.len()), ELF_CONTENT);
    assert_eq!(number(&memory, state.rbx, 4), 0x336E_C578);
    let cmdline = number(&memory, state.rbx + 24, 8);
    assert_eq!(
        bytes(&memory, cmdline, CMDLINE.len() + 1),
        [CMDLINE.as_bytes(), b"\0"].concat()
    );
    let rsdp = number(&memory, state.rbx + 32, 8);
    assert_eq!(bytes(&memory, rsdp, 8), b"RSD PTR ");
    let module = number(&memory, state.rbx + 16, 8);
    let (start, len) = (number(&memory, module, 8), number(&memory, module + 8, 8));
    assert_eq!((start, len), (RAM - 0x2000, 5000));
    assert_eq!(bytes(&memory, start, 5000), initrd);
    assert_eq!(bytes(&memory, layout::VM_GENERATION_ID, 16), GENERATION);
    assert_eq!(
        bytes(&memory, layout::RESET_VECTOR, 4),
        [0xB0, 0xFE, 0xE6, 0x64]
    );
    assert_eq!(bytes(&memory, state.gdt.base, 48), state.gdt_bytes());
}

#[test]
fn bzimage_finds_its_header_again_in_the_zero_page() {
    let memory = memory(RAM);
    let kernel = bzimage();
    let initrd = vec![0x5A; 4096];
    let mut input = input(&memory, &kernel);
    input.initrd = Some(Image::Bytes(&initrd));
    let state = load(&input).unwrap();
    assert_eq!(state.protocol, BootProtocol::Linux64);
    assert_eq!((state.rip, state.rsi), (BZIMAGE_ADDRESS + 0x200, 0x7000));
    assert_eq!(
        bytes(&memory, BZIMAGE_ADDRESS, BZIMAGE_CONTENT.len()),
        BZIMAGE_CONTENT
    );

    let field = |offset, len| number(&memory, state.rsi + offset, len);
    assert_eq!(field(0x70, 8), 0xE_0000, "acpi_rsdp_addr");
    assert_eq!(field(0x1EF, 1), 0, "sentinel");
    assert_eq!((field(0x1FE, 2), field(0x202, 4)), (0xAA55, 0x5372_6448));
    assert_eq!((field(0x206, 2), field(0x210, 1)), (0x020F, 0xFF));
    assert_eq!((field(0x218, 4), field(0x21C, 4)), (RAM - 4096, 4096));
    assert_eq!(field(0x228, 4), 0x2_0000, "cmd_line_ptr");
    assert_eq!(field(0x1E8, 1), 4, "e820_entries");
    let entry = |n: u64| {
        (
            field(0x2D0 + n * 20, 8),
            field(0x2D8 + n * 20, 8),
            field(0x2E0 + n * 20, 4),
        )
    };
    assert_eq!(entry(0), (0, 0x9_FC00, 1));
    assert_eq!(entry(2), (0xE_0000, 0x2_0000, 2));
    assert_eq!(entry(3), (0x10_0000, RAM - 0x10_0000, 1));
    // Page tables: the root's first entry leads to the kernel's address.
    assert_eq!(number(&memory, state.cr3, 8), layout::PDPT | 3);
    assert_eq!(
        number(&memory, layout::PAGE_DIRECTORY + 8, 8),
        0x20_0000 | 0x83
    );
}

#[test]
fn elf_by_the_64_bit_protocol_gets_a_header_of_ours() {
    let memory = memory(RAM);
    let kernel = elf();
    let mut input = input(&memory, &kernel);
    input.protocol = KernelProtocol::Linux64;
    let state = load(&input).unwrap();
    assert_eq!((state.rip, state.rsi), (ELF_ADDRESS, 0x7000));
    assert_eq!(number(&memory, 0x7202, 4), 0x5372_6448);
    assert_eq!(
        (number(&memory, 0x7206, 2), number(&memory, 0x7211, 1)),
        (0x020C, 1)
    );
    assert_eq!(
        (number(&memory, 0x7218, 4), number(&memory, 0x721C, 4)),
        (0, 0)
    );
}

#[test]
fn loading_again_from_moved_files_gives_the_same() {
    let mut kernel = tempfile::tempfile().unwrap();
    let mut initrd = tempfile::tempfile().unwrap();
    for (file, content) in [(&mut kernel, bzimage()), (&mut initrd, vec![1; 9000])] {
        file.write_all(&content).unwrap();
    }
    let mut seen = Vec::new();
    for position in [0, 17, 1 << 40] {
        kernel.seek(SeekFrom::Start(position)).unwrap();
        initrd.seek(SeekFrom::Start(position)).unwrap();
        let memory = memory(RAM);
        let mut input = input(&memory, &[]);
        (input.kernel, input.initrd) = (Image::File(&kernel), Some(Image::File(&initrd)));
        seen.push((load(&input).unwrap(), snapshot(&memory)));
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn memory_above_the_hole_is_in_the_map() {
    let memory = memory(layout::LOW_RAM_MAX + (64 << 20));
    let kernel = elf();
    let state = load(&input(&memory, &kernel)).unwrap();
    assert_eq!(number(&memory, state.rbx + 48, 4), 5);
    let last = number(&memory, state.rbx + 40, 8) + 4 * 24;
    assert_eq!(
        (number(&memory, last, 8), number(&memory, last + 8, 8)),
        (1 << 32, 64 << 20)
    );
}

#[test]
fn memory_of_another_shape_is_refused() {
    let kernel = elf();
    let small = memory(layout::MIN_RAM - 4096);
    assert!(matches!(
        load(&input(&small, &kernel)),
        Err(BootError::Memory { .. })
    ));
    let split: GuestMemory = GuestMemory::from_ranges(&[
        (GuestAddress(0), 8 << 20),
        (GuestAddress(16 << 20), 8 << 20),
    ])
    .unwrap();
    assert!(matches!(
        load(&input(&split, &kernel)),
        Err(BootError::Memory { .. })
    ));
}

#[test]
fn refusals_say_what_where_and_what_to_do_and_write_nothing() {
    let memory = memory(RAM);
    let blank = snapshot(&memory);
    let good = bzimage();
    let short = &good[..good.len() - 64];
    let gzip = [b"\x1f\x8b\x08".as_slice(), &[0; 100]].concat();
    let refusal = |change: &dyn Fn(&mut BootInput<'_>)| {
        let mut input = input(&memory, &good);
        change(&mut input);
        chain(&load(&input).unwrap_err())
    };
    assert_eq!(
        refusal(&|input| input.kernel = Image::Bytes(&[])),
        "the kernel cannot be loaded: it is empty"
    );
    assert_eq!(
        refusal(&|input| input.kernel = Image::Bytes(&[9; 5000])),
        "the kernel cannot be loaded: it is neither an ELF vmlinux nor a bzImage"
    );
    let gzip = move |input: &mut BootInput<'_>| input.kernel = Image::Bytes(gzip.clone().leak());
    assert_eq!(
        refusal(&gzip),
        "the kernel cannot be loaded: it is a gzip file: decompress it with `gunzip`"
    );
    let short = short.to_vec().leak();
    assert!(refusal(&|input| input.kernel = Image::Bytes(short)).ends_with(
        "it has 3008 bytes and its header promises 3072: it is truncated, copy or download it again"
    ));
    assert!(
        refusal(&|input| input.initrd = Some(Image::Bytes(&[])))
            .starts_with("the initrd cannot be loaded: it is empty")
    );
    let large: &'static [u8] = vec![0; 14 << 20].leak();
    assert_eq!(
        refusal(&|input| input.initrd = Some(Image::Bytes(large))),
        "the initrd cannot be loaded: it has 14680064 bytes, and 13631488 are free beside the \
         kernel: give the guest more memory, or make it smaller"
    );
    assert!(refusal(&|input| input.cmdline = "a\nb").contains("position 1 is not printable"));
    let long: &'static str = "x".repeat(2048).leak();
    assert!(
        refusal(&|input| input.cmdline = long).contains("at most 2047 bytes, this one has 2048")
    );
    assert!(refusal(&|input| input.cpus = 0).contains("at least one CPU"));
    assert!(refusal(&|input| input.virtio_mmio_slots = &[40]).contains("slot 40"));
    assert_eq!(snapshot(&memory), blank);
}

#[test]
fn a_pipe_is_an_error_and_not_a_wait() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let reader = File::from(std::os::fd::OwnedFd::from(reader));
    let memory = memory(RAM);
    let mut input = input(&memory, &[]);
    input.kernel = Image::File(&reader);
    assert!(matches!(load(&input), Err(BootError::Kernel(_))));
}

#[test]
fn a_segment_cut_off_in_the_file_is_truncated() {
    let memory = memory(RAM);
    let blank = snapshot(&memory);
    let mut kernel = elf();
    kernel.pop();
    let error = load(&input(&memory, &kernel)).unwrap_err();
    assert!(
        chain(&error).contains("it is truncated"),
        "{}",
        chain(&error)
    );
    assert_eq!(snapshot(&memory), blank);
    put(&mut kernel, 18, &[40, 0]);
    let error = load(&input(&memory, &kernel)).unwrap_err();
    assert!(matches!(
        error,
        BootError::Kernel(KernelError::Elf(ElfError::OtherMachine { machine: 40, .. }))
    ));
}

/// The memory that the property tests load into, one after the other.
fn shared_memory() -> &'static GuestMemory {
    static MEMORY: OnceLock<GuestMemory> = OnceLock::new();
    MEMORY.get_or_init(|| memory(RAM))
}

/// What a load may do with hostile input: fail, or give a state that enters the kernel's memory.
fn survives(kernel: &[u8], protocol: KernelProtocol) {
    let mut input = input(shared_memory(), kernel);
    input.protocol = protocol;
    if let Ok(state) = load(&input) {
        assert!((layout::KERNEL_MIN..RAM).contains(&state.rip), "{state:?}");
        assert_ne!(
            protocol == KernelProtocol::Pvh,
            state.protocol == BootProtocol::Linux64
        );
    }
}

fn protocols() -> impl Strategy<Value = KernelProtocol> {
    prop_oneof![Just(KernelProtocol::Pvh), Just(KernelProtocol::Linux64),]
}

/// Values that break arithmetic, more often than chance would have them.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let wide = prop_oneof![
        any::<u64>(),
        (0_u32..64, -2_i64..3).prop_map(|(bit, by)| (1_u64 << bit).wrapping_add_signed(by)),
        (-0x3000_i64..3).prop_map(|by| RAM.wrapping_add_signed(by)),
        Just(u64::MAX),
        Just(0),
    ];
    (wide, 1_usize..9).prop_map(|(value, len)| value.to_le_bytes()[..len].to_vec())
}

fn changed(
    mut image: Vec<u8>,
    changes: &[(prop::sample::Index, Vec<u8>)],
    header: std::ops::Range<usize>,
    cut: Option<prop::sample::Index>,
) -> Vec<u8> {
    for (at, value) in changes {
        let at = header.start + at.index(header.len());
        for (to, from) in image[at..].iter_mut().zip(value) {
            *to = *from;
        }
    }
    if let Some(cut) = cut {
        image.truncate(cut.index(image.len()));
    }
    image
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn hostile_elf_headers(
        changes in prop::collection::vec((any::<prop::sample::Index>(), field()), 1..4),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        protocol in protocols(),
    ) {
        survives(&changed(elf(), &changes, 4..0x300, cut), protocol);
    }

    #[test]
    fn hostile_setup_headers(
        changes in prop::collection::vec((any::<prop::sample::Index>(), field()), 1..4),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        protocol in protocols(),
    ) {
        survives(&changed(bzimage(), &changes, 0x1F1..0x26C, cut), protocol);
    }

    #[test]
    fn rubbish(
        kernel in prop::collection::vec(any::<u8>(), 0..2000),
        magic in prop_oneof![Just(&b"\x7fELF\x02\x01"[..]), Just(&b""[..])],
        protocol in protocols(),
    ) {
        survives(&[magic, &kernel].concat(), protocol);
    }
}

/// Real kernels, where the environment names them: `THIMBLE_TEST_BZIMAGE` and
/// `THIMBLE_TEST_VMLINUX`, the latter with a PVH note.
#[test]
fn kernels_of_a_distribution() {
    let named = |name: &str| match std::env::var_os(name) {
        Some(path) => {
            Some(crate::open::open(crate::open::BootFile::Kernel, path.as_ref()).unwrap())
        }
        None => {
            println!("skipped: {name} names no kernel");
            None
        }
    };
    let loaded = |file: &File, protocol| {
        let memory = memory(256 << 20);
        let mut input = input(&memory, &[]);
        (input.kernel, input.protocol) = (Image::File(file), protocol);
        let state = load(&input).unwrap();
        let code = bytes(&memory, state.rip, 16);
        assert_ne!(code, [0; 16]);
        state
    };
    if let Some(file) = named("THIMBLE_TEST_BZIMAGE") {
        let state = loaded(&file, KernelProtocol::Auto);
        assert_eq!(
            (state.protocol, state.rip),
            (BootProtocol::Linux64, 0x100_0200)
        );
    }
    if let Some(mut file) = named("THIMBLE_TEST_VMLINUX") {
        assert_eq!(
            loaded(&file, KernelProtocol::Auto).protocol,
            BootProtocol::Pvh
        );
        let long = loaded(&file, KernelProtocol::Linux64);
        let mut head = [0; 32];
        file.rewind().unwrap();
        file.read_exact(&mut head).unwrap();
        assert_eq!(head[24..], long.rip.to_le_bytes());
    }
}
