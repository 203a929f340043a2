//! The thimble VMM: one process, one guest.
//!
//! [`launch`] opens what the configuration names, [`builder`] makes a [`machine`] of it, and the
//! [`main_loop`] owns that machine until it ends. ARCHITECTURE.md has the threads, the ownership
//! rules and walks through the code.

pub mod arch;
pub mod attach;
pub mod boot_source;
pub mod builder;
pub mod chain;
pub mod cli;
pub mod clients;
pub mod console;
mod control;
pub mod daemon;
pub mod dump;
pub mod dump_job;
pub mod farewell;
pub mod fd;
pub mod guest_events;
pub mod halt_watch;
pub mod holding;
pub mod host_check;
pub mod kvm;
pub mod launch;
pub mod lifecycle;
pub mod logging;
pub mod machine;
pub mod made_file;
pub mod main_loop;
pub mod memory;
pub mod poller;
pub mod qmp_tool;
pub mod run;
pub mod signals;
pub mod vcpu;
