//! Tests that cannot run on this machine: said by name with the reason, and counted apart by
//! `cargo xtask test`, for whom libtest's "ok" would be a lie.
//!
//! A test asks and returns: `if skip::without_kvm() { return; }`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// Notes that the calling test does not run because of `reason`.
///
/// # Panics
/// If the list that `THIMBLE_SKIPS` names cannot be written.
pub fn note(reason: &str) {
    let thread = std::thread::current();
    let reason = reason.replace('\n', " ");
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    let written = match std::env::var_os("THIMBLE_SKIPS") {
        Some(list) => File::options()
            .append(true)
            .create(true)
            .open(list)
            // One write: tests run side by side.
            .and_then(|mut file| file.write_all(line.as_bytes())),
        None => std::io::stderr().write_all(format!("skipped: {line}").as_bytes()),
    };
    if let Err(error) = written {
        panic!("noting the skipped {line}: {error}");
    }
}

/// Whether there is no usable `/dev/kvm`; noted if so.
#[must_use]
pub fn without_kvm() -> bool {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => false,
        Err(error) => {
            note(&format!("/dev/kvm: {error}"));
            true
        }
    }
}

/// Whether `program` is missing; noted if so. Looks where administrators' programs are, too.
#[must_use]
pub fn without_program(program: &str) -> bool {
    let missing = find(program).is_none();
    if missing {
        note(&format!("no program {program}"));
    }
    missing
}

/// Where a program is.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}
