//! What the guest boots, held open so that every reset can load it again.

use std::fs::File;

use devices::legacy::vmgenid::GenerationId;
use firmware::boot::{self, BootError, BootInput};
use firmware::builtin::BUILTIN_GUEST;
use firmware::cpu_state::BootState;
use firmware::image::Image;
use firmware::kernel::KernelProtocol;

use crate::memory::GuestRam;

/// The kernel: a file the launcher opened, or the guest inside the binary.
#[derive(Debug)]
pub enum KernelSource {
    /// An ELF vmlinux or a bzImage.
    File(File),
    /// The built-in guest.
    Builtin,
}

/// Everything that is in guest memory before the first instruction.
#[derive(Debug)]
pub struct BootSource {
    /// The kernel.
    pub kernel: KernelSource,
    /// The initial RAM disk.
    pub initrd: Option<File>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// What of the machine the boot tables describe.
#[derive(Debug, Clone)]
pub struct BootTables {
    /// Number of CPUs.
    pub cpus: u8,
    /// The virtio-mmio slots in use.
    pub virtio_mmio_slots: Vec<u8>,
    /// The VM generation id.
    pub generation_id: GenerationId,
}

impl BootSource {
    /// Loads everything into empty guest memory.
    ///
    /// # Errors
    /// [`BootError`], which says what is wrong with which file.
    pub fn load(&self, ram: &GuestRam, tables: &BootTables) -> Result<BootState, BootError> {
        boot::load(&BootInput {
            memory: ram.memory(),
            kernel: match &self.kernel {
                KernelSource::File(file) => Image::File(file),
                KernelSource::Builtin => Image::Bytes(BUILTIN_GUEST),
            },
            protocol: KernelProtocol::Auto,
            initrd: self.initrd.as_ref().map(Image::File),
            cmdline: &self.cmdline,
            cpus: tables.cpus,
            virtio_mmio_slots: &tables.virtio_mmio_slots,
            vm_generation_id: tables.generation_id.to_memory(),
        })
    }
}
