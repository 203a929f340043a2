//! Services of CPL 0, reached by `ud2`: what a program at CPL 3 cannot do itself.

/// Number of a service; boot.s has the table in this order.
#[repr(u64)]
enum Service {
    WaitUnlessInterrupted,
    Stop,
    ReadMsr,
    WriteMsr,
    EnableInterrupts,
    FlushTlb,
    DropIdt,
    LoadFloat,
}

unsafe extern "C" {
    fn rt_service(number: u64, a: u64, b: u64) -> u64;
}

fn call(service: Service, a: u64, b: u64) -> u64 {
    // SAFETY: boot.s keeps the C calling convention; each caller below vouches for what its
    // service does.
    unsafe { rt_service(service as u64, a, b) }
}

/// Halts the processor until an interrupt, unless the count of interrupts taken is no longer
/// `seen`: an interrupt between the look and the halt is not slept through.
pub fn wait_unless_interrupted(seen: u64) {
    call(Service::WaitUnlessInterrupted, seen, 0);
}

/// Halts with interrupts off, for ever.
pub fn stop() -> ! {
    loop {
        call(Service::Stop, 0, 0);
    }
}

/// Reads a model-specific register. One that does not exist ends the program.
pub fn read_msr(index: u32) -> u64 {
    call(Service::ReadMsr, u64::from(index), 0)
}

/// Writes a model-specific register. One that does not exist ends the program.
///
/// # Safety
/// Some registers point the processor at memory, or change how it runs.
pub unsafe fn write_msr(index: u32, value: u64) {
    call(Service::WriteMsr, u64::from(index), value);
}

/// Lets this processor take interrupts. STI is not to be had at CPL 3 everywhere.
pub fn enable_interrupts() {
    call(Service::EnableInterrupts, 0, 0);
}

/// Makes changed page-table entries seen.
pub fn flush_tlb() {
    call(Service::FlushTlb, 0, 0);
}

/// Ends the machine by a triple fault.
pub fn triple_fault() -> ! {
    call(Service::DropIdt, 0, 0);
    loop {
        // No IDT, so this exception has no handler, and neither has the one about that.
        call(Service::Stop, 0, 0);
    }
}

/// Loads an x87 number from a device register: an instruction that no KVM emulates, so that the
/// guest cannot go on.
pub fn load_float(register: u64) {
    call(Service::LoadFloat, register, 0);
}
