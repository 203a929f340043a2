//! The test guests: small programs that boot instead of a kernel, compiled by build.rs from
//! tests/guest. Each one's source says what it does and which words of the command line it obeys.
//!
//! They report on the serial console: `TEST name ok detail` or `TEST name FAIL detail`, at the end
//! `TESTS DONE passed=N failed=N`, and power off. A line that starts with `FATAL` is a crash.

use std::path::Path;

macro_rules! guests {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $($(#[$doc])*
        pub const $name: &str = concat!(env!("OUT_DIR"), "/", $file, ".elf");)*

        /// Paths of all of them.
        pub const ALL: &[&str] = &[$($name),*];
    };
}

guests! {
    /// Prints requests per second and latency of a virtio block device.
    BLK_BENCH = "blk_bench";
    /// Every request of a virtio block device, right and wrong.
    BLK = "blk";
    /// One line, then the end, on any VMM: for timing starts.
    BOOT_EXIT = "boot_exit";
    /// Sends every frame back that a virtio network card receives.
    NET = "net";
    /// Prints 1 MiB that a reader can check.
    FLOOD = "flood";
    /// Halts with interrupts off.
    HALT = "halt";
    /// Boots and checks what the loader and ACPI say.
    HELLO = "hello";
    /// Rubbish in every register and port, after which the devices must work.
    HOSTILE_REGS = "hostile_regs";
    /// Broken rings and descriptors, after which the device must work.
    HOSTILE_RING = "hostile_ring";
    /// Patterns at all ends of memory.
    MEMTEST = "memtest";
    /// Does what lines typed at it say; [`crate::obey`] is the other end.
    OBEY = "obey";
    /// A crash told to pvpanic.
    PANIC = "panic";
    /// Several resets, then power off.
    RESET_LOOP = "reset_loop";
    /// All processors, and interrupts between them.
    SMP = "smp";
    /// Keeps the processor busy, and says how far it is when a byte is typed.
    SPIN = "spin";
    /// Ends by a triple fault.
    TRIPLE_FAULT = "triple_fault";
    /// Services on sockets, for programs of the host to try.
    VSOCK = "vsock";
}

/// Not a guest but a program for Linux, tests/programs/sockets.rs: both ends of the socket tests.
pub const SOCKETS: &str = concat!(env!("OUT_DIR"), "/sockets");

/// A guest's image without its PVH note, so that a loader has to enter it by Linux's 64-bit
/// protocol.
pub fn without_pvh_note(path: &Path) -> std::io::Result<Vec<u8>> {
    /// Name size, descriptor size, type (XEN_ELFNOTE_PHYS32_ENTRY) and name.
    const NOTE: &[u8] = b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0";
    let mut image = std::fs::read(path)?;
    if let Some(at) = image.windows(NOTE.len()).position(|bytes| bytes == NOTE)
        && let Some(kind) = image.get_mut(at + 8)
    {
        *kind = 0;
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_is_compiled_and_listed() {
        for path in ALL {
            let image = std::fs::read(path).unwrap();
            assert_eq!(&image[..4], b"\x7fELF", "{path}");
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), ALL.len());
    }

    #[test]
    fn the_pvh_note_can_be_taken_away() {
        let path = Path::new(HELLO);
        let image = std::fs::read(path).unwrap();
        let without = without_pvh_note(path).unwrap();
        let changed = image.iter().zip(&without).filter(|(a, b)| a != b).count();
        assert_eq!((changed, image.len()), (1, without.len()));
    }
}
