//! Virtio devices: virtio 1.2 (OASIS, 2022-07-01), split virtqueues, no legacy interface.
//!
//! * [`spec`]: numbers of the standard that more than one file needs.
//! * [`queue`] and [`chain`]: the device's side of a split virtqueue.
//! * [`device`]: what a device is; [`blk`], [`net`], [`rng`], [`vsock`]: the devices.
//! * [`transport`]: the registers a driver sees, and the life of a device.
//! * [`saved`]: the plain form of every device's own state.
//! * `fake_driver`: the driver's side, for tests, fuzz targets and benches.
//!
//! A device's registers are handled on vCPU threads (and, paused, on the main thread) under the
//! bus's lock; its queues by a worker on the I/O thread. The two share an [`interrupt::Interrupt`]
//! and whatever atomics the device itself defines, nothing else.

pub mod blk;
pub mod chain;
#[cfg(test)]
mod conformance;
pub mod device;
#[cfg(any(test, feature = "test-util"))]
pub mod fake_driver;
pub mod interrupt;
pub mod net;
pub mod queue;
pub mod rng;
pub mod saved;
pub mod spec;
pub mod transport;
pub mod vsock;
