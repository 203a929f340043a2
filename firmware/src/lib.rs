//! What is in guest memory before the first instruction: the kernel, its boot parameters, the ACPI
//! tables; and the built-in guest.
//!
//! Guest memory and open files in, initial CPU state out. Nothing here knows KVM: [`boot::load`]
//! writes into guest memory and hands back [`cpu_state::BootState`], plain data that the VMM turns
//! into `KVM_SET_REGS` and `KVM_SET_SREGS`.
//!
//! * [`layout`]: every address of the machine `thimble-1`, and its memory map. Pure.
//! * [`open`]: path to file, in the launcher, before the sandbox closes.
//! * [`boot`]: the one entry, called before the first `KVM_RUN` and again on every guest reset.
//! * [`acpi`]: the tables, from CPU count and device slots. Pure.
//!
//! Kernels and initrds are hostile: every field is checked before it is used, nothing is allocated
//! by a size they name, and every refusal is an error that says what was found.

pub mod acpi;
pub mod boot;
mod boot_params;
pub mod builtin;
mod bzimage;
pub mod cmdline;
pub mod cpu_state;
mod elf;
mod foreign;
pub mod image;
pub mod initrd;
pub mod kernel;
pub mod layout;
pub mod open;
mod page_tables;
mod pvh;
mod reset_vector;
#[cfg(test)]
mod sample_kernels;

/// Guest RAM as this crate sees it: the same type the device crate uses.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;
