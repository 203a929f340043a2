//! Disks, as the built-in guest and tools outside see them.

use std::process::Command;

use harness::guest::{Launch, status};
use harness::skip;
use serde_json::Value;

use crate::boot::PROMPT;

#[test]
fn the_guest_shows_the_first_bytes_of_its_disk() {
    if skip::without_kvm() {
        return;
    }
    let mut content = vec![0; 64 * 1024];
    content[..8].copy_from_slice(b"MARKER42");
    let mut guest = Launch::new().disk("disk.img", &content, "").start();
    let seen = guest.expect(PROMPT);
    // As text or as numbers: the guest decides.
    let numbers = "4d 41 52 4b 45 52";
    assert!(
        seen.contains("MARKER42") || seen.to_lowercase().contains(numbers),
        "{seen}"
    );
    guest.type_line("poweroff");
    guest.expect_exit(status::CLEAN);
}

#[test]
fn block_devices_can_be_asked_about() {
    if skip::without_kvm() {
        return;
    }
    let launch = Launch::new()
        .control()
        .disk("disk.img", &[0; 1 << 20], ",id=root,readonly=on");
    let mut guest = launch.start();
    guest.expect(PROMPT);
    let blocks = guest.client().execute("query-block", Value::Null);
    let inserted = &blocks[0]["inserted"];
    assert_eq!(inserted["ro"], true, "{blocks}");
    assert_eq!(inserted["image"]["virtual-size"], 1 << 20, "{blocks}");
}

#[test]
fn a_busy_image_is_refused_by_qemu_img_and_by_a_second_guest() {
    if skip::without_kvm() || skip::without_program("qemu-img") {
        return;
    }
    let mut guest = Launch::new().disk("disk.img", &[0; 1 << 20], "").start();
    guest.expect(PROMPT);
    let image = guest.path("disk.img");
    let resize = Command::new("qemu-img")
        .args(["resize", "-f", "raw"])
        .arg(&image)
        .arg("2M")
        .output()
        .unwrap();
    assert!(
        !resize.status.success(),
        "qemu-img changed the image of a running guest"
    );
    let said = String::from_utf8_lossy(&resize.stderr);
    assert!(said.contains("lock"), "{said}");

    let disk = format!("path={}", image.display());
    let mut second = Launch::new().args(["--disk", &disk]).start();
    second.expect_exit(status::FAILED);
    assert!(second.stderr().contains("disk.img"), "{}", second.stderr());
}
