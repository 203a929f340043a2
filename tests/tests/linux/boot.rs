//! Stock kernels reach user space, by every way into a kernel, and find the machine they were
//! promised.

use harness::built;
use harness::host::Host;
use harness::image;
use harness::linux::Boot;

#[track_caller]
fn boots(series: &str, image: &str) {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let life = Boot::new(&host, series, image, "uname -r").run(&mut host);
    life.assert_clean();
    let release = host.run(&format!(
        "cat {}",
        host.guest_file(&format!("{series}/release"))
    ));
    life.assert_said(release.text().trim());
    life.assert_said("THIMBLE-GUEST-STATUS 0");
}

#[test]
fn debian_6_1_from_its_bzimage() {
    boots("6.1", "bzImage");
}

#[test]
fn debian_6_12_from_its_bzimage() {
    boots("6.12", "bzImage");
}

#[test]
fn debian_6_1_from_its_vmlinux_by_pvh() {
    boots("6.1", "vmlinux");
}

#[test]
fn debian_6_12_from_its_vmlinux_by_pvh() {
    boots("6.12", "vmlinux");
}

/// Without its notes a kernel has no PVH entry, which leaves the 64-bit protocol.
#[track_caller]
fn boots_without_notes(series: &str) {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let name = format!("{series}/vmlinux");
    let offset = image::offset_of_note_type(&built::guests().join(&name));
    let copied = host.run(&format!(
        "cp {} vmlinux && head -c 4 /dev/zero | dd of=vmlinux bs=1 seek={offset} conv=notrunc",
        host.guest_file(&name)
    ));
    assert_eq!(copied.status, 0, "{}", copied.text());
    let boot = Boot::new(&host, series, "vmlinux", "true").kernel(&host.path("vmlinux"));
    boot.run(&mut host).assert_clean();
}

#[test]
fn debian_6_1_from_its_vmlinux_by_the_64_bit_protocol() {
    boots_without_notes("6.1");
}

#[test]
fn debian_6_12_from_its_vmlinux_by_the_64_bit_protocol() {
    boots_without_notes("6.12");
}

#[test]
fn four_cpus_come_up() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let command = "echo cpus $(cat /sys/devices/system/cpu/online)";
    let life = Boot::new(&host, "6.12", "bzImage", command)
        .cpus(4)
        .run(&mut host);
    life.assert_clean();
    life.assert_said("cpus 0-3");
}

#[test]
fn memory_above_the_hole_is_found() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    // More than the testbed's machine has: what a guest does not touch is not there.
    let command = "grep -E 'System RAM' /proc/iomem";
    let life = Boot::new(&host, "6.1", "bzImage", command)
        .memory("5G")
        .run(&mut host);
    life.assert_clean();
    life.assert_said("100000000-17fffffff : System RAM");
}

/// What `cargo xtask kernel` builds has its drivers inside.
#[test]
fn the_microvm_kernel_finds_its_devices() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let Some(kernel) = host.microvm_kernel() else {
        return;
    };
    let made = host.run("truncate -s 64M disk.img");
    assert_eq!(made.status, 0, "{}", made.text());
    let command = "uname -r; echo cpus $(cat /sys/devices/system/cpu/online)
        mke2fs /dev/vda && mount -t ext4 /dev/vda /tmp && echo kept > /tmp/note && umount /tmp &&
        mount -t ext4 /dev/vda /tmp && cat /tmp/note
        head -c 16 /dev/hwrng | wc -c
        ls /sys/bus/platform/drivers/pvpanic-mmio /sys/bus/acpi/drivers/vmgenid
        hwclock -u";
    let life = Boot::new(&host, "6.1", "bzImage", command)
        .kernel(&kernel)
        .cpus(2)
        .arguments("--rng --disk path=disk.img")
        .run(&mut host);
    life.assert_clean();
    for text in [
        "-thimble",
        "cpus 0-1",
        "\nkept\n",
        "\n16\n",
        "QEMU0001:00",
        "THMB0001:00",
        "THIMBLE-GUEST-STATUS 0",
    ] {
        life.assert_said(text);
    }
}
