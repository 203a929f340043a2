//! Test guest: halts with interrupts off, for ever. Only an NMI or the VMM ends that.
#![no_std]
#![no_main]

use rt::{println, service};

rt::entry!(main, "halt\n");

fn main() {
    println!("HALT now");
    service::stop();
}
