//! `dump-guest-memory` and `pmemsave`: guest memory as files.
//!
//! The control layer makes a [`DumpPlan`] on the main thread from the quiesced vCPUs' registers and
//! the memory map (pure, and cheap), and hands it to a job thread, which calls [`run`]. The file is
//! the ELF core QEMU's `dump-guest-memory` writes with `paging: false`, in its 64-bit form, which
//! `crash` and gdb open.

mod notes;
mod plan;
mod write;

pub use notes::VcpuRegisters;
pub use plan::{DumpPlan, Filter, PlanError};
pub use write::{DumpError, Outcome, pmemsave, run};

#[cfg(test)]
mod tests;
