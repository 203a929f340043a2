//! Guest memory as devices see it.
//!
//! No Rust reference ever points into guest memory: everything goes through `vm-memory`'s volatile
//! accessors, because the guest may write while we read.

use std::sync::Arc;

/// The guest's RAM: one or more mapped regions.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// Guest RAM shared with device workers. Its regions do not change while a worker holds it.
pub type SharedMemory = Arc<GuestMemory>;
