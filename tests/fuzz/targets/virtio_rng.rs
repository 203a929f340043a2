//! The entropy device, reached by the guest's driver: any ring, through registers and I/O thread.
//!
//! The device answers a chain at most once; it writes nowhere but into what the driver called
//! writable; a fault is told once; its state can be saved and restored; and after a reset it works.
#![no_main]

use devices::virtio::fake_driver::{DATA, writable};
use libfuzzer_sys::fuzz_target;
use thimble_fuzz::queue::{TABLES, any_descriptor, check_used, writable_by_device};
use thimble_fuzz::rig::{Kind, QUEUE_LEN, Rig, Snapshot};
use thimble_fuzz::source::Source;
use thimble_fuzz::sparse::Sparse;
use vm_memory::{Bytes, GuestAddress};

thread_local!(static RAM: Sparse = Rig::ram());

fn run(source: &mut Source<'_>, ram: &Sparse) {
    ram.clear();
    let mut rig = Rig::new(Kind::Rng, ram);
    let features = rig.driver.offered() & !(u64::from(source.pick(&[0_u8, 1, 2, 3])) << 28);
    rig.driver.start(features, QUEUE_LEN);
    // It looks at its queues when they are as they are to be, and not before.
    rig.pause();
    let mut heads = Vec::new();
    for _ in 0..source.below(8) {
        let at = DATA + u64::from(source.u8()) * 64;
        let chain = [
            writable(at, 1 + u32::from(source.u8())),
            writable(at + 0x4000, 64),
        ];
        let queue = &mut rig.driver.queues[0];
        heads.push(match source.u8() % 4 {
            0 => queue.add_indirect(TABLES + heads.len() as u64 * 0x100, &chain),
            _ => queue.add(&chain[..1 + source.below(2)]),
        });
    }
    let queue = &mut rig.driver.queues[0];
    for _ in 0..source.below(16) {
        queue.set_descriptor(source.below(16) as u16, any_descriptor(source));
    }
    for n in 0..source.below(16) as u64 {
        let raw = any_descriptor(source);
        let at = GuestAddress(TABLES + n * 16);
        ram.memory.write_slice(&raw, at).expect("in memory");
    }
    for _ in 0..source.below(8) {
        let head = source.below(17) as u16;
        queue.publish(head);
        heads.push(head);
    }
    if source.rarely(16) {
        queue.set_avail_idx(source.u16());
        heads.extend([0; 64]);
    }
    let allowed = writable_by_device(&ram.memory, queue);
    let before = Snapshot::of(ram);
    rig.driver.notify(0);
    rig.settle();
    if let Some(allowed) = allowed {
        before.check_only(ram, &allowed);
        check_used(&ram.memory, &rig.driver.queues[0], heads);
    }
    rig.check_faults();
    rig.check_restores(ram);
    rig.check_works();
}

fuzz_target!(|data: &[u8]| RAM.with(|ram| run(&mut Source::new(data), ram)));
