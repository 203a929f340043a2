//! Tiny kernels made by hand for the tests: an ELF and a bzImage, field by field, apart from the
//! structures that the loader uses.

/// Writes `bytes` into `image` at `offset`.
pub(crate) fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Where the sample ELF is linked, and what its one segment holds.
pub(crate) const ELF_ADDRESS: u64 = 0x20_0000;
pub(crate) const ELF_CONTENT: &[u8] = b"segment of the sample kernel";
/// Offsets in the sample ELF.
pub(crate) const ELF_LOAD: usize = 64;
pub(crate) const ELF_NOTE: usize = 64 + 56;
pub(crate) const ELF_NOTES: usize = 0x200;
pub(crate) const ELF_DATA: usize = 0x300;

/// An ELF with one segment at [`ELF_ADDRESS`], 8 KiB long in memory, entered at its start, and two
/// notes, the second of which gives the PVH entry 16 bytes further on.
pub(crate) fn elf() -> Vec<u8> {
    let mut image = vec![0; ELF_DATA + ELF_CONTENT.len()];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &2_u16.to_le_bytes()); // e_type: executable
    put(&mut image, 18, &62_u16.to_le_bytes()); // e_machine: x86-64
    put(&mut image, 20, &1_u32.to_le_bytes()); // e_version
    put(&mut image, 24, &ELF_ADDRESS.to_le_bytes()); // e_entry
    put(&mut image, 32, &(ELF_LOAD as u64).to_le_bytes()); // e_phoff
    put(&mut image, 52, &64_u16.to_le_bytes()); // e_ehsize
    put(&mut image, 54, &56_u16.to_le_bytes()); // e_phentsize
    put(&mut image, 56, &2_u16.to_le_bytes()); // e_phnum
    let load = [
        ELF_DATA as u64,
        0xFFFF_FFFF_8020_0000,
        ELF_ADDRESS,
        ELF_CONTENT.len() as u64,
    ];
    program_header(&mut image, ELF_LOAD, 1, load, 0x2000, 0x1000);
    let notes = notes();
    put(&mut image, ELF_NOTES, &notes);
    let note = [ELF_NOTES as u64, 0, 0, notes.len() as u64];
    program_header(&mut image, ELF_NOTE, 4, note, notes.len() as u64, 4);
    put(&mut image, ELF_DATA, ELF_CONTENT);
    image
}

/// Writes a program header: its kind; offset, virtual and physical address and length in the file;
/// length in memory; alignment.
pub(crate) fn program_header(
    image: &mut [u8],
    at: usize,
    kind: u32,
    fields: [u64; 4],
    memory_len: u64,
    align: u64,
) {
    put(image, at, &kind.to_le_bytes());
    for (n, field) in fields.into_iter().chain([memory_len, align]).enumerate() {
        put(image, at + 8 + n * 8, &field.to_le_bytes());
    }
}

fn notes() -> Vec<u8> {
    let entry = (ELF_ADDRESS as u32 + 16).to_le_bytes();
    let mut notes = note(18, b"GNU\0", &[1, 2, 3, 4, 5]);
    notes.extend(note(18, b"Xen\0", &entry));
    notes
}

/// A note with its padding to 4 bytes.
pub(crate) fn note(kind: u32, name: &[u8], descriptor: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend((name.len() as u32).to_le_bytes());
    note.extend((descriptor.len() as u32).to_le_bytes());
    note.extend(kind.to_le_bytes());
    for field in [name, descriptor] {
        note.extend(field);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// What the protected-mode part of the sample bzImage begins with, and its length.
pub(crate) const BZIMAGE_CONTENT: &[u8] = b"protected-mode part of the sample kernel";
pub(crate) const BZIMAGE_LEN: usize = 0x800;
/// Offset of the protected-mode part: the boot sector and one setup sector.
pub(crate) const BZIMAGE_PAYLOAD: usize = 2 * 512;
/// Where the sample bzImage wants to be, and the memory it asks for from there.
pub(crate) const BZIMAGE_ADDRESS: u64 = 0x20_0000;
pub(crate) const BZIMAGE_NEED: u32 = 0x10_0000;

/// A relocatable bzImage of boot protocol 2.15.
pub(crate) fn bzimage() -> Vec<u8> {
    let mut image = vec![0; BZIMAGE_PAYLOAD + BZIMAGE_LEN];
    put(&mut image, 0, b"MZ"); // as kernels with an EFI stub begin
    put(&mut image, 0x1F1, &[1]); // setup_sects
    put(&mut image, 0x1F4, &(BZIMAGE_LEN as u32 / 16).to_le_bytes()); // syssize
    put(&mut image, 0x1FE, b"\x55\xaa"); // boot_flag
    put(&mut image, 0x200, b"\xeb\x6a"); // jump over the header
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020F_u16.to_le_bytes()); // version
    put(&mut image, 0x211, &[1]); // loadflags: LOADED_HIGH
    put(&mut image, 0x214, &0x10_0000_u32.to_le_bytes()); // code32_start
    put(&mut image, 0x22C, &0x7FFF_FFFF_u32.to_le_bytes()); // initrd_addr_max
    put(&mut image, 0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
    put(&mut image, 0x234, &[1]); // relocatable_kernel
    put(&mut image, 0x236, &0x7F_u16.to_le_bytes()); // xloadflags
    put(&mut image, 0x238, &2047_u32.to_le_bytes()); // cmdline_size
    put(&mut image, 0x258, &BZIMAGE_ADDRESS.to_le_bytes()); // pref_address
    put(&mut image, 0x260, &BZIMAGE_NEED.to_le_bytes()); // init_size
    put(&mut image, BZIMAGE_PAYLOAD, BZIMAGE_CONTENT);
    image
}
