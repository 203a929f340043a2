//! The guest's CPUID, from what KVM supports and what the user asked for.
//!
//! The builder makes one [`CpuProfile`] on the main thread from `KVM_GET_SUPPORTED_CPUID` (a dear
//! call: once) and asks it for each vCPU's table, which goes to `KVM_SET_CPUID2`. Pure. Part of the
//! machine contract `thimble-1`: one socket, N cores of one thread, APIC ID = vCPU index. Sources:
//! Intel SDM volume 2A "CPUID"; AMD APM volume 3 appendix E; Linux
//! `Documentation/virt/kvm/x86/cpuid.rst`.

pub mod features;
mod request;
mod timing;
mod topology;
mod xsave;

pub use request::{Change, CpuRequest, RequestError};
pub use topology::{MAX_VCPUS, VcpuPlace};

use features::{Bits, Dependence, Reg, Word};
use kvm_bindings::kvm_cpuid_entry2;

/// The leaf that begins KVM's own leaves.
const KVM_SIGNATURE: u32 = 0x4000_0000;
/// KVM's feature leaf.
const KVM_FEATURES: u32 = 0x4000_0001;
/// Bits of [`KVM_FEATURES`] EAX that need what this VMM does not do: MSI destination IDs above 255
/// (15), the page-encryption hypercall (16) and migration control (17).
const KVM_FEATURES_NOT_OFFERED: u32 = (1 << 15) | (1 << 16) | (1 << 17);
/// Leaves whose whole content is withheld: SGX needs an enclave page cache (0x12), Processor Trace
/// is a host matter (0x14), memory encryption needs a launch protocol (0x8000_001F), and the
/// resource-control leaves describe the host (0xF, 0x10, 0x8000_0020).
const WITHHELD: &[u32] = &[0xF, 0x10, 0x12, 0x14, 0x8000_001F, 0x8000_0020];
/// Features KVM may report that go with [`WITHHELD`].
const WITHHELD_FEATURES: &[&str] = &["sgx", "sgxlc", "intel-pt", "cqm", "rdt-a"];
/// Off unless asked on: an invariant TSC cannot follow the guest to a host of another frequency,
/// and the hint promises that vCPUs are never preempted.
const OFF_BY_DEFAULT: &[&str] = &["invtsc", "kvm-hint-dedicated"];

/// Why a guest cannot have the CPU that was asked for on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// The host's KVM does not offer the feature, or not what the feature needs.
    #[error("CPU feature `{name}` is not offered by this host's KVM; leave `+{name}` out")]
    NotOnHost {
        /// The feature.
        name: &'static str,
    },
    /// KVM reported no leaf 0 or 1.
    #[error("KVM's list of supported CPUID entries has no leaf {leaf:#x}")]
    MissingLeaf {
        /// The leaf.
        leaf: u32,
    },
}

/// What the host offers.
#[derive(Debug, Clone, Copy)]
pub struct HostCpu<'a> {
    /// The entries of `KVM_GET_SUPPORTED_CPUID`.
    pub supported: &'a [kvm_cpuid_entry2],
    /// `KVM_CAP_TSC_DEADLINE_TIMER` is there. KVM leaves the bit out of its list because it holds
    /// only with the in-kernel local APIC, which this machine always has.
    pub tsc_deadline: bool,
    /// The guest's TSC frequency in kHz (`KVM_GET_TSC_KHZ`), where known.
    pub tsc_khz: Option<u32>,
}

/// Whose processor it claims to be, where that changes what a leaf means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// GenuineIntel, and Centaur and Zhaoxin, which follow Intel's topology leaves.
    Intel,
    /// AuthenticAMD and HygonGenuine.
    Amd,
}

/// The guest's CPU: every leaf but for what differs between vCPUs.
#[derive(Debug, Clone)]
pub struct CpuProfile {
    entries: Vec<kvm_cpuid_entry2>,
    vendor: Vendor,
}

impl CpuProfile {
    /// Makes the profile: what KVM supports, plus what it supports silently, minus what this
    /// machine does not offer, changed as `request` says. Features that depend on one taken away
    /// go with it.
    ///
    /// # Errors
    /// Every feature asked for that cannot be, each named; a supported list without leaf 0 or 1.
    pub fn new(host: &HostCpu<'_>, request: &CpuRequest) -> Result<Self, Vec<CpuError>> {
        let mut profile = Self::from_host(host)?;
        let available = profile.entries.clone();
        for name in OFF_BY_DEFAULT {
            profile.clear(name);
        }
        for Change { name, on } in request.changes().iter().copied() {
            if !on {
                profile.clear(name);
            } else if has(&available, name) {
                profile.set(name);
            }
        }
        profile.drop_dependents();
        profile.hold_to(request)?;
        profile.drop_withheld_leaves();
        xsave::prune(&mut profile.entries);
        timing::publish(&mut profile.entries, profile.vendor, host.tsc_khz);
        profile
            .entries
            .sort_by_key(|entry| (entry.function, entry.index));
        Ok(profile)
    }

    /// The table of one vCPU, for `KVM_SET_CPUID2`.
    #[must_use]
    pub fn vcpu(&self, place: VcpuPlace) -> Vec<kvm_cpuid_entry2> {
        topology::place(&self.entries, self.vendor, place)
    }

    /// Whose processor it claims to be.
    #[must_use]
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// Leaf 1 EAX: family, model and stepping. It is also EDX at power-on.
    #[must_use]
    pub fn signature(&self) -> u32 {
        find(&self.entries, 1, 0).map_or(0, |entry| entry.eax)
    }

    /// Whether the guest sees the feature with this canonical name. False for unknown names.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        has(&self.entries, name)
    }

    /// Digest of all that a guest may rely on when it moves: equal digests mean the same features,
    /// leaf for leaf, whatever the number of vCPUs, the TSC frequency, and the host CPU KVM was
    /// asked on (it reports that one's APIC ID in leaves 1 and 0xB). 64-bit FNV-1a over the table
    /// of the only vCPU of a machine; the value is part of the snapshot format.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut digest = Fnv1a::default();
        for entry in self.vcpu(VcpuPlace::ALONE) {
            // The frequency is recorded by itself; sub-leaves 0 and 1 of leaf 0xD give in EBX the
            // size for the XCR0 and XSS of the moment.
            if matches!(entry.function, 0x15 | 0x16) {
                continue;
            }
            let momentary = entry.function == 0xD && entry.index < 2;
            let ebx = if momentary { 0 } else { entry.ebx };
            let kvm_cpuid_entry2 {
                function,
                index,
                flags,
                eax,
                ecx,
                edx,
                ..
            } = entry;
            for word in [function, index, flags, eax, ebx, ecx, edx] {
                digest.add(word);
            }
        }
        digest.0
    }

    /// All that could be offered: KVM's list, with what it leaves to user space added and what
    /// this machine cannot do taken away.
    fn from_host(host: &HostCpu<'_>) -> Result<Self, Vec<CpuError>> {
        let mut entries = host.supported.to_vec();
        let missing: Vec<CpuError> = [0, 1]
            .into_iter()
            .filter(|leaf| find(&entries, *leaf, 0).is_none())
            .map(|leaf| CpuError::MissingLeaf { leaf })
            .collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        let vendor = vendor_of(&entries);
        entries.retain(|entry| !WITHHELD.contains(&entry.function));
        let mut profile = Self { entries, vendor };
        // The in-kernel APIC does x2APIC and, where the capability says so, the deadline timer.
        profile.set("x2apic");
        profile.set("hypervisor");
        if host.tsc_deadline {
            profile.set("tsc-deadline");
        } else {
            profile.clear("tsc-deadline");
        }
        WITHHELD_FEATURES
            .iter()
            .for_each(|name| profile.clear(name));
        if let Some(entry) = find_mut(&mut profile.entries, KVM_SIGNATURE, 0) {
            entry.eax = KVM_FEATURES;
        }
        if let Some(entry) = find_mut(&mut profile.entries, KVM_FEATURES, 0) {
            entry.eax &= !KVM_FEATURES_NOT_OFFERED;
            // Hints are the VMM's to give.
            entry.edx = 1;
        }
        Ok(profile)
    }

    /// Finds what was asked on and is not there: the host lacks it, or what it rests on.
    fn hold_to(&self, request: &CpuRequest) -> Result<(), Vec<CpuError>> {
        let on = request.changes().iter().filter(|change| change.on);
        let missing: Vec<CpuError> = on
            .filter(|change| !self.has(change.name))
            .map(|change| CpuError::NotOnHost { name: change.name })
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing)
        }
    }

    /// Takes away every feature whose ground is gone, until none is left over. Each round but the
    /// last takes at least one feature away, so it ends.
    fn drop_dependents(&mut self) {
        let mut words = features::WORDS
            .iter()
            .map(|word| self.register(word).map_or(0, |register| *register))
            .collect::<Vec<u32>>();
        let mut any = true;
        while std::mem::take(&mut any) {
            for dependence in &features::DEPENDENCES {
                let Dependence {
                    needed,
                    dependent,
                    name,
                } = dependence;
                let has = |bits: &Bits| {
                    let word = words.get(bits.word).copied().unwrap_or(0);
                    word & bits.mask == bits.mask
                };
                if has(dependent) && !has(needed) {
                    self.clear(name);
                    any = true;
                    if let Some(word) = words.get_mut(dependent.word) {
                        *word &= !dependent.mask;
                    }
                }
            }
        }
    }

    /// Empties leaves that describe a feature now absent.
    fn drop_withheld_leaves(&mut self) {
        for (feature, leaf) in [("svm", 0x8000_000A), ("arch-lbr", 0x1C), ("amx-tile", 0x1D)] {
            if !self.has(feature) {
                self.entries.retain(|entry| entry.function != leaf);
            }
        }
        if !self.has("amx-tile") {
            self.entries.retain(|entry| entry.function != 0x1E);
        }
    }

    fn set(&mut self, name: &str) {
        for (word, mask) in features::places(name) {
            if let Some(register) = self.register(word) {
                *register |= mask;
            }
        }
    }

    fn clear(&mut self, name: &str) {
        if name == features::PMU {
            self.entries
                .retain(|entry| !matches!(entry.function, 0xA | 0x23 | 0x8000_0022));
            for part in features::PMU_PARTS {
                self.clear(part);
            }
            return;
        }
        for (word, mask) in features::places(name) {
            if let Some(register) = self.register(word) {
                *register &= !mask;
            }
            if word.leaf == 1 && word.reg == Reg::Edx && self.vendor == Vendor::Amd {
                let alias = mask & features::AMD_ALIASES_OF_1_EDX;
                if let Some(entry) = find_mut(&mut self.entries, 0x8000_0001, 0) {
                    entry.edx &= !alias;
                }
            }
        }
    }

    fn register(&mut self, word: &Word) -> Option<&mut u32> {
        let entry = find_mut(&mut self.entries, word.leaf, word.index)?;
        Some(match word.reg {
            Reg::Eax => &mut entry.eax,
            Reg::Ebx => &mut entry.ebx,
            Reg::Ecx => &mut entry.ecx,
            Reg::Edx => &mut entry.edx,
        })
    }
}

/// Bits of a guest-physical address on this host, from the entries of `KVM_GET_SUPPORTED_CPUID`:
/// leaf 0x8000_0008 EAX, bits 7:0, or what KVM can map of them, bits 23:16 (since Linux 6.10; AMD
/// APM volume 3 appendix E, "GuestPhysAddrSize"). A CPU without the leaf has 36.
#[must_use]
pub fn address_bits(supported: &[kvm_cpuid_entry2]) -> u32 {
    let Some(entry) = find(supported, 0x8000_0008, 0) else {
        return 36;
    };
    let [cpu, _, mapped, _] = entry.eax.to_le_bytes();
    match mapped {
        0 => u32::from(cpu),
        mapped => u32::from(cpu.min(mapped)),
    }
}

/// Whether every bit of the feature is set.
fn has(entries: &[kvm_cpuid_entry2], name: &str) -> bool {
    if name == features::PMU {
        let counters = find(entries, 0xA, 0).is_some_and(|entry| entry.eax & 0xFF != 0);
        return counters || has(entries, "perfctr-core");
    }
    let mut places = features::places(name).peekable();
    places.peek().is_some()
        && places.all(|(word, mask)| {
            find(entries, word.leaf, word.index).is_some_and(|entry| {
                let register = match word.reg {
                    Reg::Eax => entry.eax,
                    Reg::Ebx => entry.ebx,
                    Reg::Ecx => entry.ecx,
                    Reg::Edx => entry.edx,
                };
                register & mask != 0
            })
        })
}

fn vendor_of(entries: &[kvm_cpuid_entry2]) -> Vendor {
    // EBX of leaf 0 holds the first four letters: "Auth"enticAMD, "Hygo"nGenuine.
    match find(entries, 0, 0).map(|entry| entry.ebx.to_le_bytes()) {
        Some([b'A', b'u', b't', b'h'] | [b'H', b'y', b'g', b'o']) => Vendor::Amd,
        _ => Vendor::Intel,
    }
}

fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
    entries
        .iter()
        .find(|entry| entry.function == function && entry.index == index)
}

fn find_mut(
    entries: &mut [kvm_cpuid_entry2],
    function: u32,
    index: u32,
) -> Option<&mut kvm_cpuid_entry2> {
    entries
        .iter_mut()
        .find(|entry| entry.function == function && entry.index == index)
}

/// The 64-bit FNV-1a hash (offset basis and prime from its definition), over little-endian words.
struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Fnv1a {
    fn add(&mut self, word: u32) {
        for byte in word.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
}

#[cfg(test)]
mod tests;
