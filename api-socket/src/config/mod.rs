//! The configuration of one virtual machine.
