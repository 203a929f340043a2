//! Who may use an image at the same time: thimble's locks, against `qemu-img` and itself.

use std::process::{Command, Stdio};

use harness::guest::{Launch, status};
use harness::{obey, skip};

use rustix::process::Signal;

use crate::disk::with_disk;

/// Runs `qemu-img`, and returns whether it succeeded and what it complained of.
#[track_caller]
fn qemu_img(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("qemu-img")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

#[test]
fn qemu_img_refuses_the_image_of_a_running_guest() {
    if skip::without_kvm() || skip::without_program("qemu-img") {
        return;
    }
    let mut guest = with_disk(1 << 20, "");
    let image = guest.path("disk.img");
    let copy = guest.path("copy.img");
    let (image, copy) = (image.to_str().unwrap(), copy.to_str().unwrap());
    let uses: [&[&str]; 2] = [
        &["resize", "-f", "raw", image, "2M"],
        &["convert", "-f", "raw", "-O", "raw", image, copy],
    ];
    for line in uses {
        let (done, said) = qemu_img(line);
        assert!(!done, "{line:?} used the image of a running guest");
        assert!(said.contains("lock"), "{line:?}: {said}");
    }
    // To look at a raw image's size takes no lock, with QEMU's own guests neither.
    let (done, said) = qemu_img(&["info", "-f", "raw", image]);
    assert!(done, "{said}");

    obey::tell(&mut guest, "poweroff");
    guest.expect_exit(status::CLEAN);
    let (done, said) = qemu_img(&["resize", "-f", "raw", image, "2M"]);
    assert!(done, "the lock outlived its guest: {said}");
}

/// Whoever restarts a guest that was killed must not find its image in use.
#[test]
fn the_lock_of_a_killed_guest_goes_with_it() {
    if skip::without_kvm() || skip::without_program("qemu-img") {
        return;
    }
    for _ in 0..5 {
        let mut guest = with_disk(1 << 20, "");
        let image = guest.path("disk.img");
        assert_eq!(obey::ask(&mut guest, "write 0 8 1").text("status"), "0");
        guest.signal(Signal::KILL);
        guest.wait();
        let (done, said) = qemu_img(&["resize", "-f", "raw", image.to_str().unwrap(), "2M"]);
        assert!(done, "{said}");
    }
}

#[test]
fn a_second_guest_is_refused_and_told_why() {
    if skip::without_kvm() {
        return;
    }
    let guest = with_disk(1 << 20, "");
    let image = guest.path("disk.img");
    for options in ["", ",readonly=on"] {
        let disk = format!("path={}{options}", image.display());
        let mut second = Launch::new().args(["--disk", &disk]).start();
        second.expect_exit(status::FAILED);
        let said = second.stderr();
        assert!(
            said.contains("disk.img") && said.contains("in use"),
            "{said}"
        );
    }
}

#[test]
fn readers_share_an_image_and_keep_writers_out() {
    if skip::without_kvm() {
        return;
    }
    let first = with_disk(1 << 20, ",readonly=on");
    let image = first.path("disk.img");
    let shared = format!("path={},readonly=on", image.display());
    let mut second = obey::launch().args(["--disk", &shared]).start();
    obey::ready(&mut second);
    assert_eq!(obey::ask(&mut second, "disk 0").text("sectors"), "2048");
    if !skip::without_program("qemu-img") {
        let (done, said) = qemu_img(&["info", "-f", "raw", image.to_str().unwrap()]);
        assert!(done, "a reader was refused: {said}");
    }
    let own = format!("path={}", image.display());
    let mut writer = Launch::new().args(["--disk", &own]).start();
    writer.expect_exit(status::FAILED);
    assert!(writer.stderr().contains("disk.img"), "{}", writer.stderr());
}

#[test]
fn one_image_by_two_names_is_refused() {
    if skip::without_kvm() {
        return;
    }
    let launch = Launch::new().empty_disk("disk.img", 1 << 20, "");
    let other = launch.path("other.img");
    std::fs::hard_link(launch.path("disk.img"), &other).unwrap();
    let disk = format!("path={}", other.display());
    let mut guest = launch.args(["--disk", &disk]).start();
    guest.expect_exit(status::FAILED);
    assert!(guest.stderr().contains("other.img"), "{}", guest.stderr());
}
