//! CPUID leaves 0x15 and 0x16: the TSC frequency, for guests that do not read kvm-clock.
//!
//! Called while the profile is made; pure. Intel SDM volume 2A: TSC Hz = ECX × EBX / EAX of leaf
//! 0x15. The crystal is given as 1 GHz, because Linux also takes it as the local APIC timer's
//! clock, and KVM's local APIC counts nanoseconds. AMD processors have neither leaf.

use kvm_bindings::kvm_cpuid_entry2;

use super::{Vendor, find_mut};

/// The crystal's frequency in kHz: KVM's local APIC bus clock.
const CRYSTAL_KHZ: u32 = 1_000_000;

/// Fills the two leaves where the vendor has them and the frequency is known; takes them away
/// otherwise, since KVM would pass on the host's.
pub(super) fn publish(entries: &mut Vec<kvm_cpuid_entry2>, vendor: Vendor, tsc_khz: Option<u32>) {
    entries.retain(|entry| !matches!(entry.function, 0x15 | 0x16));
    let Some(khz) = tsc_khz.filter(|khz| *khz > 0 && vendor == Vendor::Intel) else {
        return;
    };
    let Some((numerator, denominator)) = ratio_to_crystal(khz) else {
        return;
    };
    let mhz = khz.div_euclid(1000);
    entries.push(kvm_cpuid_entry2 {
        function: 0x15,
        eax: denominator,
        ebx: numerator,
        ecx: CRYSTAL_KHZ * 1000,
        ..Default::default()
    });
    entries.push(kvm_cpuid_entry2 {
        function: 0x16,
        // Base and maximum frequency in MHz; the bus is 100 MHz by convention.
        eax: mhz & 0xFFFF,
        ebx: mhz & 0xFFFF,
        ecx: 100,
        ..Default::default()
    });
    if let Some(leaf0) = find_mut(entries, 0, 0) {
        leaf0.eax = leaf0.eax.max(0x16);
    }
}

/// The fraction nearest to `khz` / crystal whose numerator keeps Linux's 32-bit product
/// `crystal kHz × EBX` from overflowing: the last convergent of the continued fraction that fits, at
/// worst 1/4294 off, usually a few millionths. `None` for a frequency too far from the crystal's to
/// be expressed so.
fn ratio_to_crystal(khz: u32) -> Option<(u32, u32)> {
    let limit = u64::from(u32::MAX / CRYSTAL_KHZ);
    let (mut dividend, mut divisor) = (u64::from(khz), u64::from(CRYSTAL_KHZ));
    // Two convergents back and one back, as numerator and denominator.
    let (mut before, mut last) = ((0u64, 1u64), (1u64, 0u64));
    while divisor != 0 {
        let whole = dividend.div_euclid(divisor);
        let next = (whole * last.0 + before.0, whole * last.1 + before.1);
        if next.0 > limit {
            break;
        }
        (before, last) = (last, next);
        (dividend, divisor) = (divisor, dividend.rem_euclid(divisor));
    }
    match (u32::try_from(last.0), u32::try_from(last.1)) {
        (Ok(numerator), Ok(denominator)) if numerator > 0 && denominator > 0 => {
            Some((numerator, denominator))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_exact_or_close_and_never_overflows_linux() {
        for khz in [
            1_000_000, 2_600_000, 2_596_095, 2_999_997, 3_399_981, 5_700_123, 800_001,
        ] {
            let (numerator, denominator) = ratio_to_crystal(khz).unwrap();
            let product = CRYSTAL_KHZ.checked_mul(numerator).expect("fits 32 bits");
            let seen = f64::from(product) / f64::from(denominator);
            let error = (seen - f64::from(khz)).abs() / f64::from(khz);
            assert!(
                error < 2.4e-4,
                "{khz}: {numerator}/{denominator} gives {seen}"
            );
        }
        assert_eq!(ratio_to_crystal(2_600_000), Some((13, 5)));
        assert_eq!(ratio_to_crystal(u32::MAX), Some((4294, 1)));
    }

    #[test]
    fn only_intel_with_a_known_frequency_has_the_leaves() {
        let host = vec![
            kvm_cpuid_entry2 {
                function: 0,
                eax: 0xD,
                ..Default::default()
            },
            kvm_cpuid_entry2 {
                function: 0x15,
                eax: 7,
                ..Default::default()
            },
        ];
        for (vendor, khz, leaves) in [
            (Vendor::Intel, Some(2_600_000), 2),
            (Vendor::Intel, None, 0),
            (Vendor::Intel, Some(0), 0),
            (Vendor::Amd, Some(2_600_000), 0),
        ] {
            let mut entries = host.clone();
            publish(&mut entries, vendor, khz);
            assert_eq!(entries.len(), 1 + leaves);
            assert_eq!(entries[0].eax, if leaves == 0 { 0xD } else { 0x16 });
        }
    }
}
