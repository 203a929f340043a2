//! The tables read back by a parser that shares nothing with what wrote them, frozen in golden
//! files, and disassembled by ACPICA where it is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

/// The configurations that are frozen: name, CPUs, slots.
const FROZEN: &[(&str, u8, &[u8])] = &[
    ("one-cpu-no-device", 1, &[]),
    ("two-cpus-disk-and-rng", 2, &[0, 1]),
    (
        "32-cpus-all-slots",
        32,
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    ),
];

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at guest address `address`, by the length it says.
fn table(blob: &[u8], address: u64) -> &[u8] {
    let start = usize::try_from(address - layout::ACPI_START).unwrap();
    assert_eq!(start % 16, 0);
    let len = usize::try_from(number(&blob[start + 4..start + 8])).unwrap();
    let table = &blob[start..start + len];
    assert_eq!(
        sum(table),
        0,
        "checksum of {:?}",
        std::str::from_utf8(&table[..4])
    );
    assert_eq!(&table[10..16], b"THIMBL");
    assert_eq!(&table[16..24], b"THIMBLE1");
    table
}

struct Parsed<'a> {
    fadt: &'a [u8],
    madt: &'a [u8],
    dsdt: &'a [u8],
}

fn parse(blob: &[u8]) -> Parsed<'_> {
    assert_eq!(&blob[..8], b"RSD PTR ");
    assert_eq!((sum(&blob[..20]), sum(&blob[..36])), (0, 0));
    assert_eq!((blob[15], number(&blob[20..24])), (2, 36));
    let xsdt = table(blob, number(&blob[24..32]));
    assert_eq!(&xsdt[..4], b"XSDT");
    let addresses: Vec<_> = xsdt[36..].chunks(8).map(number).collect();
    let [fadt, madt] = addresses.try_into().unwrap();
    let (fadt, madt) = (table(blob, fadt), table(blob, madt));
    assert_eq!((&fadt[..4], &madt[..4]), (&b"FACP"[..], &b"APIC"[..]));
    assert_eq!(number(&fadt[40..44]), 0, "the 32-bit DSDT pointer");
    let dsdt = table(blob, number(&fadt[140..148]));
    assert_eq!(&dsdt[..4], b"DSDT");
    Parsed { fadt, madt, dsdt }
}

#[test]
fn fadt_says_hardware_reduced_reset_and_sleep() {
    let blob = build(1, &[]).unwrap();
    let fadt = parse(&blob).fadt;
    assert_eq!((fadt.len(), fadt[8], fadt[131]), (276, 6, 5));
    let flags = number(&fadt[112..116]);
    let expected = 1 << 20 | 1 << 10 | 1 << 6 | 1 << 5 | 1 << 4 | 1;
    assert_eq!(flags, expected, "{flags:#x}");
    assert_eq!(number(&fadt[109..111]), 0b101);
    // Generic addresses: memory, 8 bits wide, by bytes.
    assert_eq!(fadt[116..128], [0, 8, 0, 1, 0x18, 0, 0, 0xC0, 0, 0, 0, 0]);
    assert_eq!(fadt[128], 0x42);
    assert_eq!(fadt[244..256], [0, 8, 0, 1, 0x10, 0, 0, 0xC0, 0, 0, 0, 0]);
    assert_eq!(fadt[256..268], [0, 8, 0, 1, 0x14, 0, 0, 0xC0, 0, 0, 0, 0]);
}

#[test]
fn madt_has_every_cpu_and_one_io_apic() {
    for cpus in [1, 2, 32, 255] {
        let blob = build(cpus, &[]).unwrap();
        let madt = parse(&blob).madt;
        assert_eq!(
            (number(&madt[36..40]), number(&madt[40..44])),
            (0xFEE0_0000, 0)
        );
        let mut rest = &madt[44..];
        for cpu in 0..cpus {
            assert_eq!(rest[..8], [0, 8, cpu, cpu, 1, 0, 0, 0]);
            rest = &rest[8..];
        }
        assert_eq!(rest, [1, 12, 0, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0]);
    }
}

#[test]
fn dsdt_names_the_devices_asked_for() {
    let has = |blob: &[u8], text: &[u8]| {
        parse(blob)
            .dsdt
            .windows(text.len())
            .any(|window| window == text)
    };
    let blob = build(1, &[16, 3]).unwrap();
    for text in [
        "_S5_",
        "ACPI0013",
        "QEMU0001",
        "VM_Gen_Counter",
        "LNRO0005",
        "V003",
        "V016",
    ] {
        assert!(has(&blob, text.as_bytes()), "{text}");
    }
    assert!(!has(&blob, b"V000"));
    // Registers of slot 16, writable; line 23: consumer, edge, active high, exclusive.
    assert!(has(
        &blob,
        &[0x86, 9, 0, 1, 0, 0x10, 0x01, 0xC0, 0, 0x10, 0, 0]
    ));
    assert!(has(&blob, &[0x89, 6, 0, 0b0011, 1, 23, 0, 0, 0]));
    assert!(!has(&build(1, &[]).unwrap(), b"LNRO0005"));
}

#[test]
fn slots_in_any_order_give_the_same_tables() {
    assert_eq!(build(1, &[2, 0, 1]), build(1, &[0, 1, 2]));
}

#[test]
fn what_cannot_be_described_is_refused() {
    assert_eq!(build(0, &[]), Err(AcpiError::NoCpu));
    assert_eq!(build(1, &[0, 17]), Err(AcpiError::NoSlot { slot: 17 }));
    assert_eq!(build(1, &[5, 1, 5]), Err(AcpiError::DoubleSlot { slot: 5 }));
}

#[test]
fn the_largest_machine_fits_below_the_generation_id() {
    let all: Vec<u8> = (0..17).collect();
    let blob = build(u8::MAX, &all).unwrap();
    assert!(layout::ACPI_START + (blob.len() as u64) < layout::ACPI_END);
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("goldens")
        .join(format!("acpi-{name}.hex"))
}

/// Sixteen bytes a line, so that a change shows where it is.
fn hex(blob: &[u8]) -> String {
    let line = |(n, bytes): (usize, &[u8])| {
        let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:05x}: {}\n", n * 16, bytes.join(" "))
    };
    blob.chunks(16).enumerate().map(line).collect()
}

#[test]
fn tables_are_the_frozen_ones() {
    for (name, cpus, slots) in FROZEN {
        let path = golden(name);
        let now = hex(&build(*cpus, slots).unwrap());
        if std::env::var_os("UPDATE_GOLDENS").is_some() {
            fs::write(&path, &now).unwrap();
        }
        let frozen = fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("{}: {error}: UPDATE_GOLDENS=1 writes it", path.display())
        });
        assert_eq!(
            now, frozen,
            "{name}: the tables of thimble-1 changed. Guests see this: it wants a new machine \
             version, unless nothing was released yet (then UPDATE_GOLDENS=1)"
        );
    }
}

/// `iasl` reads the tables, and what it reads compiles again without an error or a warning.
#[test]
fn acpica_disassembles_and_compiles_them() {
    if Command::new("iasl").arg("-v").output().is_err() {
        println!("skipped: iasl is not installed (Debian: acpica-tools)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new("iasl")
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(output.status.success(), "iasl {arguments:?}:\n{text}");
        text
    };
    let blob = build(32, &(0..17).collect::<Vec<_>>()).unwrap();
    let Parsed { fadt, madt, dsdt } = parse(&blob);
    for (name, table) in [("facp", fadt), ("apic", madt), ("dsdt", dsdt)] {
        fs::write(dir.path().join(format!("{name}.dat")), table).unwrap();
        let text = run(&["-d", &format!("{name}.dat")]);
        assert!(
            !text.contains("Error") && !text.contains("Warning"),
            "{name}:\n{text}"
        );
        let source = fs::read_to_string(dir.path().join(format!("{name}.dsl"))).unwrap();
        assert!(
            !source.contains("Invalid") && !source.contains("Incorrect"),
            "{source}"
        );
    }
    let text = run(&["-tc", "dsdt.dsl"]);
    assert!(text.contains("0 Errors, 0 Warnings"), "{text}");
}
