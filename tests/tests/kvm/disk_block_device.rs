//! A block device of the host as a disk: its size, its data, its lock, and discard.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::guest::{Launch, status};
use harness::{guests, obey, skip};

use crate::{disk::allocated, passed};

/// A loop device over a file, taken down with the test.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    /// A loop device, or a note that there can be none.
    #[track_caller]
    pub(crate) fn over_or_note(image: &Path) -> Option<Self> {
        let device = Self::over(image);
        if device.is_none() {
            skip::note("no loop device can be had; it takes root");
        }
        device
    }

    fn over(image: &Path) -> Option<Self> {
        let output = Command::new(skip::find("losetup")?)
            .args(["--find", "--show"])
            .arg(image)
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8_lossy(&output.stdout).trim_end().into();
                Some(Self(path))
            }
            _ => None,
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The kernel takes it down when its last user goes.
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

/// A launch with a place for an image of `size`, and the device over it.
#[track_caller]
fn device(size: u64) -> Option<(Loop, Launch)> {
    if skip::without_kvm() {
        return None;
    }
    let launch = Launch::new();
    let image = launch.path("backing.img");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(size)
        .unwrap();
    Some((Loop::over_or_note(&image)?, launch))
}

#[test]
fn every_request_works_on_it() {
    for cache in ["writeback", "none"] {
        let Some((device, launch)) = device(4 << 20) else {
            return;
        };
        let disk = format!("path={},cache={cache},serial=LOOP", device.0.display());
        let launch = launch.args(["--disk", &disk]);
        let (said, _guest) = passed(launch.kernel(guests::BLK, "serial=LOOP"));
        assert!(said.contains("TEST capacity ok 8192 sectors"), "{said}");
    }
}

#[test]
fn discard_reaches_what_lies_below() {
    let Some((device, launch)) = device(8 << 20) else {
        return;
    };
    let image = launch.path("backing.img");
    let disk = format!("path={}", device.0.display());
    let launch = launch.kernel(guests::OBEY, "").args(["--disk", &disk]);
    let mut guest = launch.start();
    obey::ready(&mut guest);
    let _ = obey::ask(&mut guest, "disk 0");
    assert_eq!(obey::ask(&mut guest, "write 0 16384 4").text("status"), "0");
    assert_eq!(obey::ask(&mut guest, "flush").text("status"), "0");
    let full = allocated(&image);
    assert_eq!(obey::ask(&mut guest, "discard 0 8192").text("status"), "0");
    assert!(allocated(&image) <= full - (2 << 20));
    let kept = obey::ask(&mut guest, "check 8192 8192 4");
    assert_eq!((kept.text("status"), kept.text("wrong")), ("0", "0"));
}

#[test]
fn it_is_locked_like_an_image() {
    let Some((device, launch)) = device(1 << 20) else {
        return;
    };
    let disk = format!("path={}", device.0.display());
    let launch = launch.kernel(guests::OBEY, "").args(["--disk", &disk]);
    let mut guest = launch.start();
    obey::ready(&mut guest);
    let mut second = Launch::new().args(["--disk", &disk]).start();
    second.expect_exit(status::FAILED);
    assert!(second.stderr().contains("in use"), "{}", second.stderr());
}
