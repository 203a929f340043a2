//! How a guest's life ends, and how it starts again.

use harness::host::Host;
use harness::linux::{BUTTON, Boot, UP};

#[track_caller]
fn powers_off(series: &str) {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let life = Boot::new(&host, series, "bzImage", "poweroff -f").run(&mut host);
    life.assert_clean();
    // Power went while the command ran: nothing was said after it.
    assert!(
        !life.console.contains("THIMBLE-GUEST-STATUS"),
        "{}",
        life.console
    );
}

#[test]
fn debian_6_1_powers_off() {
    powers_off("6.1");
}

#[test]
fn debian_6_12_powers_off() {
    powers_off("6.12");
}

/// Two processors: one is stopped by the other, which then halts itself.
#[test]
fn a_halted_kernel_has_ended() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let boot = Boot::new(&host, "6.1", "bzImage", "halt -f").cpus(2);
    let life = boot.events().run(&mut host);
    life.assert_clean();
    life.assert_said("reboot: System halted");
    life.assert_said(r#""SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}"#);
}

#[track_caller]
fn reboots(series: &str) {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    host.put("disk.img", &[b'0'; 4096]);
    // The disk remembers which life this is.
    let command = "if [ $(head -c 1 /dev/vda) = 0 ]; then
            printf 1 | dd of=/dev/vda conv=notrunc,fsync 2> /dev/null
            reboot -f
        fi
        echo second life";
    let boot = Boot::new(&host, series, "bzImage", command).on_reboot("reset");
    let boot = boot.arguments("--disk path=disk.img").events();
    let life = boot.run(&mut host);
    life.assert_clean();
    life.assert_said("second life");
    life.assert_said(r#""RESET","data":{"guest":true,"reason":"guest-reset"}"#);
    life.assert_said(r#""SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}"#);
    assert_eq!(life.console.matches(UP).count(), 2, "{}", life.console);
}

#[test]
fn debian_6_1_reboots_in_place() {
    reboots("6.1");
}

#[test]
fn debian_6_12_reboots_in_place() {
    reboots("6.12");
}

#[test]
fn four_cpus_survive_a_reboot() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    host.put("disk.img", &[b'0'; 4096]);
    let command = "echo cpus $(cat /sys/devices/system/cpu/online)
        if [ $(head -c 1 /dev/vda) = 0 ]; then
            printf 1 | dd of=/dev/vda conv=notrunc,fsync 2> /dev/null
            reboot -f
        fi";
    let boot = Boot::new(&host, "6.1", "bzImage", command)
        .on_reboot("reset")
        .cpus(4);
    let life = boot.arguments("--disk path=disk.img").run(&mut host);
    life.assert_clean();
    assert_eq!(
        life.console.matches("cpus 0-3").count(),
        2,
        "{}",
        life.console
    );
}

#[test]
fn a_reboot_can_be_made_to_end_the_guest() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let life = Boot::new(&host, "6.1", "bzImage", "reboot -f").run(&mut host);
    life.assert_clean();
    assert_eq!(life.console.matches(UP).count(), 1, "{}", life.console);
}

#[track_caller]
fn hears_the_button(series: &str) {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    // Waits for ever: only the button ends it.
    let boot = Boot::new(&host, series, "bzImage", "tail -f /dev/null");
    let act = "$thimble qmp $PWD/control.sock system_powerdown";
    let life = boot.when(UP, act).run(&mut host);
    life.assert_clean();
    life.assert_said(BUTTON);
}

#[test]
fn debian_6_1_hears_the_power_button() {
    hears_the_button("6.1");
}

#[test]
fn debian_6_12_hears_the_power_button() {
    hears_the_button("6.12");
}

#[test]
fn the_control_socket_resets_a_guest() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    host.put("disk.img", &[b'0'; 4096]);
    // The first life waits to be reset once it has left its mark, the second ends by itself.
    let command = "if [ $(head -c 1 /dev/vda) = 0 ]; then
            printf 1 | dd of=/dev/vda conv=notrunc,fsync 2> /dev/null
            echo marked
            tail -f /dev/null
        fi";
    let boot = Boot::new(&host, "6.12", "bzImage", command).on_reboot("reset");
    let life = boot
        .arguments("--disk path=disk.img")
        .when("marked", "$thimble qmp $PWD/control.sock system_reset")
        .run(&mut host);
    life.assert_clean();
    assert_eq!(life.console.matches(UP).count(), 2, "{}", life.console);
}

#[test]
fn a_kernel_panic_is_a_crash() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let boot = Boot::new(&host, "6.1", "bzImage", "echo c > /proc/sysrq-trigger");
    let life = boot.events().run(&mut host);
    life.assert_said("Kernel panic");
    assert_eq!(life.status, 3, "{}", life.console);
    // By pvpanic; the reset that the kernel's own `panic=-1` asks for comes too late.
    life.assert_said(r#""GUEST_PANICKED","data":{"action":"poweroff"}"#);
    life.assert_said(r#""SHUTDOWN","data":{"guest":true,"reason":"guest-panic"}"#);
}
