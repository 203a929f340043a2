//! x86-64: the guest's CPUID, MSRs, boot and reset register files, and the saved vCPU state.
//!
//! Called by the builder on the main thread (profile, boot registers), by each vCPU's owner at
//! reset, and by snapshot and migration. Sources: Intel SDM volumes 2A (CPUID), 3A chapter 10
//! (reset state) and 11 (APIC); AMD APM volume 3 appendix E; Linux `Documentation/virt/kvm/api.rst`.

pub mod cpuid;
pub mod dump_registers;
pub mod entry;
pub mod halt;
pub mod msr;
pub mod regs;
pub mod state;
