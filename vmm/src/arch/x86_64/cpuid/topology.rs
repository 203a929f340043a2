//! The CPUID leaves that tell a vCPU its place: one socket, N cores, one thread each.
//!
//! Called once per vCPU by the profile; pure. APIC ID = vCPU index, which is what the MADT says and
//! what KVM gives a vCPU of that id. Leaves 1, 4, 0xB, 0x1F (Intel SDM volume 2A, volume 3A section
//! "Hierarchical Mapping of Shared Resources") and 0x8000_0008, 0x8000_001D, 0x8000_001E (AMD APM
//! volume 3 appendix E).

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::Vendor;

/// The most vCPUs one machine has: eight-bit xAPIC IDs, the last of which is broadcast.
pub const MAX_VCPUS: u8 = 254;

/// One vCPU's place among the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuPlace {
    index: u8,
    count: u8,
}

impl VcpuPlace {
    /// The only vCPU of a machine.
    pub(super) const ALONE: Self = Self { index: 0, count: 1 };

    /// vCPU `index` of `count`; `None` unless `index < count ≤` [`MAX_VCPUS`].
    #[must_use]
    pub fn new(index: u8, count: u8) -> Option<Self> {
        (index < count && count <= MAX_VCPUS).then_some(Self { index, count })
    }

    /// The APIC ID, which is the index.
    #[must_use]
    pub fn apic_id(self) -> u8 {
        self.index
    }

    /// The number of vCPUs of the machine.
    #[must_use]
    pub fn count(self) -> u8 {
        self.count
    }

    /// How many low bits of an APIC ID tell the cores of the socket apart.
    fn core_bits(self) -> u32 {
        u32::from(self.count).next_power_of_two().trailing_zeros()
    }
}

/// The table for the vCPU at `place`, sorted by leaf and sub-leaf.
pub(super) fn place(
    profile: &[kvm_cpuid_entry2],
    vendor: Vendor,
    place: VcpuPlace,
) -> Vec<kvm_cpuid_entry2> {
    // 0x8000_0026 would have to agree with 0xB; with it absent, guests read 0xB.
    let stale = |function| matches!(function, 0xB | 0x1F | 0x8000_0026);
    let extended = profile.iter().any(|entry| entry.function == 0x1F);
    let mut entries: Vec<kvm_cpuid_entry2> = profile
        .iter()
        .filter(|entry| !stale(entry.function))
        .copied()
        .collect();
    for entry in &mut entries {
        match (entry.function, vendor) {
            (0, _) => entry.eax = entry.eax.max(0xB),
            (1, _) => leaf_1(entry, place),
            (4, Vendor::Intel) => leaf_4(entry, place),
            (0x8000_0001, Vendor::Amd) => set(&mut entry.ecx, 1 << 1, place.count > 1),
            (0x8000_0008, Vendor::Amd) => {
                // Number of cores less one, and the size of the APIC ID field.
                entry.ecx = (u32::from(place.count) - 1) | (place.core_bits() << 12);
            }
            (0x8000_0008, Vendor::Intel) => entry.ecx = 0,
            (0x8000_001D, Vendor::Amd) => {
                entry.eax = (entry.eax & !(0xFFF << 14)) | (sharers(entry.eax, place) << 14);
            }
            (0x8000_001E, Vendor::Amd) => {
                // Extended APIC ID; core id and one thread per core; node 0 of one.
                entry.eax = u32::from(place.index);
                entry.ebx = u32::from(place.index);
                entry.ecx = 0;
                entry.edx = 0;
            }
            _ => {}
        }
    }
    entries.extend(x2apic_levels(0xB, place));
    if extended {
        entries.extend(x2apic_levels(0x1F, place));
    }
    entries.sort_by_key(|entry| (entry.function, entry.index));
    entries
}

/// Initial APIC ID (31:24), logical processors of the package (23:16), and the flag that says the
/// latter holds.
fn leaf_1(entry: &mut kvm_cpuid_entry2, place: VcpuPlace) {
    entry.ebx =
        (entry.ebx & 0xFFFF) | (u32::from(place.count) << 16) | (u32::from(place.index) << 24);
    set(&mut entry.edx, 1 << 28, place.count > 1);
}

/// Deterministic cache parameters: who shares the cache (25:14) and the cores of the package
/// (31:26), both as the highest addressable ID. Type 0 ends the list and stays as it is.
fn leaf_4(entry: &mut kvm_cpuid_entry2, place: VcpuPlace) {
    if entry.eax & 0x1F == 0 {
        return;
    }
    let cores = ((1u32 << place.core_bits()) - 1).min(0x3F);
    let sharing = if sharers(entry.eax, place) == 0 {
        0
    } else {
        (1 << place.core_bits()) - 1
    };
    entry.eax = (entry.eax & 0x3FFF) | (sharing << 14) | (cores << 26);
}

/// How many vCPUs besides this one share the cache: none up to level 2, all from level 3.
fn sharers(eax: u32, place: VcpuPlace) -> u32 {
    let level = (eax >> 5) & 7;
    if level >= 3 {
        u32::from(place.count) - 1
    } else {
        0
    }
}

/// The three sub-leaves of an extended-topology leaf: thread, core, end.
fn x2apic_levels(function: u32, place: VcpuPlace) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, kind: u32, shift: u32, count: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: (kind << 8) | index,
        edx: u32::from(place.index),
        ..Default::default()
    };
    [
        level(0, 1, 0, 1),
        level(1, 2, place.core_bits(), u32::from(place.count)),
        level(2, 0, 0, 0),
    ]
}

fn set(register: &mut u32, mask: u32, on: bool) {
    if on {
        *register |= mask;
    } else {
        *register &= !mask;
    }
}
