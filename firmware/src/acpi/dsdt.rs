//! The Differentiated System Description Table: the devices, and what their events mean. AML of
//! ACPI 6.5, chapters 5.6 and 6. Pure.

use acpi_tables::Aml;
use acpi_tables::aml::{
    And, Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO,
    If, Interrupt, Local, Memory32Fixed, Method, Name, Notify, ONE, OpRegion, OpRegionSpace,
    Package, Path, ResourceTemplate, Scope, Store, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout::{
    COM1_GSI, COM1_PORT, COM1_PORTS, EVENT_POWER_BUTTON, EVENT_VM_GENERATION, GED_GSI,
    POWER_EVENT_SELECTOR, PVPANIC_PORT, PVPANIC_PORTS, RTC_PORT, RTC_PORTS, SLEEP_TYPE_S5,
    VIRTIO_MMIO_LEN, VM_GENERATION_ID, VirtioMmioSlot,
};

/// A table's header (5.2.6), and the revision from which AML integers have 64 bits.
const HEADER_LEN: u32 = 36;
const REVISION: u8 = 2;

/// What a device's handler is notified with: "state changed" for the generation ID, "pressed" for
/// the button (5.6.6).
const NOTIFY_CHANGED: u8 = 0x80;
/// `_STA`: present, enabled, shown, functioning (6.3.7).
const STATUS_WORKING: u8 = 0x0F;

/// The table, for the devices in `slots`.
pub(super) fn dsdt(slots: &[VirtioMmioSlot]) -> Sdt {
    let mut aml = Vec::new();
    soft_off().to_aml_bytes(&mut aml);
    let mut devices = Vec::new();
    power_button(&mut devices);
    vm_generation(&mut devices);
    event_device(&mut devices);
    serial_port(&mut devices);
    clock(&mut devices);
    panic_device(&mut devices);
    for slot in slots {
        virtio_mmio(&mut devices, slot);
    }
    aml.extend(Scope::raw(Path::new("\\_SB_"), devices));

    let mut table = Sdt::new(
        *b"DSDT",
        HEADER_LEN,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    table.append_slice(&aml);
    table
}

/// `\_S5`: the sleep type to write to the sleep control register to power off (7.4.2).
fn soft_off() -> Name {
    let values: Vec<&dyn Aml> = vec![&SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO];
    Name::new(Path::new("_S5_"), &Package::new(values))
}

fn name(path: &str, value: &dyn Aml) -> Name {
    Name::new(Path::new(path), value)
}

/// `_CRS`: the ports, registers and line of a device.
fn resources(children: Vec<&dyn Aml>) -> Name {
    name("_CRS", &ResourceTemplate::new(children))
}

fn device(devices: &mut Vec<u8>, path: &str, children: Vec<&dyn Aml>) {
    Device::new(Path::new(path), children).to_aml_bytes(devices);
}

/// Every line here is edge-triggered, active high and not shared.
fn line(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

fn ports(first: u16, count: u8) -> IO {
    IO::new(first, first, 0, count)
}

/// 4.8.3.1.2: a power button as a device.
fn power_button(devices: &mut Vec<u8>) {
    device(
        devices,
        "PWRB",
        vec![
            &name("_HID", &EISAName::new("PNP0C0C")),
            &name("_UID", &ZERO),
        ],
    );
}

/// Microsoft's "Virtual Machine Generation ID": where the identifier is, as two halves of its
/// address. The names in `_CID` and `_DDN` are what drivers look for; `_HID` is ours.
fn vm_generation(devices: &mut Vec<u8>) {
    let (low, high) = (
        (VM_GENERATION_ID & 0xFFFF_FFFF) as u32,
        (VM_GENERATION_ID >> 32) as u32,
    );
    let halves: Vec<&dyn Aml> = vec![&low, &high];
    let address = Package::new(halves);
    device(
        devices,
        "VGEN",
        vec![
            &name("_HID", &"THMB0001"),
            &name("_CID", &"VM_Gen_Counter"),
            &name("_DDN", &"VM_Gen_Counter"),
            &name("ADDR", &address),
        ],
    );
}

/// 5.6.9: the generic event device. Its method reads which events are pending, which clears them,
/// and passes each on to its device.
fn event_device(devices: &mut Vec<u8>) {
    let offset = POWER_EVENT_SELECTOR as u32;
    let region = OpRegion::new(
        Path::new("EREG"),
        OpRegionSpace::SystemMemory,
        &offset,
        &4_u8,
    );
    let selector = Field::new(
        Path::new("EREG"),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![FieldEntry::Named(*b"ESEL", 32)],
    );
    let pending = Local(0);
    let (events, button, generation) = (Path::new("ESEL"), Path::new("PWRB"), Path::new("VGEN"));
    let read = Store::new(&pending, &events);
    let on_button = And::new(&ZERO, &pending, &EVENT_POWER_BUTTON);
    let on_generation = And::new(&ZERO, &pending, &EVENT_VM_GENERATION);
    let pressed = Notify::new(&button, &NOTIFY_CHANGED);
    let changed = Notify::new(&generation, &NOTIFY_CHANGED);
    let if_pressed = If::new(&on_button, vec![&pressed]);
    let if_changed = If::new(&on_generation, vec![&changed]);
    let steps: Vec<&dyn Aml> = vec![&read, &if_pressed, &if_changed];
    let event = Method::new(Path::new("_EVT"), 1, true, steps);
    device(
        devices,
        "GED_",
        vec![
            &name("_HID", &"ACPI0013"),
            &name("_UID", &ZERO),
            &resources(vec![&line(GED_GSI)]),
            &region,
            &selector,
            &event,
        ],
    );
}

fn serial_port(devices: &mut Vec<u8>) {
    device(
        devices,
        "COM1",
        vec![
            &name("_HID", &EISAName::new("PNP0501")),
            &name("_UID", &ZERO),
            &name("_DDN", &"COM1"),
            &resources(vec![&ports(COM1_PORT, COM1_PORTS), &line(COM1_GSI)]),
        ],
    );
}

/// The CMOS clock has no interrupt line: it has no alarm.
fn clock(devices: &mut Vec<u8>) {
    device(
        devices,
        "RTC_",
        vec![
            &name("_HID", &EISAName::new("PNP0B00")),
            &resources(vec![&ports(RTC_PORT, RTC_PORTS)]),
        ],
    );
}

/// QEMU's docs/specs/pvpanic, "ACPI Interface".
fn panic_device(devices: &mut Vec<u8>) {
    device(
        devices,
        "PEVT",
        vec![
            &name("_HID", &"QEMU0001"),
            &name("_STA", &STATUS_WORKING),
            &resources(vec![&ports(PVPANIC_PORT, PVPANIC_PORTS)]),
        ],
    );
}

/// A virtio-mmio transport by the name Linux's driver knows; the device behind it says itself what
/// it is.
fn virtio_mmio(devices: &mut Vec<u8>, slot: &VirtioMmioSlot) {
    let registers = Memory32Fixed::new(true, slot.address, VIRTIO_MMIO_LEN as u32);
    device(
        devices,
        &format!("V{:03}", slot.slot),
        vec![
            &name("_HID", &"LNRO0005"),
            &name("_UID", &slot.slot),
            // Its accesses to memory are coherent with the CPU's (6.2.17).
            &name("_CCA", &ONE),
            &resources(vec![&registers, &line(slot.gsi)]),
        ],
    );
}
