//! Shows the machine: processors, memory, clock, what the loader said.

use core::fmt;

use rt::{acpi, boot_info, cmos, cpuid, memory, print, println};

/// Where thimble-1 keeps the VM generation ID.
const GENERATION_ID: u64 = 0xf_f000;

/// Prints everything about the machine, its devices apart.
pub(crate) fn print() {
    println!("\nMachine");
    println!(
        "  processor      {}, {}",
        cpuid::vendor().as_str(),
        cpuid::brand().as_str()
    );
    print!("  processors     {}, APIC ids", acpi::processors().count());
    acpi::processors().for_each(|id| print!(" {id}"));
    println!();
    match cpuid::hypervisor() {
        Some(signature) => println!("  hypervisor     {}", signature.as_str()),
        None => println!("  hypervisor     none"),
    }
    match cmos::now() {
        Some(now) => println!(
            "  clock          {:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
            now.year, now.month, now.day, now.hour, now.minute, now.second
        ),
        None => println!("  clock          does not tell the time"),
    }
    print_generation();
    println!("  entered by     {}", boot_info::protocol());
    match boot_info::command_line() {
        "" => println!("  command line   none"),
        text => println!("  command line   {text}"),
    }
    print_memory();
}

/// Prints the VM generation ID, which is another one in every copy of a machine.
pub(crate) fn print_generation() {
    let bytes: [u8; 16] = memory::read(GENERATION_ID);
    print!("  generation ID  ");
    // The first three fields of a GUID are little-endian.
    for (i, place) in [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]
        .iter()
        .enumerate()
    {
        let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
        print!("{dash}{:02x}", bytes[*place]);
    }
    println!();
}

fn print_memory() {
    println!("\nMemory");
    let mut total = 0;
    for range in boot_info::memory_map() {
        let kind = match range.kind {
            boot_info::RAM => "RAM",
            2 => "reserved",
            3 => "ACPI tables",
            4 => "ACPI, kept over sleep",
            _ => "of unknown kind",
        };
        if range.kind == boot_info::RAM {
            total += range.length;
        }
        let last = range.start.wrapping_add(range.length).wrapping_sub(1);
        println!(
            "  {:#011x} - {last:#011x}  {:>10} {kind}",
            range.start,
            Bytes(range.length)
        );
    }
    // The few KiB below 1 MiB that are not RAM would only make the number odd.
    println!("  {} MiB of RAM in all", total.div_ceil(1 << 20));
}

/// A number of bytes as people write it.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut number = self.0;
        let mut units = ["bytes", "KiB", "MiB", "GiB", "TiB"].into_iter();
        let mut unit = units.next().unwrap_or_default();
        while number >= 1024 && number.is_multiple_of(1024) {
            let Some(larger) = units.next() else { break };
            number /= 1024;
            unit = larger;
        }
        // Padded as a whole: the columns of a list are the callers'.
        let width = formatter
            .width()
            .unwrap_or(0)
            .saturating_sub(unit.len() + 1);
        write!(formatter, "{number:>width$} {unit}")
    }
}
