//! CPUID leaf 0xD: the extended-state components, kept in step with the features.
//!
//! Called while the profile is made; pure. Intel SDM volume 1 chapter 13. A guest that is told of
//! no AVX must not be told of its state component, nor be given room for it.

use kvm_bindings::kvm_cpuid_entry2;

use super::{find, find_mut, has};

/// The legacy region and the XSAVE header: the size with no extended component.
const LEGACY_AND_HEADER: u32 = 576;

/// State components and the feature each belongs to. x87 and SSE (bits 0 and 1) always stand.
const COMPONENTS: &[(u32, &str)] = &[
    (2, "avx"),
    (3, "mpx"),
    (4, "mpx"),
    (5, "avx512f"),
    (6, "avx512f"),
    (7, "avx512f"),
    (9, "pku"),
    (11, "shstk"),
    (12, "shstk"),
    (15, "arch-lbr"),
    (17, "amx-tile"),
    (18, "amx-tile"),
];

/// Drops components whose feature is gone, and recomputes the sizes; without XSAVE, drops the leaf.
pub(super) fn prune(entries: &mut Vec<kvm_cpuid_entry2>) {
    if !has(entries, "xsave") {
        entries.retain(|entry| entry.function != 0xD);
        return;
    }
    let gone: Vec<u32> = COMPONENTS
        .iter()
        // Control-flow state serves either of its two features.
        .filter(|(_, feature)| match *feature {
            "shstk" => !has(entries, "shstk") && !has(entries, "ibt"),
            feature => !has(entries, feature),
        })
        .map(|(bit, _)| *bit)
        .collect();
    entries.retain(|entry| entry.function != 0xD || !gone.contains(&entry.index));
    let mask = gone.iter().fold(0u32, |mask, bit| mask | (1 << bit));
    let supervisor = has(entries, "xsaves");
    if let Some(sub1) = find_mut(entries, 0xD, 1) {
        // IA32_XSS components; without XSAVES there are none.
        sub1.ecx = if supervisor { sub1.ecx & !mask } else { 0 };
        sub1.edx = if supervisor { sub1.edx } else { 0 };
    }
    let Some(user) = find(entries, 0xD, 0).map(|sub0| sub0.eax & !mask) else {
        return;
    };
    let size = standard_size(entries, user);
    if let Some(sub0) = find_mut(entries, 0xD, 0) {
        sub0.eax = user;
        sub0.ecx = size;
        // EBX is the size for the XCR0 of the moment; at reset that is x87 alone. KVM keeps it.
        sub0.ebx = LEGACY_AND_HEADER;
    }
}

/// The size of the standard-form area for the user components in `mask`: the end of the last.
fn standard_size(entries: &[kvm_cpuid_entry2], mask: u32) -> u32 {
    entries
        .iter()
        .filter(|entry| entry.function == 0xD && (2..32).contains(&entry.index))
        .filter(|entry| mask & (1 << entry.index) != 0)
        .map(|entry| entry.ebx.saturating_add(entry.eax))
        .fold(LEGACY_AND_HEADER, u32::max)
}
