//! What Linux makes of the machine's own devices: clocks, generation counter, processors, entropy.

use harness::host::Host;
use harness::linux::Boot;

#[track_caller]
fn number(text: &str) -> u64 {
    match text.trim().parse() {
        Ok(number) => number,
        Err(error) => panic!("{text:?}: {error}"),
    }
}

#[track_caller]
fn has_its_clocks(series: &str) {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let command = "cat /sys/devices/system/clocksource/clocksource0/available_clocksource
        hwclock -u && echo rtc $(cat /sys/class/rtc/rtc0/since_epoch)";
    let before = number(&host.run("date +%s").text());
    let life = Boot::new(&host, series, "bzImage", command).run(&mut host);
    let after = number(&host.run("date +%s").text());
    life.assert_clean();
    life.assert_said("kvm-clock");
    let rtc = life.console.lines().find_map(|l| l.strip_prefix("rtc "));
    let rtc = number(rtc.unwrap_or_default());
    // The chip has whole seconds.
    assert!(
        (before - 1..=after + 1).contains(&rtc),
        "the guest's clock says {rtc}, the host's {before} to {after}"
    );
}

#[test]
fn debian_6_1_has_its_clocks() {
    has_its_clocks("6.1");
}

#[test]
fn debian_6_12_has_its_clocks() {
    has_its_clocks("6.12");
}

#[test]
fn drivers_bind_to_the_random_device_and_the_generation_counter() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let command = "cat /sys/class/misc/hw_random/rng_available
        head -c 16 /dev/hwrng | wc -c
        ls /sys/bus/*/drivers/vmgenid";
    let life = Boot::new(&host, "6.12", "bzImage", command)
        .arguments("--rng")
        .run(&mut host);
    life.assert_clean();
    life.assert_said("virtio_rng.0");
    life.assert_said("\n16\n");
    life.assert_said("THMB0001:00");
}

#[test]
fn cpus_go_offline_and_come_back() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    // Each return is an INIT and a start-up IPI to a vCPU that has run before.
    let command = "cd /sys/devices/system/cpu
        for round in 1 2 3; do
            for cpu in 1 2 3; do echo 0 > cpu$cpu/online || exit 1; done
            echo left $(cat online)
            for cpu in 3 2 1; do echo 1 > cpu$cpu/online || exit 1; done
            echo all $(cat online)
        done";
    let boot = Boot::new(&host, "6.12", "bzImage", command).cpus(4);
    let life = boot.run(&mut host);
    life.assert_clean();
    life.assert_said("THIMBLE-GUEST-STATUS 0");
    assert_eq!(
        life.console.matches("left 0\n").count(),
        3,
        "{}",
        life.console
    );
    assert_eq!(
        life.console.matches("all 0-3\n").count(),
        3,
        "{}",
        life.console
    );
}
