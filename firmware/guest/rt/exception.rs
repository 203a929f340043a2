//! The interrupt descriptor table, and the end of a program that takes an exception.

use crate::{power, println};

/// Vectors with a descriptor; boot.s has a stub for each.
pub const VECTORS: usize = 0x50;

/// Bytes of one stub in boot.s.
const STUB_SIZE: u64 = 16;

/// 64-bit interrupt gate, present, DPL 3 so that `int3` reaches its vector from CPL 3; in the
/// middle the code selector 0x08. Intel SDM volume 3, 7.14.1.
const GATE: u64 = 0xee00 << 32 | 0x08 << 16;

unsafe extern "C" {
    static mut rt_idt: [[u64; 2]; VECTORS];
    static rt_vector_stubs: u8;
}

/// Fills the table. LIDT was done in boot.s; until here an exception is a triple fault.
pub(crate) fn install() {
    let table = (&raw mut rt_idt).cast::<[u64; 2]>();
    let stubs = (&raw const rt_vector_stubs).addr() as u64;
    for vector in 0..VECTORS {
        let stub = stubs + vector as u64 * STUB_SIZE;
        let low = GATE | (stub & 0xffff) | (stub & 0xffff_0000) << 32;
        // SAFETY: within the table; no reference to it exists.
        unsafe { table.add(vector).write([low, stub >> 32]) };
    }
}

/// Where boot.s goes, at CPL 3 and on a stack of its own, with an exception nobody asked for.
#[unsafe(no_mangle)]
extern "C" fn rt_fatal_exception(
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    cr2: u64,
    rsp: u64,
) -> ! {
    println!();
    println!(
        "FATAL exception {vector} error {error_code:#x} rip {rip:#x} cs {cs:#x} rsp {rsp:#x} \
         cr2 {cr2:#x}"
    );
    power::crash()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    println!();
    println!("FATAL {info}");
    power::crash()
}
