//! What `fetch-guest` makes out of Debian's packages: kernel images in both forms, and initramfs
//! archives with the modules those kernels need.

pub(crate) mod bzimage;
pub(crate) mod cpio;
pub(crate) mod debian;
pub(crate) mod modules;
