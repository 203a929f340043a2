//! Linux's own vsock driver, with programs at both ends.

use harness::guests::SOCKETS;
use harness::host::Host;
use harness::linux::{Boot, UP};

/// What follows in the guest: the program comes on a disk.
const FETCH: &str = "cat /dev/vda > /tmp/sockets && chmod 755 /tmp/sockets && cd /tmp || exit 1\n";

/// The program, for both sides. A disk is whole sectors.
#[track_caller]
fn bring_program(host: &mut Host) {
    let mut program = std::fs::read(SOCKETS).unwrap_or_else(|error| panic!("{SOCKETS}: {error}"));
    program.resize(program.len().next_multiple_of(512), 0);
    host.put("sockets", &program);
    let made = host.run("chmod 755 sockets");
    assert_eq!(made.status, 0, "{}", made.text());
}

#[track_caller]
fn talks_both_ways(series: &str) {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    bring_program(&mut host);
    let command = format!(
        "{FETCH}./sockets serve stream vsock:5000 || exit 1
        echo NOW THE HOST
        until ./sockets dial stream vsock:5001 3000000; do sleep 0.05; done
        ./sockets dial stream vsock:1234 1 2>&1 || echo refused"
    );
    let served = "./sockets serve stream unix:v.sock_5001 > served 2>&1 &";
    let life = Boot::new(&host, series, "bzImage", &command)
        .arguments("--disk path=sockets,readonly=on --vsock path=v.sock,cid=77")
        .when(UP, served)
        .when(
            "SERVING vsock:5000",
            "./sockets dial stream hybrid:v.sock:5000 3000000 > dialled 2>&1 &",
        )
        .run(&mut host);
    life.assert_clean();
    life.assert_said("SERVED vsock:5000 3000000");
    life.assert_said("DIALLED vsock:5001 ok");
    life.assert_said("refused");
    let host_said = host.run("cat dialled served").text();
    assert!(
        host_said.contains("DIALLED hybrid:v.sock:5000 ok"),
        "{host_said}"
    );
    assert!(
        host_said.contains("SERVED unix:v.sock_5001 3000000"),
        "{host_said}"
    );
}

#[test]
fn debian_6_1_talks_both_ways() {
    talks_both_ways("6.1");
}

#[test]
fn debian_6_12_talks_both_ways() {
    talks_both_ways("6.12");
}

#[test]
fn messages_keep_their_ends() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    bring_program(&mut host);
    let command =
        format!("{FETCH}until ./sockets dial seqpacket vsock:5001 400000; do sleep 0.05; done");
    let life = Boot::new(&host, "6.12", "bzImage", &command)
        .arguments("--disk path=sockets,readonly=on --vsock path=v.sock")
        .when(
            UP,
            "./sockets serve seqpacket unix:v.sock_5001 > served 2>&1 &",
        )
        .run(&mut host);
    life.assert_clean();
    life.assert_said("DIALLED vsock:5001 ok");
}
