//! Test guest: ends by a triple fault.
#![no_std]
#![no_main]

use rt::{println, service};

rt::entry!(main, "triple_fault\n");

fn main() {
    println!("TRIPLE FAULT now");
    service::triple_fault();
}
