//! CPUID, as text where it is text.

use core::arch::asm;

/// First leaf of a hypervisor.
pub const HYPERVISOR: u32 = 0x4000_0000;

/// What CPUID returns.
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Reads a leaf, subleaf 0.
pub fn leaf(number: u32) -> Leaf {
    let (eax, ebx, ecx, edx);
    // SAFETY: every processor this runs on has CPUID; RBX, which the compiler keeps for itself, is
    // put back.
    unsafe {
        asm!("mov {0:r}, rbx", "cpuid", "xchg {0:r}, rbx", out(reg) ebx,
            inout("eax") number => eax, inout("ecx") 0 => ecx, out("edx") edx,
            options(nomem, nostack, preserves_flags));
    }
    Leaf { eax, ebx, ecx, edx }
}

/// A short text out of CPUID registers.
pub struct Text {
    bytes: [u8; 48],
}

impl Text {
    fn new(words: &[u32]) -> Self {
        let mut bytes = [0; 48];
        for (to, from) in bytes
            .iter_mut()
            .zip(words.iter().flat_map(|word| word.to_le_bytes()))
        {
            *to = from;
        }
        Self { bytes }
    }

    /// The text, without padding.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes)
            .unwrap_or("?")
            .trim_matches(|c| c == '\0' || c == ' ')
    }
}

/// Vendor: "GenuineIntel", "AuthenticAMD".
pub fn vendor() -> Text {
    let leaf = leaf(0);
    Text::new(&[leaf.ebx, leaf.edx, leaf.ecx])
}

/// Brand string; empty if the processor has none.
pub fn brand() -> Text {
    let mut words = [0; 12];
    if leaf(0x8000_0000).eax >= 0x8000_0004 {
        for (i, chunk) in words.chunks_exact_mut(4).enumerate() {
            let leaf = leaf(0x8000_0002 + i as u32);
            chunk.copy_from_slice(&[leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]);
        }
    }
    Text::new(&words)
}

/// The hypervisor's signature, "KVMKVMKVM" for KVM; none on bare metal.
pub fn hypervisor() -> Option<Text> {
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    if leaf(1).ecx & HYPERVISOR_PRESENT == 0 {
        return None;
    }
    let leaf = leaf(HYPERVISOR);
    Some(Text::new(&[leaf.ebx, leaf.ecx, leaf.edx]))
}
