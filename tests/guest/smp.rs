//! Test guest: brings up every processor, has each count and take an interrupt.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use rt::clock::Deadline;
use rt::{acpi, apic, interrupts, service, test};

rt::entry!(main, "smp\n");

const ROUNDS: u64 = 10_000;
const START_MS: u64 = 20_000;
const WORK_MS: u64 = 20_000;

static COUNTED: AtomicU64 = AtomicU64::new(0);
static READY: AtomicU64 = AtomicU64::new(0);
static WOKEN: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

fn main() {
    interrupts::enable();
    let (online, asked) = rt::smp::start_all(START_MS, processor);
    test!(
        "online",
        online == asked,
        "cpus={} of {}",
        online + 1,
        asked + 1
    );

    let others = u64::from(online);
    let counted = reaches(&COUNTED, others * ROUNDS);
    test!(
        "count",
        counted,
        "{} of {}",
        COUNTED.load(SeqCst),
        others * ROUNDS
    );

    reaches(&READY, others);
    STOP.store(true, SeqCst);
    let own = apic::id();
    acpi::processors()
        .filter(|&id| id != own)
        .for_each(|id| apic::send(id, interrupts::IPI_VECTOR));
    let woken = reaches(&WOKEN, others);
    test!("ipi", woken, "{} of {others} woken", WOKEN.load(SeqCst));

    // To itself: this processor halts until it comes.
    let before = interrupts::count(interrupts::IPI_VECTOR);
    apic::send(own, interrupts::IPI_VECTOR);
    let came = interrupts::wait_until(WORK_MS, || {
        interrupts::count(interrupts::IPI_VECTOR) != before
    });
    test!("self_ipi", came);
    rt::test_report::done();
}

/// What the other processors run.
fn processor(_cpu: u32) {
    service::enable_interrupts();
    for _ in 0..ROUNDS {
        COUNTED.fetch_add(1, SeqCst);
    }
    READY.fetch_add(1, SeqCst);
    loop {
        let seen = interrupts::total();
        if STOP.load(SeqCst) {
            break;
        }
        service::wait_unless_interrupted(seen);
    }
    WOKEN.fetch_add(1, SeqCst);
}

fn reaches(counter: &AtomicU64, wanted: u64) -> bool {
    let deadline = Deadline::after_ms(WORK_MS);
    while counter.load(SeqCst) != wanted && !deadline.passed() {
        core::hint::spin_loop();
    }
    counter.load(SeqCst) == wanted
}
