//! Ways for a guest to end: power off, reset, crash.

use crate::acpi::Register;
use crate::clock::Deadline;
use crate::{acpi, boot_info, mmio, port, println, service};

/// thimble-1's power block: the event selector of the ACPI GED first.
pub const EVENT_SELECTOR: u64 = 0xc000_0000;
/// The GED's line.
pub const EVENT_LINE: u32 = 9;
/// Event: the power button was pressed.
pub const EVENT_POWER_BUTTON: u32 = 1 << 0;
/// Event: the VM generation ID has changed.
pub const EVENT_GENERATION: u32 = 1 << 1;

const SLEEP_CONTROL: Register = Register {
    space: SPACE_MEMORY,
    address: 0xc000_0010,
};
const RESET: Register = Register {
    space: SPACE_MEMORY,
    address: 0xc000_0018,
};
const RESET_VALUE: u8 = 0x42;

// Address spaces of ACPI 6.5, table 5.1.
const SPACE_MEMORY: u8 = 0;
const SPACE_PORT: u8 = 1;

/// SLP_TYP 5 and SLP_EN of the sleep control register (ACPI 6.5, 4.8.3.7).
const SLEEP_S5: u8 = 5 << 2 | 1 << 5;

/// i8042 command port, and the command that pulses the reset line.
const I8042: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;

/// pvpanic's port and its "panicked" bit.
const PVPANIC: u16 = 0x505;
const PVPANIC_PANICKED: u8 = 1 << 0;

/// How long a VMM may take to stop the machine after it was told.
const PATIENCE_MS: u64 = 2000;

fn write(register: Register, value: u8) {
    match register.space {
        SPACE_MEMORY if mmio::WINDOW.contains(&register.address) => {
            mmio::write8(register.address, value);
        }
        SPACE_PORT => port::write8(register.address as u16, value),
        _ => {}
    }
}

/// Tells the machine to power off, as its ACPI tables say, and returns.
pub fn request_off() {
    write(acpi::sleep_control().unwrap_or(SLEEP_CONTROL), SLEEP_S5);
}

/// Powers the machine off. Where the command line says `end=i8042`, as for a VMM that knows no
/// power-off, by the keyboard controller's reset.
pub fn off() -> ! {
    if boot_info::option("end") == Some("i8042") {
        request_i8042_reset();
    }
    request_off();
    Deadline::after_ms(PATIENCE_MS).wait();
    println!("FATAL still running {PATIENCE_MS} ms after power off");
    service::stop()
}

/// Resets the machine, as its ACPI tables say.
pub fn reset() -> ! {
    let (register, value) = acpi::reset_register().unwrap_or((RESET, RESET_VALUE));
    write(register, value);
    Deadline::after_ms(PATIENCE_MS).wait();
    println!("FATAL still running {PATIENCE_MS} ms after reset");
    service::stop()
}

/// Asks the keyboard controller for a reset, and returns.
pub fn request_i8042_reset() {
    port::write8(I8042, I8042_RESET);
}

/// Tells the VMM that the guest has crashed, and returns.
pub fn report_panic() {
    port::write8(PVPANIC, PVPANIC_PANICKED);
}

/// Tells the VMM that the guest has crashed, and stops.
pub fn crash() -> ! {
    report_panic();
    service::stop()
}
