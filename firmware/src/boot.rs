//! Puts a guest into memory: kernel, initrd, command line, boot parameters, ACPI tables.
//!
//! [`load`] is called on the main thread by the builder, before the first `KVM_RUN`, and again on
//! every guest reset, after the VMM has emptied RAM. It checks everything first and writes then; it
//! reads files by offset, so it can be repeated at any time.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::acpi::{self, AcpiError};
use crate::cmdline::{self, CmdlineError};
use crate::cpu_state::BootState;
use crate::image::Image;
use crate::initrd::{self, InitrdError};
use crate::kernel::{self, Entry, Kernel, KernelError, KernelProtocol};
use crate::layout::{self, AddressRange, MemoryMapEntry};
use crate::{GuestMemory, boot_params, page_tables, pvh, reset_vector};

/// What to boot, in what machine.
#[derive(Clone, Copy, Debug)]
pub struct BootInput<'a> {
    /// The guest's RAM: empty, with the regions of [`layout::ram_regions`].
    pub memory: &'a GuestMemory,
    /// The kernel.
    pub kernel: Image<'a>,
    /// Which protocol to enter it by.
    pub protocol: KernelProtocol,
    /// The initial RAM disk.
    pub initrd: Option<Image<'a>>,
    /// The kernel command line, [`cmdline::DEFAULT`] if the user gave none.
    pub cmdline: &'a str,
    /// Number of CPUs, from 1; their APIC IDs are 0, 1, 2…
    pub cpus: u8,
    /// The virtio-mmio slots that hold a device, in any order.
    pub virtio_mmio_slots: &'a [u8],
    /// The VM generation ID, as its 16 bytes lie in memory.
    pub vm_generation_id: [u8; 16],
}

/// Why the guest could not be put into memory.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The memory is not that of the machine: a mistake of the caller, or too little of it.
    #[error(
        "guest memory of {size} bytes is not laid out as the machine wants it: it needs {} bytes \
         at least",
        layout::MIN_RAM
    )]
    Memory {
        /// Sum of the regions.
        size: u64,
    },
    /// The kernel was refused.
    #[error("the kernel cannot be loaded")]
    Kernel(#[from] KernelError),
    /// The initrd was refused.
    #[error("the initrd cannot be loaded")]
    Initrd(#[from] InitrdError),
    /// The command line was refused.
    #[error("the kernel command line cannot be used")]
    Cmdline(#[from] CmdlineError),
    /// The ACPI tables cannot be made.
    #[error("the ACPI tables cannot be built")]
    Acpi(#[from] AcpiError),
    /// A write to boot memory failed: a mistake of ours.
    #[error("boot data cannot be written at {address:#x}")]
    Write {
        /// Guest-physical address.
        address: u64,
    },
}

/// Loads `input` and returns the state the boot CPU starts in. A refused input leaves guest memory
/// as it was; a file that fails or shrinks while it is copied does not.
pub fn load(input: &BootInput<'_>) -> Result<BootState, BootError> {
    let ram = ram_size(input.memory)?;
    let low_end = ram.min(layout::LOW_RAM_MAX);
    let kernel = kernel::plan(&input.kernel, input.protocol, low_end)?;
    cmdline::check(input.cmdline, kernel.cmdline_max)?;
    let place = |image| initrd::plan(&image, kernel.end, kernel.initrd_end);
    let initrd = input.initrd.map(place).transpose()?;
    let tables = acpi::build(input.cpus, input.virtio_mmio_slots)?;

    kernel.copy_to(&input.kernel, input.memory)?;
    if let (Some(image), Some(AddressRange { start, len })) = (input.initrd, initrd) {
        image
            .copy_to_guest(0, len, input.memory, start)
            .map_err(InitrdError::Image)?;
    }
    // The NUL that ends the command line is there: memory was empty.
    write(input.memory, layout::CMDLINE, input.cmdline.as_bytes())?;
    write(input.memory, layout::ACPI_START, &tables)?;
    write(
        input.memory,
        layout::VM_GENERATION_ID,
        &input.vm_generation_id,
    )?;
    write(input.memory, layout::RESET_VECTOR, &reset_vector::CODE)?;
    enter(input.memory, &kernel, initrd, &layout::memory_map(ram))
}

/// Writes what the kernel's entry protocol wants in memory.
fn enter(
    memory: &GuestMemory,
    kernel: &Kernel,
    initrd: Option<AddressRange>,
    map: &[MemoryMapEntry],
) -> Result<BootState, BootError> {
    let state = match kernel.entry {
        Entry::Pvh(entry) => {
            write(
                memory,
                layout::PVH_START_INFO,
                &pvh::start_info(initrd, map),
            )?;
            BootState::pvh(entry)
        }
        Entry::Linux64(entry) => {
            let zero_page = boot_params::zero_page(kernel.setup_header.as_ref(), initrd, map);
            write(memory, layout::ZERO_PAGE, &zero_page)?;
            write(memory, layout::PML4, &page_tables::pml4())?;
            write(memory, layout::PDPT, &page_tables::pdpt())?;
            write(
                memory,
                layout::PAGE_DIRECTORY,
                &page_tables::page_directories(),
            )?;
            BootState::linux64(entry)
        }
    };
    write(memory, layout::GDT, &state.gdt_bytes())?;
    Ok(state)
}

/// Size of RAM, if its regions are those of the machine.
fn ram_size(memory: &GuestMemory) -> Result<u64, BootError> {
    let regions = || {
        memory.iter().map(|part| AddressRange {
            start: part.start_addr().0,
            len: part.len(),
        })
    };
    let size = regions().map(|part| part.len).fold(0, u64::saturating_add);
    if size < layout::MIN_RAM || !regions().eq(layout::ram_regions(size)) {
        return Err(BootError::Memory { size });
    }
    Ok(size)
}

fn write(memory: &GuestMemory, address: u64, bytes: &[u8]) -> Result<(), BootError> {
    memory
        .write_slice(bytes, GuestAddress(address))
        .map_err(|_| BootError::Write { address })
}

#[cfg(test)]
mod tests;
