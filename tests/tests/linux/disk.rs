//! A guest's disk, checked from outside.

use harness::host::Host;
use harness::linux::Boot;

/// Bytes of a disk image.
const SIZE: usize = 8 << 20;

/// A pattern in which no two sectors are alike.
fn pattern(length: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_le_bytes).take(length).collect()
}

#[track_caller]
fn reads_and_writes(series: &str) {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    host.put("disk.img", &pattern(SIZE));
    let sum = host.run("head -c 1048576 disk.img | sha256sum");
    // Copies the first MiB to the fifth, past the page cache both ways.
    let command = "dd if=/dev/vda bs=1M count=1 iflag=direct 2> /dev/null | sha256sum
        echo size $(blockdev --getsize64 /dev/vda)
        dd if=/dev/vda of=/dev/vda bs=1M count=1 seek=4 iflag=direct oflag=direct conv=notrunc,fsync";
    let boot = Boot::new(&host, series, "bzImage", command).arguments("--disk path=disk.img");
    let life = boot.run(&mut host);
    life.assert_clean();
    life.assert_said("THIMBLE-GUEST-STATUS 0");
    life.assert_said(&format!("size {SIZE}"));
    life.assert_said(sum.text().trim());
    let mut wanted = pattern(SIZE);
    wanted.copy_within(0..1 << 20, 4 << 20);
    assert!(
        host.get("disk.img") == wanted,
        "what the guest wrote is not what the image holds"
    );
}

#[test]
fn debian_6_1_reads_and_writes_its_disk() {
    reads_and_writes("6.1");
}

#[test]
fn debian_6_12_reads_and_writes_its_disk() {
    reads_and_writes("6.12");
}

#[test]
fn a_file_system_survives_its_guest() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let made = host.run("truncate -s 64M disk.img");
    assert_eq!(made.status, 0, "{}", made.text());
    // busybox makes ext2; the kernel's ext4 driver mounts it.
    let first = "mke2fs /dev/vda && mount -t ext4 /dev/vda /tmp && echo kept > /tmp/note &&
        umount /tmp";
    let second = "mount -t ext4 /dev/vda /tmp && cat /tmp/note";
    for (command, text) in [(first, "THIMBLE-GUEST-STATUS 0"), (second, "kept")] {
        let boot = Boot::new(&host, "6.12", "bzImage", command);
        let life = boot.arguments("--disk path=disk.img").run(&mut host);
        life.assert_clean();
        life.assert_said(text);
    }
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    host.put("disk.img", &pattern(1 << 20));
    let command = "echo ro $(blockdev --getro /dev/vda)
        dd if=/dev/zero of=/dev/vda bs=4096 count=1 conv=notrunc,fsync";
    let boot = Boot::new(&host, "6.1", "bzImage", command);
    let life = boot
        .arguments("--disk path=disk.img,readonly=on")
        .run(&mut host);
    life.assert_clean();
    life.assert_said("ro 1");
    life.assert_said("THIMBLE-GUEST-STATUS 1");
    assert!(
        host.get("disk.img") == pattern(1 << 20),
        "a read-only image changed"
    );
}
