//! Where the things under test are: the launcher and the Debian guests, as `cargo xtask test`
//! names them in the environment, or where it would have put them.

use std::path::PathBuf;

/// The `thimble` under test: `THIMBLE`, or the `test-build` profile's.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn thimble() -> PathBuf {
    let path = std::env::var_os("THIMBLE")
        .map_or_else(|| triple_dir().join("test-build/thimble"), PathBuf::from);
    assert!(
        path.is_file(),
        "no {}: run `cargo build --profile test-build -p vmm`, or name a binary in THIMBLE",
        path.display()
    );
    path
}

/// What `cargo xtask fetch-guest` made: `THIMBLE_GUESTS`, or `guest` in the target directory.
#[must_use]
pub fn guests() -> PathBuf {
    std::env::var_os("THIMBLE_GUESTS").map_or_else(|| target_dir().join("guest"), PathBuf::from)
}

/// What `cargo xtask kernel` built, if it did.
#[must_use]
pub fn microvm_kernel() -> Option<PathBuf> {
    let path = target_dir().join("kernel/vmlinux");
    path.is_file().then_some(path)
}

/// Cargo's target directory.
#[must_use]
pub fn target_dir() -> PathBuf {
    let mut path = triple_dir();
    path.pop();
    path
}

/// The directory of the target triple: this program is `TRIPLE/PROFILE/deps/NAME-HASH`.
fn triple_dir() -> PathBuf {
    match std::env::current_exe() {
        Ok(path) => path
            .ancestors()
            .nth(3)
            .map(PathBuf::from)
            .unwrap_or_default(),
        Err(error) => panic!("where this test program is: {error}"),
    }
}
