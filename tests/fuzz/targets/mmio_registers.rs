//! The registers of virtio-mmio, reached by the guest's driver: reads and writes of every size,
//! among pauses, resumes, saves and resets of the machine.
//!
//! The identity stays what it is, reserved bits are not set, a state that was saved comes back
//! equal, and whatever went before the device works after a reset.
#![no_main]

use devices::bus::BusDevice;
use devices::virtio::fake_driver::{DATA, DriverQueue};
use libfuzzer_sys::fuzz_target;
use thimble_fuzz::queue::any_descriptor;
use thimble_fuzz::rig::{KINDS, QUEUE_LEN, Rig};
use thimble_fuzz::source::Source;
use thimble_fuzz::sparse::Sparse;
use vm_memory::{Bytes, GuestAddress};

thread_local!(static RAM: Sparse = Rig::ram());

/// Registers of virtio 1.2, 4.2.2, and the start of the configuration space.
const REGISTERS: [u64; 30] = [
    0x070, 0x000, 0x004, 0x008, 0x00c, 0x010, 0x014, 0x020, 0x024, 0x030, 0x034, 0x038, 0x044,
    0x050, 0x060, 0x064, 0x080, 0x084, 0x090, 0x094, 0x0a0, 0x0a4, 0x0ac, 0x0b0, 0x0c0, 0x0fc,
    0x100, 0x114, 0x120, 0x138,
];
/// What a driver writes to the status register, in order.
const STATUS: [u32; 8] = [0, 1, 3, 11, 15, 0x8f, 0x4f, 0xff];

fn value(source: &mut Source<'_>, register: u64) -> u64 {
    match (register, source.u8() % 4) {
        (0x070, 0..=2) => source.pick(&STATUS).into(),
        (0x014 | 0x024 | 0x030 | 0x044 | 0x050, 0..=2) => u64::from(source.u8() % 3),
        (0x020, 0..=2) => u64::from(source.u8() % 4) << 28,
        (0x038, 0..=2) => 1 << (source.u8() % 10),
        (0x080 | 0x090 | 0x0a0, 0..=2) => DATA + u64::from(source.u8()) * 0x100,
        (_, 0 | 1) => 0,
        _ => source.edge(),
    }
}

fn access(rig: &mut Rig, source: &mut Source<'_>) {
    let offset = if source.rarely(8) {
        u64::from(source.u16() % 0xff9)
    } else {
        source.pick(&REGISTERS)
    };
    let size = source.pick(&[4, 4, 4, 4, 1, 2, 8]);
    if source.coin() {
        let mut data = [0; 8];
        rig.driver.transport.read(offset, &mut data[..size]);
    } else {
        let value = value(source, offset).to_le_bytes();
        rig.driver.transport.write(offset, &value[..size]);
    }
}

fn run(source: &mut Source<'_>, ram: &Sparse) {
    ram.clear();
    let kind = source.pick(&KINDS);
    let mut rig = Rig::new(kind, ram);
    let identity = [0x000, 0x004, 0x008, 0x00c].map(|register| rig.driver.read(register));
    for _ in 0..source.below(20) {
        let raw = any_descriptor(source);
        let at = GuestAddress(DATA + u64::from(source.u8()) * 16);
        ram.memory.write_slice(&raw, at).expect("in memory");
    }
    let mut steps = 0;
    while !source.is_empty() && steps < 200 {
        steps += 1;
        match source.u8() {
            0..=7 => {
                let features = rig.driver.offered();
                rig.driver.negotiate(features);
                let queue = DriverQueue::new(rig.driver.memory.clone(), 0, QUEUE_LEN);
                rig.driver.place_queue(0, &queue);
                rig.driver.drive();
            }
            8..=11 => rig.pause(),
            12..=15 => rig.driver.transport.core_mut().resume(),
            16..=17 => rig.check_restores(ram),
            18..=19 => rig.driver.transport.reset(),
            20..=21 => rig.driver.transport.core_mut().config_changed(),
            _ => access(&mut rig, source),
        }
        let status = rig.driver.read(0x070);
        assert_eq!(status & !0xcf, 0, "a reserved bit of the status is set");
        assert_eq!(rig.driver.read(0x060) & !3, 0);
    }
    let now = [0x000, 0x004, 0x008, 0x00c].map(|register| rig.driver.read(register));
    assert_eq!(now, identity);
    rig.check_restores(ram);
    rig.check_works();
}

fuzz_target!(|data: &[u8]| RAM.with(|ram| run(&mut Source::new(data), ram)));
