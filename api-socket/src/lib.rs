//! thimble's control protocol and configuration: plain data and parsing. Nothing here acts.

pub mod config;
pub mod qmp;
