//! Application processors: INIT, SIPI, and a Rust function at CPL 3 on each.

use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};

use crate::clock::Deadline;
use crate::memory::Region;
use crate::{acpi, apic, service};

/// Processors boot.s has descriptors and stacks for.
pub const CPUS_MAX: u32 = 64;

/// Page of the real-mode trampoline: RAM below 1 MiB that no boot data lies in.
const TRAMPOLINE_PAGE: u8 = 0x90;
/// As boot.s has them.
const AP_STACK_SIZE: u64 = 0x4000;
const KERNEL_STACK_SIZE: u64 = 1024;
const FIRST_TSS: usize = 0x30;
const TSS_RSP0: u64 = 4;

/// An available 64-bit TSS, present. Intel SDM volume 3, 9.2.3.
const TSS_DESCRIPTOR: u64 = 0x89 << 40;

unsafe extern "C" {
    static rt_trampoline: u8;
    static rt_trampoline_end: u8;
    static mut rt_gdt: [u64; 6 + 2 * CPUS_MAX as usize];
    static rt_tss: u8;
    static rt_tss_end: u8;
    static rt_kernel_stacks: u8;
    safe static rt_ap_stacks: AtomicU32;
}

/// What the processors run, as a `fn(u32)`.
static WORK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// Processors that have come up, this one apart.
static ONLINE: AtomicU32 = AtomicU32::new(0);

/// Starts every other processor of the MADT and has each run `work` with its number (1, 2, ... in
/// the order they come up); it halts when that returns. Waits for them, at most `timeout_ms`.
/// Returns how many came up and how many were asked. To be called once.
pub fn start_all(timeout_ms: u64, work: fn(u32)) -> (u32, u32) {
    let own = apic::id();
    let others = || {
        acpi::processors()
            .filter(|&id| id != own)
            .take(CPUS_MAX as usize - 1)
    };
    let wanted = others().count() as u32;
    prepare(u64::from(wanted));
    WORK.store(work as *mut (), SeqCst);
    for id in others() {
        apic::send_init(id);
        apic::send_startup(id, TRAMPOLINE_PAGE);
    }
    let deadline = Deadline::after_ms(timeout_ms);
    while ONLINE.load(SeqCst) < wanted && !deadline.passed() {
        core::hint::spin_loop();
    }
    (ONLINE.load(SeqCst), wanted)
}

fn prepare(count: u64) {
    let stacks = Region::allocate(count * AP_STACK_SIZE);
    rt_ap_stacks.store(stacks.address() as u32, SeqCst);
    let size = (&raw const rt_tss_end).addr() - (&raw const rt_tss).addr();
    let stride = (size as u64).next_multiple_of(8);
    let segments = Region::allocate(count * stride);
    for cpu in 1..=count {
        let offset = (cpu - 1) * stride;
        let address = segments.address() + offset;
        // SAFETY: the region has `stride` bytes for each; the template is boot.s's, `size` long.
        unsafe {
            core::ptr::copy_nonoverlapping(&raw const rt_tss, address as *mut u8, size);
        }
        let stack = (&raw const rt_kernel_stacks).addr() as u64 + (cpu + 1) * KERNEL_STACK_SIZE;
        // The field is not aligned to its size.
        segments.write32(offset + TSS_RSP0, stack as u32);
        segments.write32(offset + TSS_RSP0 + 4, 0);
        let limit = size as u64 - 1;
        let low =
            TSS_DESCRIPTOR | limit | (address & 0xff_ffff) << 16 | (address >> 24 & 0xff) << 56;
        let descriptor = (&raw mut rt_gdt)
            .cast::<u64>()
            .wrapping_add(FIRST_TSS / 8 + 2 * cpu as usize);
        // SAFETY: the GDT has CPUS_MAX such pairs and `count` is below that; no processor has
        // loaded this one.
        unsafe {
            descriptor.write_volatile(low);
            descriptor.add(1).write_volatile(address >> 32);
        }
    }
    let trampoline = (u64::from(TRAMPOLINE_PAGE) << 12) as *mut u8;
    let length = (&raw const rt_trampoline_end).addr() - (&raw const rt_trampoline).addr();
    // SAFETY: free RAM, by the machine's layout; the source is boot.s's.
    unsafe { core::ptr::copy_nonoverlapping(&raw const rt_trampoline, trampoline, length) };
}

/// First Rust code of an application processor.
#[unsafe(no_mangle)]
extern "C" fn rt_ap_start(cpu: u32) -> ! {
    apic::enable();
    ONLINE.fetch_add(1, SeqCst);
    let work = WORK.load(Relaxed);
    // SAFETY: `start_all` stored a `fn(u32)` before it started any processor.
    let work = unsafe { core::mem::transmute::<*mut (), fn(u32)>(work) };
    work(cpu);
    service::stop()
}
