//! What lies between a driver and a device: registers, negotiation, and the life of the worker.
//!
//! * [`core`]: everything that is the same for every transport.
//! * [`mmio`]: the register map of virtio-mmio.
//! * [`saved`]: the saved form.

pub mod core;
pub mod mmio;
pub mod saved;
