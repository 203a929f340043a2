//! thimble
fn main() {}
