//! A virtio device's interrupt: the interrupt status register and the line behind it
//! (virtio 1.2, 4.2.2 and 4.2.3.4).
//!
//! Shared by the worker (I/O thread), which signals, and the transport (vCPU threads), which lets
//! the driver read and acknowledge.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::spec::{INTERRUPT_CONFIG, INTERRUPT_USED};
use crate::irq::IrqLine;

/// The status bits, and the line that is raised whenever one is set.
pub struct Interrupt {
    status: AtomicU32,
    line: Arc<dyn IrqLine>,
    /// So that a broken line is logged once and not at the guest's pace.
    line_failed: AtomicBool,
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Interrupt {
    /// No interrupt pending on `line`.
    pub fn new(line: Arc<dyn IrqLine>) -> Self {
        Self {
            status: AtomicU32::new(0),
            line,
            line_failed: AtomicBool::new(false),
        }
    }

    /// A buffer was used, and the driver wants to know.
    pub fn signal_used(&self) {
        self.signal(INTERRUPT_USED);
    }

    /// The configuration space or the device status changed.
    pub fn signal_config(&self) {
        self.signal(INTERRUPT_CONFIG);
    }

    /// The pending bits ([`INTERRUPT_USED`], [`INTERRUPT_CONFIG`]).
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// The driver has handled `bits`.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    /// Puts a saved status back, without raising the line.
    pub fn set_status(&self, status: u32) {
        self.status.store(status, Ordering::Release);
    }

    /// Raises the line again if anything is pending: an edge may have been lost between the time
    /// the state was saved and now. A spurious interrupt is harmless.
    pub fn raise_if_pending(&self) {
        if self.status() != 0 {
            self.raise();
        }
    }

    fn signal(&self, bit: u32) {
        // Release: the bit is set before the line is raised, so the handler that the edge starts
        // sees it; and after the used ring was written.
        self.status.fetch_or(bit, Ordering::AcqRel);
        self.raise();
    }

    fn raise(&self) {
        if let Err(error) = self.line.raise()
            && !self.line_failed.swap(true, Ordering::Relaxed)
        {
            log::error!("an interrupt line cannot be raised: {error}");
        }
    }
}
