//! What a testbed machine boots from and finds inside: the outer kernel and initramfs that
//! `cargo xtask fetch-guest` made, a read-only disk with what is tested, and an empty one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::built;
use crate::skip;

/// The outer machine's first program, as this harness knows its protocol.
const INIT: &str = include_str!("../../testbed/init");

/// Size of the empty disk; it is sparse on the host.
const SCRATCH_SIZE: u64 = 4 << 30;

/// The kernels on the read-only disk, by series, and the files of each.
const SERIES: [&str; 2] = ["6.1", "6.12"];
const FILES: [&str; 4] = ["bzImage", "vmlinux", "initramfs", "release"];

/// The files that a machine is started with.
pub(super) struct Media {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    /// Seen inside as `/disk`.
    pub(super) disk: PathBuf,
    /// Seen inside as `/scratch`.
    pub(super) scratch: PathBuf,
}

/// Whether the outer machine is there and of this harness's making.
pub(super) fn outer_is_current() -> Result<(), String> {
    let init = built::guests().join("testbed/init");
    match fs::read_to_string(&init) {
        Ok(text) if text == INIT => Ok(()),
        Ok(_) => Err(format!(
            "{} is outdated; run `cargo xtask fetch-guest`",
            init.display()
        )),
        Err(error) => Err(format!(
            "{}: {error}; run `cargo xtask fetch-guest`",
            init.display()
        )),
    }
}

/// Builds both disks in `directory`.
pub(super) fn build(directory: &Path) -> io::Result<Media> {
    let guests = built::guests();
    let stage = directory.join("stage");
    fs::create_dir(&stage)?;
    let mut size = place(&built::thimble(), &stage.join("thimble"))?;
    for series in SERIES {
        fs::create_dir(stage.join(series))?;
        for file in FILES {
            let name = format!("{series}/{file}");
            size += place(&guests.join(&name), &stage.join(&name))?;
        }
    }
    if let Some(kernel) = built::microvm_kernel() {
        fs::create_dir(stage.join("microvm"))?;
        size += place(&kernel, &stage.join("microvm/vmlinux"))?;
    }
    let disk = directory.join("disk.img");
    // A tenth for what the file system keeps itself.
    make_ext4(&disk, size + size / 10 + (16 << 20), Some(&stage))?;
    fs::remove_dir_all(&stage)?;
    let scratch = directory.join("scratch.img");
    make_ext4(&scratch, SCRATCH_SIZE, None)?;
    Ok(Media {
        kernel: guests.join("testbed/bzImage"),
        initramfs: guests.join("testbed/initramfs"),
        disk,
        scratch,
    })
}

/// Links or copies a file and returns its size.
fn place(from: &Path, to: &Path) -> io::Result<u64> {
    let explain =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", from.display()));
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).map_err(explain)?;
    }
    Ok(fs::metadata(to).map_err(explain)?.len())
}

/// An ext4 image of `size` bytes, with the content of a directory. Needs no root.
fn make_ext4(image: &Path, size: u64, content: Option<&Path>) -> io::Result<()> {
    File::create(image)?.set_len(size)?;
    let program = skip::find("mke2fs").ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(program);
    // Nothing here outlives its machine, so a journal would only cost time.
    command.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-O",
        "^has_journal",
        "-E",
        "root_owner=0:0",
    ]);
    if let Some(content) = content {
        command.arg("-d").arg(content);
    }
    let output = command.arg(image).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "mke2fs: {}",
        String::from_utf8_lossy(&output.stderr)
    )))
}
