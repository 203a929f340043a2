//! Where things are: the repository, cargo's target directory, the built launcher.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::failure::{Context, Failure, Outcome};
use crate::process;

/// The target triple that `.cargo/config.toml` names; binaries land in a directory of that name.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// The profile the tests drive (see the workspace's Cargo.toml).
const TEST_PROFILE: &str = "test-build";

/// The repository and its build output.
pub(crate) struct Workspace {
    /// The repository's top directory.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, wherever `CARGO_TARGET_DIR` or the configuration put it.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn find() -> Outcome<Self> {
        let metadata = metadata(Path::new("."), &["--no-deps"])?;
        let path = |key: &str| {
            metadata[key]
                .as_str()
                .map(PathBuf::from)
                .ok_or_else(|| Failure::new(format!("cargo metadata has no {key}")))
        };
        Ok(Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
        })
    }

    /// `cargo` with the given words, to be run in the repository, with the lock file as it is.
    pub(crate) fn cargo<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root).args(words).arg("--locked");
        command
    }

    /// Builds the launcher as the tests drive it and returns its path.
    pub(crate) fn build_thimble(&self) -> Outcome<PathBuf> {
        process::run(&mut self.cargo(["build", "--profile", TEST_PROFILE, "-p", "vmm"]))?;
        let binary = self.target.join(TRIPLE).join(TEST_PROFILE).join("thimble");
        if !binary.is_file() {
            return Err(Failure::new(format!("cargo built no {}", binary.display())));
        }
        Ok(binary)
    }

    /// Builds the launcher as it ships and returns its path.
    pub(crate) fn build_release(&self) -> Outcome<PathBuf> {
        process::run(&mut self.cargo(["build", "--release", "-p", "vmm"]))?;
        Ok(self.target.join(TRIPLE).join("release").join("thimble"))
    }

    /// Where `fetch-guest` puts kernels unless told otherwise, and where the tests look.
    pub(crate) fn guest_dir(&self) -> PathBuf {
        self.target.join("guest")
    }

    /// Every file git tracks or would track, relative to the root, sorted.
    pub(crate) fn files(&self) -> Outcome<Vec<PathBuf>> {
        let mut git = Command::new("git");
        git.current_dir(&self.root).args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ]);
        let listing = process::capture(&mut git)?;
        let mut files: Vec<PathBuf> = listing
            .split_terminator('\0')
            .map(PathBuf::from)
            .filter(|file| self.root.join(file).is_file())
            .collect();
        files.sort();
        files.dedup();
        Ok(files)
    }
}

/// `cargo metadata` of the workspace around `directory`.
pub(crate) fn metadata(directory: &Path, words: &[&str]) -> Outcome<Value> {
    let mut command = Command::new(cargo());
    command
        .current_dir(directory)
        .args(["metadata", "--format-version", "1", "--locked"]);
    command.args(words).args(["--filter-platform", TRIPLE]);
    serde_json::from_str(&process::capture(&mut command)?).context("cargo metadata")
}

/// The cargo that runs us.
fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
