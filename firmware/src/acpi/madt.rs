//! The Multiple APIC Description Table: the CPUs and the I/O APIC. ACPI 6.5, 5.2.12. Pure.
//!
//! No interrupt source overrides: every line is edge-triggered and active high with the number of
//! its I/O APIC pin, which is what a kernel assumes of an ISA line without one.

use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout::{IO_APIC, IO_APIC_ID, LOCAL_APIC};

/// The table. APIC IDs up to 254 fit the local APIC entries, so none of x2APIC kind is needed.
pub(super) fn madt(cpus: u8) -> MADT {
    let lapic = LocalInterruptController::Address(LOCAL_APIC);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, lapic);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(IO_APIC_ID, IO_APIC, 0));
    madt
}
