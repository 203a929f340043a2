//! Floor 2: the launcher with the project's own guests, on this machine's KVM. One module per
//! subject. docs/testing.md tells how it works; `cargo xtask test --floor kvm` runs it.

mod boot;
mod clients;
mod control;
mod disk;
mod hostile;
mod kick;
