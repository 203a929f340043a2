//! The Fixed ACPI Description Table: which machine this is, how to reset and power it off.
//! ACPI 6.5, 5.2.9. Pure.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout::{POWER_RESET, POWER_RESET_VALUE, POWER_SLEEP_CONTROL, POWER_SLEEP_STATUS};

/// `IAPC_BOOT_ARCH` (5.2.9.3): there are ISA devices (serial port, clock)...
const LEGACY_DEVICES: u16 = 1 << 0;
/// ...but no VGA. The bit for an i8042 stays 0: it has no keyboard, and a kernel that believes in
/// one spends time probing it. The bit for "no CMOS clock" stays 0: there is one.
const NO_VGA: u16 = 1 << 2;

/// The table, for a DSDT at the guest-physical address `dsdt`.
pub(super) fn fadt(dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // Set means: not as fixed hardware. The power button is a device in the DSDT.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc);
    fadt.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA).into();
    fadt.reset_reg = byte_register(POWER_RESET);
    fadt.reset_value = POWER_RESET_VALUE;
    fadt.sleep_control_reg = byte_register(POWER_SLEEP_CONTROL);
    fadt.sleep_status_reg = byte_register(POWER_SLEEP_STATUS);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"thimble\0").into();
    fadt.finalize()
}

fn byte_register(address: u64) -> GAS {
    GAS::new(
        AddressSpace::SystemMemory,
        8,
        0,
        AccessSize::ByteAccess,
        address,
    )
}
