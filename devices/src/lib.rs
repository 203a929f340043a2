//! What a guest talks to: the bus, legacy chips, virtio devices, their transports and backends.
//!
//! Nothing here knows KVM. The seams to the VMM, and the only ones:
//!
//! * [`bus`]: address ranges; the VMM routes vCPU exits to them.
//! * [`irq`]: an interrupt line as the device sees it; the VMM backs it with an irqfd.
//! * [`virtio::transport`]: the (address, event) pairs a transport wants the VMM to
//!   register as ioeventfds.
//! * [`events`]: what a device tells the machine's owner (reset, power off, panic, I/O error).
//! * [`saved`]: the plain, versioned form of a device's state.
//!
//! A *chip* has no file descriptor and no thread; its *backend* (disk, character device) is
//! another file, and attaching the two is the VMM's work.

pub mod bus;
pub mod chardev;
pub mod disk;
pub mod events;
pub mod io_thread;
pub mod irq;
pub mod legacy;
pub mod limited_log;
pub mod memory;
pub mod net;
mod random;
pub mod rate_limit;
pub mod saved;
pub mod virtio;
pub mod vsock;
