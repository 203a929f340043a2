//! Runtime of thimble's guest programs: from the machine's first instruction to a Rust `main`.
//!
//! A guest program is a `no_std`, `no_main` crate that names its entry with [`entry!`] and runs at
//! CPL 3 on identity-mapped memory: ports 0 to 0xfff, device registers and memory are reached
//! directly. What needs CPL 0 is asked for with `ud2` (see [`service`]). boot.s says why.
//!
//! One processor runs `main`; the others run what [`smp::start_all`] gives them, and do not print.
#![no_std]

pub mod acpi;
pub mod apic;
pub mod boot_info;
pub mod clock;
pub mod cmos;
pub mod console;
pub mod cpuid;
pub mod exception;
pub mod interrupts;
pub mod memory;
pub mod mmio;
pub mod paging;
pub mod port;
pub mod power;
pub mod service;
pub mod smp;
pub mod test_report;
pub mod virtio;

mod compiler_memory;

use core::arch::global_asm;

global_asm!(include_str!("boot.s"));

/// Names a program's `main` (a `fn()`) and its banner, the first text on the console. Its first
/// byte is written by the machine's first three instructions.
#[macro_export]
macro_rules! entry {
    ($main:path, $banner:expr) => {
        #[unsafe(no_mangle)]
        #[unsafe(link_section = ".boot.banner")]
        static rt_first_byte: u8 = $banner.as_bytes()[0];

        #[unsafe(no_mangle)]
        fn rt_main() {
            $crate::console::write_rest_of_banner($banner);
            $main()
        }
    };
}

unsafe extern "Rust" {
    // Defined by `entry!`.
    safe fn rt_main();
}

/// First Rust code of the bootstrap processor: at CPL 3, interrupts off, bss not yet cleared.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_start(boot_data: u64, protocol: u64) -> ! {
    // SAFETY: the linker script's bounds; nothing of bss has been used yet, and no reference into
    // it exists.
    unsafe { compiler_memory::clear_bss() };
    exception::install();
    boot_info::init(boot_data, protocol);
    rt_main();
    power::off()
}
