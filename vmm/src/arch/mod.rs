//! What depends on the processor architecture: CPUID, MSRs, register files and their saved form.
//!
//! Everything here is pure data transformation; the few functions that issue ioctls are in
//! `x86_64::state` and are called by the thread that owns the vCPU. A second architecture adds a
//! sibling module.

#[cfg(target_arch = "x86_64")]
pub mod x86_64;
