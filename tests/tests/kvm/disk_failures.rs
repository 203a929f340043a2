//! Disks that fail under a guest: full, cut short, or refusing; and what becomes of the guest and
//! its data.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::guest::Guest;
use harness::{obey, skip};
use serde_json::{Value, json};

use crate::disk::with_disk;

/// Where there is little room: a tmpfs of its own, gone with the test.
pub(crate) struct SmallPlace {
    path: PathBuf,
}

impl SmallPlace {
    /// A place for `bytes`, or a note that there can be none.
    pub(crate) fn mount(parent: &Path, bytes: u64) -> Option<Self> {
        let path = parent.join("small");
        std::fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"])
            .arg(&path)
            .stdin(Stdio::null())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { path });
        }
        skip::note("no tmpfs can be mounted; it takes root");
        None
    }

    pub(crate) fn resize(&self, bytes: u64) {
        let options = format!("remount,size={bytes}");
        let status = Command::new("mount")
            .args(["-o", &options])
            .arg(&self.path)
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for SmallPlace {
    fn drop(&mut self) {
        // Lazily: the guest may still have its image open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// A guest with a disk of 8 MiB where there is room for 1, and that place.
#[track_caller]
fn cramped(options: &str) -> Option<(SmallPlace, Guest)> {
    if skip::without_kvm() {
        return None;
    }
    let launch = obey::launch().control();
    let place = SmallPlace::mount(&launch.path(""), 1 << 20)?;
    let name = format!(",id=disk0{options}");
    let mut guest = launch.empty_disk("small/disk.img", 8 << 20, &name).start();
    obey::ready(&mut guest);
    let _ = obey::ask(&mut guest, "disk 0");
    Some((place, guest))
}

#[test]
fn a_full_disk_pauses_the_guest_and_loses_nothing() {
    let Some((place, mut guest)) = cramped("") else {
        return;
    };
    let mut client = guest.client();
    obey::tell(&mut guest, "write 0 16384 5");
    let error = client.expect_event("BLOCK_IO_ERROR").data;
    assert_eq!(error["action"], "stop", "{error}");
    assert_eq!(error["nospace"], true, "{error}");
    assert_eq!(error["operation"], "write", "{error}");
    assert_eq!(error["node-name"], "disk0", "{error}");
    client.expect_event("STOP");
    let status = client.execute("query-status", Value::Null);
    assert_eq!(status, json!({"running": false, "status": "io-error"}));
    let blocks = client.execute("query-block", Value::Null);
    assert_eq!(blocks[0]["io-status"], "nospace", "{blocks}");

    // Still full: the same again, and nothing is lost by it.
    client.execute("cont", Value::Null);
    client.expect_event("RESUME");
    client.expect_event("STOP");
    assert_eq!(crate::state(&mut guest), "io-error");

    place.resize(16 << 20);
    client.execute("cont", Value::Null);
    client.expect_event("RESUME");
    assert_eq!(obey::answer(&mut guest).text("status"), "0");
    let found = obey::ask(&mut guest, "check 0 16384 5");
    assert_eq!((found.text("status"), found.text("wrong")), ("0", "0"));
    let blocks = client.execute("query-block", Value::Null);
    assert_eq!(blocks[0]["io-status"], "ok", "{blocks}");
}

#[test]
fn a_full_disk_is_reported_to_the_guest_where_that_is_wanted() {
    let Some((place, mut guest)) = cramped(",werror=report") else {
        return;
    };
    let mut client = guest.client();
    let wrote = obey::ask(&mut guest, "write 0 16384 5");
    assert_eq!(wrote.text("status"), "1");
    let error = client.expect_event("BLOCK_IO_ERROR").data;
    assert_eq!(error["action"], "report", "{error}");
    assert_eq!(error["nospace"], true, "{error}");
    assert_eq!(crate::state(&mut guest), "running");
    // What fits is written still.
    place.resize(16 << 20);
    assert_eq!(obey::ask(&mut guest, "write 0 16384 5").text("status"), "0");
}

#[test]
fn a_guest_paused_by_a_full_disk_can_be_reset_and_ended() {
    let Some((place, mut guest)) = cramped("") else {
        return;
    };
    let mut client = guest.client();
    obey::tell(&mut guest, "write 0 16384 5");
    client.expect_event("STOP");
    client.execute("system_reset", Value::Null);
    assert_eq!(crate::state(&mut guest), "prelaunch");
    // The request that waited is gone with the guest that made it.
    place.resize(16 << 20);
    client.execute("cont", Value::Null);
    obey::ready(&mut guest);
    let _ = obey::ask(&mut guest, "disk 0");
    assert_eq!(obey::ask(&mut guest, "write 0 16384 6").text("status"), "0");
    client.execute("quit", Value::Null);
    guest.expect_exit(0);
}

#[test]
fn an_image_cut_short_gives_errors_and_no_hang() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = with_disk(4 << 20, "");
    let mut client = guest.client();
    assert_eq!(obey::ask(&mut guest, "write 0 8192 2").text("status"), "0");
    let image = guest.path("disk.img");
    File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    assert_eq!(obey::ask(&mut guest, "check 4096 8 2").text("status"), "1");
    let error = client.expect_event("BLOCK_IO_ERROR").data;
    assert_eq!(error["action"], "report", "{error}");
    assert_eq!(error["operation"], "read", "{error}");
    assert_eq!(error["nospace"], false, "{error}");
    let found = obey::ask(&mut guest, "check 0 2048 2");
    assert_eq!((found.text("status"), found.text("wrong")), ("0", "0"));
    assert_eq!(crate::state(&mut guest), "running");
}

#[test]
fn an_image_removed_from_its_directory_serves_on() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = with_disk(1 << 20, "");
    std::fs::remove_file(guest.path("disk.img")).unwrap();
    assert_eq!(obey::ask(&mut guest, "write 0 2048 2").text("status"), "0");
    let found = obey::ask(&mut guest, "check 0 2048 2");
    assert_eq!((found.text("status"), found.text("wrong")), ("0", "0"));
}
