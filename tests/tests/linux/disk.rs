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

#[test]
fn every_cache_mode_keeps_what_is_written() {
    const MODES: [&str; 5] = ["writeback", "none", "writethrough", "directsync", "unsafe"];
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let made = host.run("for n in 0 1 2 3 4; do truncate -s 16M disk$n.img || exit 1; done");
    assert_eq!(made.status, 0, "{}", made.text());
    // In small and large pieces, past the guest's page cache and through it.
    let command = "cd /tmp && head -c 4194304 /dev/urandom > data && sha256sum < data
        for disk in a b c d e; do
            dd if=data of=/dev/vd$disk bs=4k oflag=direct conv=notrunc 2> /dev/null || exit 1
            dd if=data of=/dev/vd$disk bs=1M seek=8 conv=notrunc,fsync 2> /dev/null || exit 1
            echo 3 > /proc/sys/vm/drop_caches
            dd if=/dev/vd$disk bs=1M count=4 iflag=direct 2> /dev/null | cmp - data || exit 1
            dd if=/dev/vd$disk bs=4k skip=2048 count=1024 2> /dev/null | cmp - data || exit 1
        done";
    let disks: String = (0..)
        .zip(MODES)
        .map(|(n, mode)| format!(" --disk path=disk{n}.img,cache={mode}"))
        .collect();
    let boot = Boot::new(&host, "6.1", "bzImage", command).arguments(&disks);
    let life = boot.run(&mut host);
    life.assert_clean();
    life.assert_said("THIMBLE-GUEST-STATUS 0");
    for (n, mode) in (0..).zip(MODES) {
        for mebibyte in [0, 8] {
            let sum = host.run(&format!(
                "dd if=disk{n}.img bs=1M skip={mebibyte} count=4 2> /dev/null | sha256sum"
            ));
            assert!(
                life.console.contains(sum.text().trim()),
                "cache={mode}: not what the guest wrote at {mebibyte} MiB\n{}",
                life.console
            );
        }
    }
}

#[test]
fn four_writers_at_once_find_their_files_again() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let made = host.run("truncate -s 128M disk.img");
    assert_eq!(made.status, 0, "{}", made.text());
    let first = "mke2fs /dev/vda && mount -t ext4 /dev/vda /tmp && cd /tmp || exit 1
        for writer in 1 2 3 4; do
            (
                for file in 1 2 3 4 5 6 7 8; do
                    head -c 524288 /dev/urandom > $writer-$file && sync
                done
            ) &
        done
        wait
        sha256sum [1-4]-* > sums && wc -l < sums && cd / && umount /tmp";
    let second = "mount -t ext4 /dev/vda /tmp && cd /tmp && sha256sum -c sums > /dev/null &&
        echo all as written";
    for (command, text) in [(first, "\n32\n"), (second, "all as written")] {
        let boot = Boot::new(&host, "6.12", "bzImage", command).cpus(4);
        let boot = boot.arguments("--disk path=disk.img,cache=none");
        let life = boot.run(&mut host);
        life.assert_clean();
        life.assert_said(text);
        life.assert_said("THIMBLE-GUEST-STATUS 0");
    }
}

#[test]
fn a_disk_grows_while_it_is_used() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let made = host.run("truncate -s 8M disk.img");
    assert_eq!(made.status, 0, "{}", made.text());
    // In sectors. What is new can be written and read at once.
    let command = "echo sectors $(cat /sys/block/vda/size)
        until [ $(cat /sys/block/vda/size) = 32768 ]; do sleep 0.05; done
        echo sectors $(cat /sys/block/vda/size)
        printf grown | dd of=/dev/vda bs=1 seek=16777211 conv=notrunc,fsync 2> /dev/null";
    let resize = "$thimble qmp $PWD/control.sock block_resize \
                  '{\"node-name\": \"disk0\", \"size\": 16777216}'";
    let life = Boot::new(&host, "6.12", "bzImage", command)
        .arguments("--disk path=disk.img")
        .when("sectors 16384", resize)
        .run(&mut host);
    life.assert_clean();
    life.assert_said("sectors 32768");
    let tail = host.run("wc -c < disk.img && tail -c 5 disk.img");
    assert_eq!(tail.text(), "16777216\ngrown");
}
