//! How the binary is linked: relative relocations packed (RELR), where the C library that is linked
//! in can apply them. The program is static and position independent, so nearly all of its
//! relocations are of that kind, and all of them are read at every start: 110 KiB become 2.

use std::process::Command;

/// The first glibc whose start code applies packed relocations (its NEWS for 2.36).
const SINCE: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if c_library().is_some_and(|version| version >= SINCE) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of the host's glibc, which is the one that is linked in; `None` if it is another C
/// library, or an answer in other words.
fn c_library() -> Option<(u32, u32)> {
    let output = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
