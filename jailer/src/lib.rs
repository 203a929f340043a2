//! The sandbox of a VM process; written with the sandbox itself.
