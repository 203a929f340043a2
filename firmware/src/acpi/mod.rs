//! The ACPI tables of `thimble-1`: how a kernel finds CPUs, interrupt controllers, devices, the
//! power button, and how to reset and power off.
//!
//! Pure: CPU count and device slots in, one run of bytes out, to be written at
//! [`layout::ACPI_START`]. ACPI specification 6.5; the machine is "hardware-reduced" (4.1): no fixed
//! power hardware, no SCI, events through a generic event device.
//!
//! The bytes are part of the machine version. Golden files in firmware/goldens freeze them.

mod dsdt;
mod fadt;
mod madt;

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

use crate::layout;

/// Who made the tables, and which machine they describe.
const OEM_ID: [u8; 6] = *b"THIMBL";
const OEM_TABLE_ID: [u8; 8] = *b"THIMBLE1";
const OEM_REVISION: u32 = 1;

/// Every table starts at a multiple of this. The specification asks for nothing; 16 keeps fields
/// aligned and dumps readable.
const ALIGNMENT: usize = 16;

/// Why there are no tables.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AcpiError {
    /// A machine without a CPU.
    #[error("a machine needs at least one CPU")]
    NoCpu,
    /// A slot that the machine does not have.
    #[error(
        "there is no virtio-mmio slot {slot}: there are {}",
        layout::VIRTIO_MMIO_SLOTS
    )]
    NoSlot {
        /// Its number.
        slot: u8,
    },
    /// A slot named twice.
    #[error("virtio-mmio slot {slot} is named twice")]
    DoubleSlot {
        /// Its number.
        slot: u8,
    },
    /// The tables do not fit.
    #[error("the tables take {len} bytes, {room} are reserved for them")]
    TooLong {
        /// Their length.
        len: usize,
        /// The room.
        room: usize,
    },
}

/// Builds the tables for `cpus` CPUs and the devices in `slots`, in any order, to be written at
/// [`layout::ACPI_START`]; the RSDP comes first.
pub fn build(cpus: u8, slots: &[u8]) -> Result<Vec<u8>, AcpiError> {
    if cpus == 0 {
        return Err(AcpiError::NoCpu);
    }
    let slots = checked_slots(slots)?;

    let mut blob = Blob {
        bytes: vec![0; Rsdp::len()],
    };
    let dsdt = blob.append(&dsdt::dsdt(&slots));
    let fadt = blob.append(&fadt::fadt(dsdt));
    let madt = blob.append(&madt::madt(cpus));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = blob.append(&xsdt);

    let mut rsdp = Vec::with_capacity(Rsdp::len());
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    for (to, from) in blob.bytes.iter_mut().zip(rsdp) {
        *to = from;
    }
    let (len, room) = (
        blob.bytes.len(),
        (layout::ACPI_END - layout::ACPI_START) as usize,
    );
    if len > room {
        return Err(AcpiError::TooLong { len, room });
    }
    Ok(blob.bytes)
}

/// The slots by their numbers, ascending.
fn checked_slots(slots: &[u8]) -> Result<Vec<layout::VirtioMmioSlot>, AcpiError> {
    let mut sorted = slots.to_vec();
    sorted.sort_unstable();
    let double = sorted.windows(2).find_map(|pair| match pair {
        [a, b] if a == b => Some(*a),
        _ => None,
    });
    if let Some(slot) = double {
        return Err(AcpiError::DoubleSlot { slot });
    }
    let slot = |slot| layout::virtio_mmio_slot(slot).ok_or(AcpiError::NoSlot { slot });
    sorted.into_iter().map(slot).collect()
}

/// The tables laid out so far.
struct Blob {
    bytes: Vec<u8>,
}

impl Blob {
    /// Appends a table and returns its guest-physical address.
    fn append(&mut self, table: &dyn Aml) -> u64 {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let address = layout::ACPI_START + self.bytes.len() as u64;
        table.to_aml_bytes(&mut self.bytes);
        address
    }
}

#[cfg(test)]
mod tests;
