//! What the fuzz targets share: choices out of a fuzzer's bytes, and the inputs built from them.
//!
//! A target that only throws bytes at a parser spends its time in the first check. So most targets
//! build nearly valid input: each byte of the fuzzer's is a choice ([`source`]), the usual choice
//! is valid, and damage is rare. Bytes that have run out choose the valid and the short.
//!
//! A target fails by panicking. The targets are in `targets/`; `cargo xtask fuzz` builds and runs
//! them (docs/testing.md).

pub mod chips;
pub mod json;
pub mod kernel;
pub mod qmp_schema;
pub mod queue;
pub mod rig;
pub mod source;
pub mod sparse;
