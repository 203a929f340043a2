//! An interrupt line as a device sees it.
//!
//! The machine wires every device to an edge-triggered line of the I/O APIC; the VMM implements
//! the trait with an irqfd, tests with a counter.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// One edge-triggered interrupt line. Shared by the threads that may raise it.
pub trait IrqLine: Send + Sync {
    /// Raises the line once.
    ///
    /// # Errors
    /// What the underlying event descriptor answered; the device has nothing better to do than
    /// to log it.
    fn raise(&self) -> io::Result<()>;
}

impl IrqLine for EventFd {
    fn raise(&self) -> io::Result<()> {
        self.write(1)
    }
}
