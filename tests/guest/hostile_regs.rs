//! Test guest: writes rubbish, of all widths and at all alignments, to every virtio-mmio register
//! and every port and register block the machine claims, those apart that would end it. The
//! machine has to live, and its devices have to work once they are reset.
//!
//! Command line: `writes=N` per device (default 600), `seed=N`, `only=devices` to leave
//! ports and the power block alone.
#![no_std]
#![no_main]

use rt::memory::{PAGE, Region};
use rt::virtio::blk::{self, Blk};
use rt::virtio::{self, DEVICE_BLOCK, DEVICE_RNG, Transport, register, rng};
use rt::{boot_info, console, mmio, port, power, println, test, test_report};

rt::entry!(main, "hostile_regs\n");

/// Ports the machine claims, first and last.
const PORTS: [(u16, u16); 4] = [(0x3f8, 0x3ff), (0x70, 0x71), (0x60, 0x64), (0x505, 0x505)];
/// Ports and addresses nothing claims.
const FREE_PORTS: [u16; 5] = [0x80, 0x2f8, 0x504, 0xcf8, 0xffe];
const FREE_ADDRESSES: [u64; 4] = [0xc001_2000, 0xd000_0000, 0xe000_0ffe, 0xffff_fff8];

const COM1_DATA: u16 = console::COM1;
const COM1_LINE_CONTROL: u16 = console::COM1 + 3;
const I8042_COMMAND: u16 = 0x64;
const PVPANIC: u16 = 0x505;
/// Registers of the power block that end the machine.
const SLEEP_CONTROL: u64 = 0x10;
const RESET: u64 = 0x18;

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number that hostile code would try: small, huge, near a limit, or anything.
    fn rubbish(&mut self) -> u64 {
        let any = self.next();
        match self.next() % 6 {
            0 => any % 8,
            1 => u64::MAX,
            2 => 1 << (any % 64),
            3 => (1 << (any % 64)) - 1,
            4 => any & 0xffff,
            _ => any,
        }
    }
}

fn main() {
    let writes = boot_info::number("writes").unwrap_or(600);
    let mut random = Random(boot_info::number("seed").unwrap_or(1) | 1 << 63);
    let scratch = Region::allocate(16 * PAGE);
    for offset in (0..scratch.length()).step_by(8) {
        scratch.write64(offset, random.rubbish());
    }
    for device in virtio::devices() {
        println!(
            "{:#x}: {}",
            device.base(),
            virtio::device_name(device.device_id())
        );
        (0..writes).for_each(|_| write_register(device, &mut random, scratch));
        // Once more from a state a driver would have brought it to.
        if device.negotiate(u64::MAX).is_ok() {
            (0..writes).for_each(|_| write_register(device, &mut random, scratch));
        }
        device.reset();
    }
    if boot_info::option("only") != Some("devices") {
        write_ports(&mut random, writes);
        write_power_block(&mut random, writes);
    }
    for address in FREE_ADDRESSES {
        mmio::write32(address, random.next() as u32);
        mmio::read32(address);
    }
    // The console is back as it was before anything is said on it.
    restore_console();
    test!("alive", true);
    virtio::devices().for_each(check);
    test_report::done();
}

/// One access to a device's registers or configuration space.
fn write_register(device: Transport, random: &mut Random, scratch: Region) {
    let mut offset = random.next() % 0x140;
    let addresses = register::QUEUE_DESC - 8..register::CONFIG_GENERATION;
    if addresses.contains(&offset) {
        // Addresses, as a driver would write them: of the scratch pages, or where there is no
        // memory. A device does as it is told, and it must not be told to write to this program.
        offset &= !7;
        let low = match random.next() % 4 {
            0 => 0xb000_0000 + random.next() as u32 % 0x1000_0000,
            1 => u32::MAX - 7,
            _ => scratch.address() as u32 + (random.next() % scratch.length()) as u32 / 64 * 64,
        };
        device.write(offset, low);
        device.write(
            offset + 4,
            if random.next().is_multiple_of(4) {
                u32::MAX
            } else {
                0
            },
        );
        return;
    }
    let address = device.base() + offset;
    let value = random.rubbish();
    match random.next() % 8 {
        0 => mmio::write8(address, value as u8),
        1 => mmio::write16(address, value as u16),
        2 => mmio::write64(address, value),
        3 => _ = mmio::read8(address),
        4 => _ = mmio::read16(address),
        5 => _ = mmio::read32(address),
        _ => mmio::write32(device.base() + offset / 4 * 4, value as u32),
    }
}

fn write_ports(random: &mut Random, writes: u64) {
    for (first, last) in PORTS {
        for _ in 0..writes / 4 {
            let port = first + (random.next() % u64::from(last - first + 1)) as u16;
            let value = random.rubbish() as u32;
            let wide = port != PVPANIC && port != COM1_DATA;
            match random.next() % 6 {
                0 => _ = port::read8(port),
                1 => _ = port::read16(port),
                2 => _ = port::read32(port),
                // Wide writes reach past the port; the top bit of each byte makes the reset
                // commands, and nothing else ends the machine on these ports.
                3 if wide => port::write16(port, value as u16 & 0x7f7f),
                4 if wide => port::write32(port, value & 0x7f7f_7f7f),
                _ => write_port(port, value as u8),
            }
        }
    }
    for port in FREE_PORTS {
        port::write8(port, random.next() as u8);
        port::read32(port & !3);
    }
}

fn write_port(port: u16, value: u8) {
    match port {
        // Text would garble the report.
        COM1_DATA => {}
        // Commands 0xf0 to 0xff pulse the reset line.
        I8042_COMMAND => port::write8(port, value & 0x7f),
        // Bits 0 to 2 are events.
        PVPANIC => port::write8(port, value & !0x7),
        _ => port::write8(port, value),
    }
}

fn write_power_block(random: &mut Random, writes: u64) {
    for _ in 0..writes / 4 {
        let offset = random.next() % 0x40;
        let address = power::EVENT_SELECTOR + offset;
        let value = random.rubbish();
        match (offset, random.next() % 3) {
            (SLEEP_CONTROL | RESET, _) => mmio::write8(address, value as u8 & 0x1f & !0x2),
            (_, 0) => mmio::write8(address, value as u8),
            (_, 1) => _ = mmio::read32(address),
            // Wide, but not over the two registers that matter.
            _ if !(SLEEP_CONTROL - 7..=RESET).contains(&offset) => mmio::write64(address, value),
            _ => _ = mmio::read8(address),
        }
    }
}

/// Puts the serial port back: no interrupts, no loop-back, no divisor, 8 bits.
fn restore_console() {
    const EIGHT_BITS: u8 = 3;
    port::write8(COM1_LINE_CONTROL, EIGHT_BITS);
    port::write8(console::COM1 + 1, 0);
    port::write8(console::COM1 + 2, 1);
    port::write8(console::COM1 + 4, 3);
    println!();
}

/// Whether a device works after a reset.
fn check(device: Transport) {
    let base = device.base();
    let name = virtio::device_name(device.device_id());
    let buffer = Region::allocate(PAGE);
    match device.device_id() {
        DEVICE_BLOCK => {
            let status = Blk::new(device).and_then(|mut disk| disk.read(0, buffer, 0, 512));
            test!(
                "works",
                status == Ok(blk::OK),
                "{base:#x} {name}: {status:?}"
            );
        }
        DEVICE_RNG => {
            let count = rng::read(device, &mut [0; 16]);
            test!(
                "works",
                count.is_ok_and(|n| n > 0),
                "{base:#x} {name}: {count:?}"
            );
        }
        _ => {
            let agreed = device.negotiate(0);
            test!("works", agreed.is_ok(), "{base:#x} {name}: {agreed:?}");
        }
    }
    device.reset();
}
