//! Test guest: boots, says how it was entered and what it was told, powers off.
#![no_std]
#![no_main]

use rt::{acpi, boot_info, clock, test};

rt::entry!(main, "hello\n");

fn main() {
    let ram: u64 = boot_info::memory_map()
        .filter(|range| range.kind == boot_info::RAM)
        .map(|range| range.length)
        .sum();
    test!("entry", true, "{}", boot_info::protocol());
    test!("command_line", true, "\"{}\"", boot_info::command_line());
    test!("memory_map", ram != 0, "{ram} bytes of RAM");
    test!(
        "acpi",
        boot_info::rsdp().is_some(),
        "rsdp {:#x}",
        boot_info::rsdp().unwrap_or(0)
    );
    for signature in [b"APIC", b"FACP"] {
        let name = core::str::from_utf8(signature).unwrap_or_default();
        let valid = acpi::find(signature).is_some_and(acpi::sum_is_zero);
        test!("acpi_table", valid, "{name}");
    }
    test!("sleep_control", acpi::sleep_control().is_some());
    test!("reset_register", acpi::reset_register().is_some());
    let start = clock::tsc();
    test!("tsc", clock::tsc() > start, "{} Hz", clock::hz());
    rt::test_report::done();
}
