//! Disks, as guests see them and use them, and what the control socket tells of them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use harness::guest::{Guest, Launch, status};
use harness::{guests, obey, skip};
use serde_json::{Value, json};

use crate::boot::PROMPT;
use crate::passed;

const MIB: u64 = 1 << 20;

/// Bytes of a file that take up space.
pub(crate) fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// The guest that obeys, with one disk of `size` called disk0, which it has taken.
#[track_caller]
pub(crate) fn with_disk(size: u64, options: &str) -> Guest {
    let options = format!(",id=disk0{options}");
    let mut guest = obey::launch()
        .control()
        .empty_disk("disk.img", size, &options)
        .start();
    obey::ready(&mut guest);
    assert_eq!(
        obey::ask(&mut guest, "disk 0").number::<u64>("sectors"),
        size / 512
    );
    guest
}

#[test]
fn the_guest_shows_the_first_bytes_of_its_disk() {
    if skip::without_kvm() {
        return;
    }
    let mut content = vec![0; 64 * 1024];
    content[..8].copy_from_slice(b"MARKER42");
    let mut guest = Launch::new().disk("disk.img", &content, "").start();
    let seen = guest.expect(PROMPT);
    assert!(seen.contains("MARKER42"), "{seen}");
    guest.type_line("poweroff");
    guest.expect_exit(status::CLEAN);
}

/// Every request there is, right and wrong, with a cache mode.
#[track_caller]
fn cache(mode: &str, direct: bool) {
    if skip::without_kvm() {
        return;
    }
    let options = format!(",cache={mode},serial=CACHE-{mode}");
    let launch = Launch::new().empty_disk("disk.img", 4 * MIB, &options);
    let image = launch.path("disk.img");
    let opened = std::fs::File::options()
        .read(true)
        .custom_flags_direct()
        .open(&image);
    if direct && opened.is_err() {
        skip::note(&format!("no O_DIRECT at {}", image.display()));
        return;
    }
    let (said, _guest) = passed(launch.kernel(guests::BLK, &format!("serial=CACHE-{mode}")));
    for test in ["write_read", "discard", "write_zeroes", "in_flight_data"] {
        assert!(said.contains(&format!("TEST {test} ok")), "{test}: {said}");
    }
    // What was written is in the file.
    let content = std::fs::read(&image).unwrap();
    assert!(content[64 * 512..].iter().any(|byte| *byte != 0));
}

trait Direct {
    fn custom_flags_direct(&mut self) -> &mut Self;
}

impl Direct for std::fs::OpenOptions {
    fn custom_flags_direct(&mut self) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, libc::O_DIRECT)
    }
}

#[test]
fn cache_writeback() {
    cache("writeback", false);
}

#[test]
fn cache_none() {
    cache("none", true);
}

#[test]
fn cache_writethrough() {
    cache("writethrough", false);
}

#[test]
fn cache_directsync() {
    cache("directsync", true);
}

#[test]
fn cache_unsafe() {
    cache("unsafe", false);
}

#[test]
fn a_read_only_disk_refuses_to_be_written() {
    if skip::without_kvm() {
        return;
    }
    let launch = Launch::new().empty_disk("disk.img", 2 * MIB, ",readonly=on,serial=RO");
    let image = launch.path("disk.img");
    let (_said, _guest) = passed(launch.kernel(guests::BLK, "readonly serial=RO"));
    assert!(std::fs::read(image).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn discard_gives_space_back() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = with_disk(16 * MIB, "");
    let image = guest.path("disk.img");
    assert_eq!(obey::ask(&mut guest, "write 0 16384 7").text("status"), "0");
    assert_eq!(obey::ask(&mut guest, "flush").text("status"), "0");
    let full = allocated(&image);
    assert!(full >= 8 * MIB, "{full}");
    assert_eq!(
        obey::ask(&mut guest, "discard 8192 8192").text("status"),
        "0"
    );
    let half = allocated(&image);
    assert!(half <= full - 4 * MIB, "{full} bytes before, {half} after");
    let kept = obey::ask(&mut guest, "check 0 8192 7");
    assert_eq!((kept.text("status"), kept.text("wrong")), ("0", "0"));
}

#[test]
fn discard_can_be_switched_off() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = with_disk(4 * MIB, ",discard=ignore");
    let image = guest.path("disk.img");
    assert_eq!(obey::ask(&mut guest, "write 0 8192 7").text("status"), "0");
    assert_eq!(obey::ask(&mut guest, "flush").text("status"), "0");
    let full = allocated(&image);
    let _ = obey::ask(&mut guest, "discard 0 8192");
    assert_eq!(allocated(&image), full);
}

#[test]
fn write_zeroes_reads_as_zeroes_and_nothing_around_changes() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = with_disk(8 * MIB, "");
    assert_eq!(obey::ask(&mut guest, "write 0 16384 3").text("status"), "0");
    assert_eq!(
        obey::ask(&mut guest, "zeroes 1000 3000").text("status"),
        "0"
    );
    for line in ["check 1000 3000 0", "check 0 1000 3", "check 4000 12384 3"] {
        let found = obey::ask(&mut guest, line);
        assert_eq!((found.text("status"), found.text("wrong")), ("0", "0"));
    }
}

#[test]
fn several_disks_are_apart() {
    if skip::without_kvm() {
        return;
    }
    let mut launch = obey::launch();
    for disk in 0..4 {
        launch = launch.empty_disk(&format!("{disk}.img"), (disk + 1) * MIB, "");
    }
    let mut guest = launch.arg("--rng").start();
    obey::ready(&mut guest);
    for disk in 0..4_u64 {
        let taken = obey::ask(&mut guest, &format!("disk {disk}"));
        assert_eq!(taken.number::<u64>("sectors"), (disk + 1) * MIB / 512);
        let wrote = obey::ask(&mut guest, &format!("write 0 128 {}", disk + 1));
        assert_eq!(wrote.text("status"), "0");
    }
    for disk in 0..4_u64 {
        let _ = obey::ask(&mut guest, &format!("disk {disk}"));
        let found = obey::ask(&mut guest, &format!("check 0 128 {}", disk + 1));
        assert_eq!((found.text("status"), found.text("wrong")), ("0", "0"));
    }
}

#[test]
fn a_resize_is_seen_by_the_guest_and_by_clients() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = with_disk(MIB, "");
    let mut client = guest.client();
    let before = obey::ask(&mut guest, "capacity");
    client.execute("block_resize", json!({"device": "disk0", "size": 3 * MIB}));
    let blocks = client.execute("query-block", Value::Null);
    assert_eq!(
        blocks[0]["inserted"]["image"]["virtual-size"],
        3 * MIB,
        "{blocks}"
    );
    let after = obey::ask(&mut guest, "capacity");
    assert_eq!(after.number::<u64>("sectors"), 3 * MIB / 512);
    assert_ne!(
        after.number::<u32>("generation"),
        before.number::<u32>("generation")
    );
    // Bit 1: the configuration has changed.
    assert_eq!(after.number::<u32>("interrupt") & 2, 2);
    // The new part is there to be used.
    assert_eq!(
        obey::ask(&mut guest, "write 6000 100 9").text("status"),
        "0"
    );
    let length = std::fs::metadata(guest.path("disk.img")).unwrap().len();
    assert_eq!(length, 3 * MIB);
    for (arguments, why) in [
        (json!({"device": "disk9", "size": MIB}), "disk9"),
        (json!({"device": "disk0", "size": 0}), "size"),
        (json!({"size": MIB}), "device"),
    ] {
        let refusal = client.try_execute("block_resize", arguments).unwrap_err();
        assert!(refusal.desc.contains(why), "{}", refusal.desc);
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(guest.pid()).unwrap());
    let limit = rustix::process::Rlimit {
        current: Some(4 * MIB),
        maximum: Some(4 * MIB),
    };
    rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit).unwrap();
    let beyond = json!({"device": "disk0", "size": 5 * MIB});
    let refusal = client.try_execute("block_resize", beyond).unwrap_err();
    assert!(refusal.desc.contains("ulimit -f"), "{}", refusal.desc);
}

#[test]
fn counters_count_what_the_guest_did() {
    if skip::without_kvm() {
        return;
    }
    let mut guest = with_disk(2 * MIB, "");
    assert_eq!(obey::ask(&mut guest, "write 0 256 1").text("status"), "0");
    assert_eq!(obey::ask(&mut guest, "check 128 128 1").text("status"), "0");
    assert_eq!(obey::ask(&mut guest, "flush").text("status"), "0");
    assert_eq!(obey::ask(&mut guest, "discard 0 8").text("status"), "0");
    // Beyond the end.
    assert_eq!(obey::ask(&mut guest, "check 4096 8 1").text("status"), "1");
    let all = guest.client().execute("query-blockstats", Value::Null);
    let stats = &all[0]["stats"];
    for (name, value) in [
        ("wr_operations", 2),
        ("wr_bytes", 256 * 512),
        ("rd_operations", 1),
        ("rd_bytes", 128 * 512),
        ("flush_operations", 1),
        ("unmap_operations", 1),
        ("unmap_bytes", 8 * 512),
        ("wr_highest_offset", 256 * 512),
        ("invalid_rd_operations", 1),
        ("failed_rd_operations", 0),
    ] {
        assert_eq!(stats[name], value, "{name} of {all}");
    }
    assert!(stats["wr_total_time_ns"].as_u64().unwrap() > 0, "{all}");
}

#[test]
fn block_devices_can_be_asked_about() {
    if skip::without_kvm() {
        return;
    }
    let launch = Launch::new().control().disk(
        "disk.img",
        &[0; 1 << 20],
        ",id=root,readonly=on,cache=unsafe",
    );
    let mut guest = launch.start();
    guest.expect(PROMPT);
    let blocks = guest.client().execute("query-block", Value::Null);
    let inserted = &blocks[0]["inserted"];
    assert_eq!(inserted["ro"], true, "{blocks}");
    assert_eq!(inserted["image"]["virtual-size"], 1 << 20, "{blocks}");
    assert_eq!(
        inserted["cache"],
        json!({"writeback": true, "direct": false, "no-flush": true})
    );
    let nodes = guest
        .client()
        .execute("query-named-block-nodes", Value::Null);
    assert_eq!(nodes[0]["node-name"], "root", "{nodes}");
}

#[test]
fn an_image_that_is_probably_not_meant_so_is_named() {
    if skip::without_kvm() {
        return;
    }
    let mut content = vec![0; 1000];
    content[..4].copy_from_slice(b"QFI\xfb");
    let mut guest = Launch::new().disk("odd.img", &content, "").start();
    guest.expect(PROMPT);
    let said = guest.stderr();
    for text in ["odd.img", "the last 488 bytes", "looks like a qcow2 image"] {
        assert!(said.contains(text), "no mention of {text:?} in: {said}");
    }
}

/// A block device with blocks of 4096 bytes on `image`; detached at the end.
struct Loop(String);

impl Loop {
    fn new(image: &Path) -> Option<Self> {
        let made = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", "4096"])
            .arg(image)
            .output()
            .ok()?;
        let name = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        made.status.success().then_some(Self(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // What is left over then is one loop device.
        drop(
            Command::new("losetup")
                .arg("--detach")
                .arg(&self.0)
                .status(),
        );
    }
}

#[test]
fn a_block_device_with_large_blocks_is_read_and_keeps_its_size() {
    if skip::without_kvm() || skip::without_program("losetup") {
        return;
    }
    let launch = Launch::new().control();
    let image = launch.path("blocks.img");
    let mut content = vec![0; 1 << 20];
    content[..8].copy_from_slice(b"MARKER42");
    std::fs::write(&image, &content).unwrap();
    let Some(device) = Loop::new(&image) else {
        skip::note("no loop device can be made here");
        return;
    };
    let mut guest = launch.args(["--disk", &device.0]).start();
    let seen = guest.expect(PROMPT);
    assert!(seen.contains("MARKER42"), "{seen}");

    let mut client = guest.client();
    for size in [1 << 19, 1 << 30] {
        let resize = serde_json::json!({"device": "disk0", "size": size});
        let error = client.try_execute("block_resize", resize).unwrap_err();
        assert!(error.desc.contains("1048576 bytes"), "{}", error.desc);
    }
    client.execute("quit", Value::Null);
    guest.expect_exit(status::CLEAN);
}
