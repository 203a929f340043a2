//! Time by the TSC, and how fast it runs.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::memory::Region;
use crate::{cpuid, service};

/// KVM's feature leaf and its bit for the clock MSRs (Linux, virt/kvm/x86/cpuid.rst).
const KVM_FEATURES: u32 = 0x4000_0001;
const KVM_FEATURE_CLOCKSOURCE2: u32 = 1 << 3;
const MSR_KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;
/// In pvclock_vcpu_time_info.
const TSC_TO_SYSTEM_MUL: u64 = 24;
const TSC_SHIFT: u64 = 28;

/// Leaf with the TSC's rate in kHz, by VMware's convention.
const HYPERVISOR_TIMING: u32 = 0x4000_0010;

/// Taken when no source tells: right within a factor of two on today's machines.
const GUESSED_HZ: u64 = 2_500_000_000;

static HZ: AtomicU64 = AtomicU64::new(0);

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: CR4.TSD is clear.
    unsafe { _rdtsc() }
}

/// Ticks of the TSC per second, as far as can be known.
pub fn hz() -> u64 {
    if HZ.load(Relaxed) == 0 {
        HZ.store(
            from_kvm_clock().or_else(from_cpuid).unwrap_or(GUESSED_HZ),
            Relaxed,
        );
    }
    HZ.load(Relaxed)
}

fn from_kvm_clock() -> Option<u64> {
    if cpuid::hypervisor()?.as_str() != "KVMKVMKVM"
        || cpuid::leaf(KVM_FEATURES).eax & KVM_FEATURE_CLOCKSOURCE2 == 0
    {
        return None;
    }
    let page = Region::allocate(32);
    // SAFETY: the page is given to the clock for good; switched off again below all the same.
    unsafe { service::write_msr(MSR_KVM_SYSTEM_TIME, page.address() | 1) };
    let multiplier = u128::from(page.read32(TSC_TO_SYSTEM_MUL));
    let shift = page.read8(TSC_SHIFT) as i8;
    // SAFETY: as above.
    unsafe { service::write_msr(MSR_KVM_SYSTEM_TIME, 0) };
    // ns = (ticks << shift) * multiplier >> 32
    let hz = (1_000_000_000u128 << 32).checked_div(multiplier)?;
    let hz = if shift < 0 {
        hz << shift.unsigned_abs()
    } else {
        hz >> shift
    };
    u64::try_from(hz).ok().filter(|&hz| hz != 0)
}

fn from_cpuid() -> Option<u64> {
    let last = cpuid::leaf(0).eax;
    if last >= 0x15 {
        let leaf = cpuid::leaf(0x15);
        let hz = u64::from(leaf.ecx) * u64::from(leaf.ebx);
        if let Some(hz) = hz.checked_div(u64::from(leaf.eax)).filter(|&hz| hz != 0) {
            return Some(hz);
        }
    }
    cpuid::hypervisor()?;
    if cpuid::leaf(cpuid::HYPERVISOR).eax < HYPERVISOR_TIMING {
        return None;
    }
    let khz = u64::from(cpuid::leaf(HYPERVISOR_TIMING).eax);
    (khz != 0).then_some(khz * 1000)
}

/// Nanoseconds of so many ticks.
pub fn nanoseconds(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000_000 / u128::from(hz())) as u64
}

/// A point in time after which waiting is given up.
#[derive(Clone, Copy)]
pub struct Deadline(u64);

impl Deadline {
    /// So many milliseconds from now.
    pub fn after_ms(ms: u64) -> Self {
        Self(tsc() + hz() / 1000 * ms)
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        tsc() > self.0
    }

    /// Spins until it has.
    pub fn wait(self) {
        while !self.passed() {
            core::hint::spin_loop();
        }
    }
}
