//! Floor 3: stock Debian kernels, on hardware virtualisation or in the testbed. One module per
//! subject. docs/testing.md tells how it works; `cargo xtask test --floor linux` runs it.

mod boot;
mod crash;
mod disk;
mod machine;
mod net;
mod power;
mod processor;
mod shell;
mod testbed;
mod vsock;
