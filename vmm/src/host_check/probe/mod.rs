//! Collecting facts by doing: each probe is one small function that judges nothing.
//!
//! Called once, on the main thread of `thimble check`, as whoever the user is. Nothing is left
//! behind: every descriptor is closed, the VM destroyed.

mod kernel;
mod kvm;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use super::facts::{Access, HostFacts};

/// Looks at this host.
#[must_use]
pub fn gather() -> HostFacts {
    let (kvm_device, kvm) = kvm::probe();
    HostFacts {
        kvm_device,
        kvm,
        engine: kernel::engine(),
        memory: kernel::memory(),
        tun: open("/dev/net/tun"),
        vhost_net: open("/dev/vhost-net"),
        vhost_vsock: open("/dev/vhost-vsock"),
        io_uring: kernel::io_uring(),
        io_uring_disabled: kernel::number("/proc/sys/kernel/io_uring_disabled"),
        sandbox: kernel::sandbox(),
    }
}

/// Opens a device for reading and writing, and closes it.
fn open(path: &str) -> Access {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    match opened {
        Ok(_) => Access::Opened,
        Err(error) => Access::Refused(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}
