//! `rerror` and `werror`: what becomes of the guest and of its request for each of them, on images
//! and block devices that fail and are mended. `disk_failures` has `werror=enospc` on a full disk.

use std::fs::File;
use std::path::Path;

use harness::control::Client;
use harness::guest::Guest;
use harness::{obey, skip};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

use crate::disk::with_disk;
use crate::disk_block_device::Loop;
use crate::disk_failures::SmallPlace;

const MIB: u64 = 1 << 20;
/// Sectors of a MiB.
const MIB_SECTORS: u64 = MIB / 512;

/// Makes every write of the launcher from byte `limit` of a file on fail with EFBIG, or none.
#[track_caller]
fn limit_files(guest: &Guest, limit: Option<u64>) {
    let pid = i32::try_from(guest.pid()).ok().and_then(Pid::from_raw);
    let new = Rlimit {
        current: limit,
        // Raising this one again takes root.
        maximum: getrlimit(Resource::Fsize).maximum,
    };
    prlimit(pid, Resource::Fsize, new).unwrap();
}

/// The next error of a disk, which must be met by `action`.
#[track_caller]
fn error(client: &mut Client, operation: &str, action: &str, nospace: bool) {
    let error = client.expect_event("BLOCK_IO_ERROR").data;
    assert_eq!(error["operation"], operation, "{error}");
    assert_eq!(error["action"], action, "{error}");
    assert_eq!(error["nospace"], nospace, "{error}");
}

/// Wants the guest stopped by its disk.
#[track_caller]
fn is_stopped(client: &mut Client, io_status: &str) {
    client.expect_event("STOP");
    let status = client.execute("query-status", Value::Null);
    assert_eq!(status, json!({"running": false, "status": "io-error"}));
    let blocks = client.execute("query-block", Value::Null);
    assert_eq!(blocks[0]["io-status"], io_status, "{blocks}");
}

/// Lets it go on, and wants the request that waited to work.
#[track_caller]
fn goes_on(guest: &mut Guest, client: &mut Client) {
    client.execute("cont", Value::Null);
    client.expect_event("RESUME");
    let found = obey::answer(guest);
    assert_eq!((found.text("status"), found.text("wrong")), ("0", "0"));
    let blocks = client.execute("query-block", Value::Null);
    assert_eq!(blocks[0]["io-status"], "ok", "{blocks}");
}

#[track_caller]
fn cut(image: &Path, length: u64) {
    let file = File::options().write(true).open(image).unwrap();
    file.set_len(length).unwrap();
}

#[test]
fn rerror_stop_keeps_the_read_until_it_works() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = with_disk(4 * MIB, ",rerror=stop");
    let mut client = guest.client();
    assert_eq!(obey::ask(&mut guest, "write 0 8192 2").text("status"), "0");
    let image = guest.path("disk.img");
    let content = std::fs::read(&image).unwrap();
    cut(&image, MIB);
    obey::tell(&mut guest, "check 4096 8 2");
    error(&mut client, "read", "stop", false);
    is_stopped(&mut client, "failed");
    // Still short: the same again.
    client.execute("cont", Value::Null);
    client.expect_event("RESUME");
    error(&mut client, "read", "stop", false);
    is_stopped(&mut client, "failed");
    std::fs::write(&image, content).unwrap();
    goes_on(&mut guest, &mut client);
}

#[test]
fn rerror_ignore_calls_a_failed_read_done() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = with_disk(4 * MIB, ",rerror=ignore");
    let mut client = guest.client();
    cut(&guest.path("disk.img"), MIB);
    assert_eq!(obey::ask(&mut guest, "check 4096 8 2").text("status"), "0");
    error(&mut client, "read", "ignore", false);
    assert_eq!(crate::state(&mut guest), "running");
}

#[test]
fn werror_stop_keeps_the_write_whatever_the_error() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = with_disk(4 * MIB, ",werror=stop");
    let mut client = guest.client();
    limit_files(&guest, Some(MIB));
    obey::tell(&mut guest, "write 0 8192 3");
    error(&mut client, "write", "stop", false);
    is_stopped(&mut client, "failed");
    limit_files(&guest, None);
    goes_on(&mut guest, &mut client);
    let found = obey::ask(&mut guest, "check 0 8192 3");
    assert_eq!((found.text("status"), found.text("wrong")), ("0", "0"));
}

#[test]
fn werror_report_and_enospc_tell_the_guest_of_other_errors() {
    if skip::without_kvm() {
        return;
    }
    for options in ["", ",werror=enospc", ",werror=report"] {
        let mut guest = with_disk(4 * MIB, options);
        let mut client = guest.client();
        limit_files(&guest, Some(MIB));
        assert_eq!(obey::ask(&mut guest, "write 4096 8 3").text("status"), "1");
        error(&mut client, "write", "report", false);
        assert_eq!(crate::state(&mut guest), "running");
        // Below the limit it works.
        assert_eq!(obey::ask(&mut guest, "write 0 8 3").text("status"), "0");
    }
}

#[test]
fn werror_ignore_calls_a_failed_write_done() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = with_disk(4 * MIB, ",werror=ignore");
    let mut client = guest.client();
    limit_files(&guest, Some(MIB));
    assert_eq!(obey::ask(&mut guest, "write 4096 8 3").text("status"), "0");
    error(&mut client, "write", "ignore", false);
    assert_eq!(crate::state(&mut guest), "running");
    // It never reached the image.
    let found = obey::ask(&mut guest, "check 4096 8 0");
    assert_eq!((found.text("status"), found.text("wrong")), ("0", "0"));
}

#[test]
fn a_block_device_that_fails_to_read_and_is_mended() {
    if skip::without_kvm() {
        return;
    }
    let launch = obey::launch().control();
    let image = launch.path("backing.img");
    File::create(&image).unwrap().set_len(4 * MIB).unwrap();
    let Some(device) = Loop::over_or_note(&image) else {
        return;
    };
    // Reads come from the device each time, and not from what the host remembers of it.
    let disk = format!(
        "path={},id=disk0,cache=none,rerror=stop",
        device.0.display()
    );
    let mut guest = launch.args(["--disk", &disk]).start();
    obey::ready(&mut guest);
    let _ = obey::ask(&mut guest, "disk 0");
    let mut client = guest.client();
    assert_eq!(obey::ask(&mut guest, "write 0 8192 2").text("status"), "0");
    let content = std::fs::read(&image).unwrap();
    cut(&image, MIB);
    obey::tell(&mut guest, &format!("check {} 8 2", 2 * MIB_SECTORS));
    error(&mut client, "read", "stop", false);
    is_stopped(&mut client, "failed");
    std::fs::write(&image, content).unwrap();
    goes_on(&mut guest, &mut client);
}

/// As a volume of a pool that is full does.
#[test]
fn a_block_device_without_space_below_pauses_the_guest() {
    if skip::without_kvm() {
        return;
    }
    let launch = obey::launch().control();
    let Some(place) = SmallPlace::mount(&launch.path(""), MIB) else {
        return;
    };
    let image = launch.path("small/backing.img");
    File::create(&image).unwrap().set_len(8 * MIB).unwrap();
    let Some(device) = Loop::over_or_note(&image) else {
        return;
    };
    let disk = format!("path={},id=disk0,cache=none", device.0.display());
    let mut guest = launch.args(["--disk", &disk]).start();
    obey::ready(&mut guest);
    let _ = obey::ask(&mut guest, "disk 0");
    let mut client = guest.client();
    obey::tell(&mut guest, "write 0 16384 5");
    error(&mut client, "write", "stop", true);
    is_stopped(&mut client, "nospace");
    place.resize(16 * MIB);
    goes_on(&mut guest, &mut client);
    let found = obey::ask(&mut guest, "check 0 16384 5");
    assert_eq!((found.text("status"), found.text("wrong")), ("0", "0"));
}
