//! Network cards, as stock kernels use them.

use harness::host::Host;
use harness::linux::{Boot, UP};

/// Lets the host speak to the guest behind the interface that thimble makes, and serves a file.
const SERVE: &str = "ip addr add 10.77.0.1/24 dev thimble0; ip link set thimble0 mtu 1400 up; \
                     busybox httpd -p 10.77.0.1:8000 -h $PWD/www";

/// The guest's side of the same.
const UP_IN_GUEST: &str = "ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up
    until ping -c 1 -W 1 10.77.0.1 > /ping 2>&1; do sleep 0.2; done
";

/// A host whose kernel has taps, if there is one.
#[track_caller]
fn host() -> Option<Host> {
    let mut host = Host::acquire()?;
    let ready = "(load tun || modprobe tun) 2> /dev/null; \
                 [ -c /dev/net/tun ] && [ $(id -u) = 0 ] && command -v busybox ip";
    if host.run(ready).status != 0 {
        harness::skip::note("no taps, no root or no busybox");
        return None;
    }
    Some(host)
}

/// Ends the server, and waits until it has: the next test's wants the same address. The pattern does
/// not match the command it is in.
#[track_caller]
fn stop_serving(host: &mut Host) {
    let servers = "grep -l '[1]0.77.0.1:8000' /proc/[0-9]*/cmdline 2> /dev/null";
    host.run(&format!(
        "for server in $({servers}); do kill $(echo $server | cut -d / -f 3); done
        while {servers} > /dev/null; do sleep 0.1; done"
    ));
}

#[track_caller]
fn fetches_what_the_host_has(series: &str) {
    let Some(mut host) = host() else { return };
    stop_serving(&mut host);
    let made = "mkdir www && head -c 4194304 /dev/urandom > www/data && md5sum < www/data";
    let sum = host.run(made).text().trim().to_owned();
    let command = format!(
        "{UP_IN_GUEST}
        echo mtu $(cat /sys/class/net/eth0/mtu) mac $(cat /sys/class/net/eth0/address)
        ping -c 3 10.77.0.1 | grep -q ' 0% packet loss' && echo pinged
        wget -q -O /data http://10.77.0.1:8000/data && echo fetched && md5sum < /data"
    );
    let life = Boot::new(&host, series, "bzImage", &command)
        .arguments("--net tap=thimble0,mac=02:00:00:00:00:77,mtu=1400")
        .when(UP, SERVE)
        .run(&mut host);
    life.assert_clean();
    life.assert_said("mtu 1400 mac 02:00:00:00:00:77");
    life.assert_said("\npinged\n");
    life.assert_said(&format!("fetched\n{sum}"));
    stop_serving(&mut host);
}

#[test]
fn debian_6_1_fetches_what_the_host_has() {
    fetches_what_the_host_has("6.1");
}

#[test]
fn debian_6_12_fetches_what_the_host_has() {
    fetches_what_the_host_has("6.12");
}

#[test]
fn a_cable_that_is_pulled_out_is_noticed() {
    let Some(mut host) = host() else { return };
    let command = "ip link set eth0 up
        until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.1; done; echo cable in
        until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do sleep 0.1; done; echo cable out
        until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.1; done; echo cable back";
    let link = |up: bool| {
        format!("$thimble qmp $PWD/control.sock set_link '{{\"name\": \"net0\", \"up\": {up}}}'")
    };
    let life = Boot::new(&host, "6.12", "bzImage", command)
        .arguments("--net tap=thimble1")
        .when("cable in", &link(false))
        .when("cable out", &link(true))
        .run(&mut host);
    life.assert_clean();
    life.assert_said("cable back");
}

#[test]
fn four_queues_are_used_by_four_cpus() {
    let Some(mut host) = host() else { return };
    stop_serving(&mut host);
    host.run("mkdir www && head -c 1048576 /dev/urandom > www/data");
    let command = format!(
        "{UP_IN_GUEST}
        echo queues $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l)
        for n in 1 2 3 4; do wget -q -O /data$n http://10.77.0.1:8000/data & done; wait
        echo sums $(for n in 1 2 3 4; do md5sum < /data$n; done | sort -u | wc -l)"
    );
    let life = Boot::new(&host, "6.12", "bzImage", &command)
        .cpus(4)
        .arguments("--net tap=thimble0,queues=4")
        .when(UP, SERVE)
        .run(&mut host);
    life.assert_clean();
    life.assert_said("queues 4");
    life.assert_said("sums 1");
    stop_serving(&mut host);
}
