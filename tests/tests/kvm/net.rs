//! Network cards: the guest sends back what it receives, and the test is the network, by a packet
//! socket on the tap in a network namespace of its own.
#![expect(unsafe_code, reason = "network namespaces, packet sockets, tap ioctls")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use harness::control::Client;
use harness::guest::{Guest, LIMIT, Launch, status};
use harness::wait::Deadline;
use harness::{guests, skip};
use serde_json::{Value, json};

use crate::hostile::refused;

/// The payload type for local experiments (IEEE 802).
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];
/// Our own address.
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];
/// The guest's, where the test gives it.
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];
const GUEST_TEXT: &str = "02:00:00:00:00:bb";
/// Bytes of the header of packet sockets, and of taps unless told otherwise.
const HEADER: usize = 10;
const TAP: &str = "tap0";

/// A network namespace that this thread and what it starts are in, with a tap.
struct Network {
    socket: OwnedFd,
}

fn checked(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer)
}

/// Runs `ip` and wants it to succeed.
#[track_caller]
fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().unwrap();
    assert!(status.success(), "ip {line}");
}

/// Says why there can be no network, if there can be none.
fn without_taps() -> bool {
    if skip::without_kvm() || skip::without_program("ip") {
        return true;
    }
    let allowed = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    if rustix::process::geteuid().is_root() && allowed.is_ok() {
        return false;
    }
    skip::note("taps and network namespaces need root and /dev/net/tun");
    true
}

impl Network {
    /// Moves this thread to a namespace of its own and makes a tap there. Each test has a thread
    /// of its own.
    #[track_caller]
    fn new(options: &str, mtu: u32) -> Self {
        // SAFETY: concerns this thread alone.
        checked(unsafe { libc::unshare(libc::CLONE_NEWNET) }).unwrap();
        ip(&format!("tuntap add {TAP} mode tap{options}"));
        // No neighbour discovery, which there is none of anyway with less than IPv6 wants.
        let quiet = if mtu < 1280 { "" } else { " addrgenmode none" };
        ip(&format!("link set {TAP} mtu {mtu}{quiet} up"));
        Self {
            socket: packet_socket().unwrap(),
        }
    }

    /// Sends a frame behind its header to the guest.
    #[track_caller]
    fn send(&self, header: [u8; HEADER], frame: &[u8]) {
        let whole = [&header, frame].concat();
        let sent = rustix::io::write(&self.socket, &whole).unwrap();
        assert_eq!(sent, whole.len());
    }

    /// The next frame of the guest's, with its header.
    #[track_caller]
    fn receive(&self) -> ([u8; HEADER], Vec<u8>) {
        let mut buffer = vec![0; 0x2_0000];
        loop {
            let read = match rustix::io::read(&self.socket, &mut buffer[..]) {
                Ok(read) => read,
                Err(error) => panic!("no frame of the guest's came: {error}"),
            };
            let (header, frame) = buffer[..read].split_at(HEADER);
            if frame[6..12] != OURS && (frame[12..14] == EXPERIMENT || frame[12..14] == [8, 0]) {
                return (header.try_into().unwrap(), frame.to_vec());
            }
        }
    }

    /// Waits for the guest's first frame, and answers its address.
    #[track_caller]
    fn hello(&self) -> [u8; 6] {
        let (_, frame) = self.receive();
        assert_eq!(
            (&frame[..6], &frame[14..19]),
            (&[0xff; 6][..], &b"hello"[..])
        );
        frame[6..12].try_into().unwrap()
    }

    /// Sends a frame and wants it back, with its header.
    #[track_caller]
    fn round_trip(&self, header: [u8; HEADER], frame: &[u8]) {
        self.send(header, frame);
        let (back_header, back) = self.receive();
        assert_eq!(back[..6], OURS);
        assert_eq!(back.len(), frame.len());
        assert!(
            back[12..] == frame[12..],
            "another frame of the same length"
        );
        // What is to be done with a checksum, the segmentation, and the segments' size.
        assert_eq!(back_header[..2], header[..2]);
        assert_eq!(back_header[4..6], header[4..6]);
    }

    /// Has the guest end, and wants all its tests passed.
    #[track_caller]
    fn stop(&self, guest: &mut Guest, to: [u8; 6]) -> String {
        let mut last = experiment(to, 60);
        last[14..18].copy_from_slice(b"stop");
        self.round_trip([0; HEADER], &last);
        let said = guest.expect_exit(status::CLEAN);
        let passed = said.contains("TESTS DONE passed=") && said.contains(" failed=0\r\n");
        assert!(passed, "not every test of the guest passed");
        said
    }
}

/// A packet socket on the tap, whose frames have virtio headers.
fn packet_socket() -> io::Result<OwnedFd> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: no memory is passed.
    let raw = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            all.into(),
        )
    };
    // SAFETY: the descriptor was just made, and nothing else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(checked(raw)?) };
    let on: libc::c_int = 1;
    let limit = libc::timeval {
        tv_sec: LIMIT.as_secs() as libc::time_t,
        tv_usec: 0,
    };
    let length = |bytes: usize| bytes as libc::socklen_t;
    // SAFETY: each option takes what is given, of that length.
    unsafe {
        let fd = socket.as_raw_fd();
        let (at, size) = (std::ptr::from_ref(&on).cast(), length(size_of_val(&on)));
        checked(libc::setsockopt(
            fd,
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            at,
            size,
        ))?;
        let (at, size) = (
            std::ptr::from_ref(&limit).cast(),
            length(size_of_val(&limit)),
        );
        checked(libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            at,
            size,
        ))?;
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = libc::if_nametoindex(c"tap0".as_ptr()) as i32;
        let (at, size) = (
            std::ptr::from_ref(&address).cast(),
            length(size_of_val(&address)),
        );
        checked(libc::bind(fd, at, size))?;
    }
    Ok(socket)
}

/// A frame of `len` bytes that no protocol knows.
fn experiment(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame = [&to[..], &OURS, &EXPERIMENT].concat();
    frame.extend((frame.len()..len).map(|n| (n * 7 % 251) as u8));
    frame
}

/// TCP over IPv4 with `data` bytes, its checksum to be filled in.
fn tcp(to: [u8; 6], data: usize) -> Vec<u8> {
    let mut frame = [&to[..], &OURS, &[8, 0]].concat();
    let total = u16::try_from(40 + data).unwrap().to_be_bytes();
    frame.extend([
        0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    frame.extend([
        0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    frame.extend((0..data).map(|n| (n * 3 % 251) as u8));
    frame
}

/// Needs a checksum at 34 + 16, and to be cut into segments of 1448 bytes.
const CUT_TCP4: [u8; HEADER] = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0];
/// Needs a checksum alone.
const SUM_TCP4: [u8; HEADER] = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0];

#[track_caller]
fn start(net: &str, words: &str) -> Guest {
    Launch::new()
        .args(["--net", net])
        .kernel(guests::NET, words)
        .start()
}

#[test]
fn frames_of_every_length_come_back() {
    if without_taps() {
        return;
    }
    let network = Network::new("", 9000);
    let net = format!("tap={TAP},mac={GUEST_TEXT},mtu=9000");
    let mut guest = start(&net, &format!("mac={GUEST_TEXT} mtu=9000"));
    assert_eq!(network.hello(), GUEST);
    // Around the sizes of the guest's buffers, with and without the header.
    for len in [
        14, 15, 60, 499, 500, 501, 511, 512, 513, 1012, 1013, 1514, 9014,
    ] {
        network.round_trip([0; HEADER], &experiment(GUEST, len));
    }
    network.stop(&mut guest, GUEST);
}

#[test]
fn offloads_reach_the_guest_and_come_back() {
    if without_taps() {
        return;
    }
    let network = Network::new("", 1500);
    let mut guest = start(TAP, "");
    let mac = network.hello();
    network.round_trip(SUM_TCP4, &tcp(mac, 100));
    for data in [3000, 20_000, 60_000, 65_000] {
        network.round_trip(CUT_TCP4, &tcp(mac, data));
    }
    let said = network.stop(&mut guest, mac);
    assert!(said.contains("TEST echo ok 6 frames"), "{said}");
}

#[test]
fn a_driver_that_agrees_on_nothing_gets_plain_frames() {
    if without_taps() {
        return;
    }
    let network = Network::new("", 400);
    let mut guest = start(TAP, "plain");
    let mac = network.hello();
    for len in [60, 414] {
        network.round_trip([0; HEADER], &experiment(mac, len));
    }
    // The host does what the guest cannot.
    network.send(SUM_TCP4, &tcp(mac, 100));
    let (header, frame) = network.receive();
    assert_eq!(header[..2], [0, 0]);
    assert_ne!(frame[50..52], [0, 0]);
    network.stop(&mut guest, mac);
}

#[test]
fn what_is_for_others_is_kept_out() {
    if without_taps() {
        return;
    }
    let network = Network::new("", 1500);
    let mut guest = start(&format!("{TAP},mac={GUEST_TEXT}"), "filter");
    network.hello();
    let other = [2, 0, 0, 0, 0, 0xcc];
    let group = [0x33, 0x33, 0, 0, 0, 1];
    let other_group = [0x33, 0x33, 0, 0, 0, 2];
    for (to, passes) in [
        (other, false),
        (other_group, false),
        (group, true),
        ([0xff; 6], true),
        (GUEST, true),
    ] {
        let frame = experiment(to, 100);
        if passes {
            network.round_trip([0; HEADER], &frame);
        } else {
            network.send([0; HEADER], &frame);
        }
    }
    let said = network.stop(&mut guest, GUEST);
    assert!(said.contains("TEST echo ok 4 frames"), "{said}");
}

#[test]
fn several_queues_are_spread_over_when_the_guest_says() {
    if without_taps() {
        return;
    }
    let network = Network::new(" multi_queue", 1500);
    let mut guest = start(&format!("{TAP},queues=4"), "");
    let mac = network.hello();
    // The guest uses one pair of the four: whatever the host's spread, all come to it.
    for len in 60..90 {
        network.round_trip([0; HEADER], &experiment(mac, len));
    }
    network.stop(&mut guest, mac);
}

#[test]
fn a_tap_may_be_inherited() {
    if without_taps() {
        return;
    }
    let network = Network::new("", 1500);
    let tap = inheritable_tap();
    let mut guest = start(&format!("fd={}", tap.as_raw_fd()), "");
    drop(tap);
    let mac = network.hello();
    network.round_trip([0; HEADER], &experiment(mac, 1514));
    network.stop(&mut guest, mac);
}

/// A descriptor attached to the tap, which children keep.
fn inheritable_tap() -> OwnedFd {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .unwrap();
    let mut request = [0_u8; 40];
    request[..TAP.len()].copy_from_slice(TAP.as_bytes());
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request[16..18].copy_from_slice(&(flags as u16).to_le_bytes());
    // SAFETY: a `struct ifreq` of 40 bytes; the flags are the descriptor's own.
    unsafe {
        checked(libc::ioctl(
            tun.as_raw_fd(),
            libc::TUNSETIFF,
            request.as_mut_ptr(),
        ))
        .unwrap();
        checked(libc::fcntl(tun.as_raw_fd(), libc::F_SETFD, 0)).unwrap();
    }
    tun.into()
}

#[test]
fn a_hostile_driver_is_stopped_and_a_good_one_after_it_works() {
    if without_taps() {
        return;
    }
    let network = Network::new("", 1500);
    let mut guest = start(TAP, "hostile");
    let mac = network.hello();
    network.round_trip([0; HEADER], &experiment(mac, 1000));
    network.stop(&mut guest, mac);
}

#[test]
fn an_address_is_the_same_at_every_start_of_a_guest_with_a_name() {
    if without_taps() {
        return;
    }
    let network = Network::new("", 1500);
    let mut seen = Vec::new();
    for name in ["web", "web", "db"] {
        let launch = Launch::new().args(["--net", TAP, "--name", name]);
        let mut guest = launch.kernel(guests::NET, "").start();
        seen.push(network.hello());
        network.stop(&mut guest, seen[seen.len() - 1]);
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[0], seen[2]);
}

#[test]
fn clients_see_and_change_a_card() {
    if without_taps() {
        return;
    }
    let network = Network::new("", 1500);
    let launch = Launch::new().control().args([
        "--net",
        &format!("{TAP},id=lan,mac={GUEST_TEXT}"),
        "--paused",
    ]);
    let mut guest = launch.kernel(guests::NET, "filter").start();
    let mut client = guest.client();
    let everything = &client.execute("query-rx-filter", json!({}))[0];
    assert_eq!(everything["promiscuous"], true);
    assert_eq!(
        (&everything["name"], &everything["vlan"]),
        (&json!("lan"), &json!("all"))
    );
    client.execute("cont", Value::Null);
    network.hello();
    let changed = client.expect_event("NIC_RX_FILTER_CHANGED");
    assert_eq!(changed.data["name"], "lan");
    let filter = &client.execute("query-rx-filter", json!({"name": "lan"}))[0];
    assert_eq!(
        *filter,
        json!({
            "name": "lan", "promiscuous": false, "multicast": "normal", "unicast": "normal",
            "vlan": "normal", "broadcast-allowed": true, "multicast-overflow": false,
            "unicast-overflow": false, "main-mac": GUEST_TEXT, "vlan-table": [5],
            "unicast-table": [], "multicast-table": ["33:33:00:00:00:01"],
        })
    );
    network.round_trip([0; HEADER], &experiment(GUEST, 100));
    // With the cable out a frame is lost, and with it in again the next is not.
    client.execute("set_link", json!({"name": "lan", "up": false}));
    let line = json!({"command-line": "info network"});
    let text = client.execute("human-monitor-command", line).to_string();
    assert!(
        text.contains("lan: index=0,type=nic") && text.contains("link=down"),
        "{text}"
    );
    network.send([0; HEADER], &experiment(GUEST, 101));
    wait_for(&mut client, "rx-dropped");
    client.execute("set_link", json!({"name": "lan", "up": true}));
    client.execute(
        "announce-self",
        json!({"initial": 50, "max": 550, "rounds": 5, "step": 50}),
    );
    network.round_trip([0; HEADER], &experiment(GUEST, 102));
    // Nothing passes any more, and then what has waited.
    let limits = json!({"id": "lan", "rx": {"bps": 1, "bps-burst": 1}, "tx": {}});
    client.execute("x-thimble-set-limits", limits);
    network.round_trip([0; HEADER], &experiment(GUEST, 103));
    network.send([0; HEADER], &experiment(GUEST, 104));
    wait_for(&mut client, "rx-throttled");
    client.execute("x-thimble-set-limits", json!({"id": "lan", "rx": {}}));
    assert_eq!(network.receive().1.len(), 104);
    for (command, arguments) in [
        ("set_link", json!({"name": "wan", "up": true})),
        ("query-rx-filter", json!({"name": "wan"})),
        ("x-thimble-set-limits", json!({"id": "wan"})),
    ] {
        let error = client.try_execute(command, arguments).unwrap_err();
        assert_eq!(error.desc, "Device 'wan' not found");
    }
    network.stop(&mut guest, GUEST);
}

/// Asks until a counter of the only card is no longer 0.
#[track_caller]
fn wait_for(client: &mut Client, name: &str) {
    let deadline = Deadline::after(LIMIT);
    while counter(client, name) == 0 {
        assert!(!deadline.left().is_zero(), "{name} stays 0");
    }
}

/// A counter of the only card.
#[track_caller]
fn counter(client: &mut Client, name: &str) -> u64 {
    let groups = client.execute("x-thimble-query-counters", Value::Null);
    let groups = groups.as_array().unwrap();
    let card = groups
        .iter()
        .find(|group| group["id"] == "/machine/peripheral/lan/virtio-backend");
    let counters = card.unwrap()["counters"].as_array().unwrap();
    let counter = counters.iter().find(|counter| counter["name"] == name);
    counter.unwrap()["value"].as_u64().unwrap()
}

#[test]
fn what_cannot_be_a_card_is_refused_with_a_remedy() {
    if without_taps() {
        return;
    }
    let _network = Network::new("", 1500);
    ip("tuntap add tun0 mode tun");
    let _busy = inheritable_tap();
    let busy: RawFd = _busy.as_raw_fd();
    for (net, mentions) in [
        (TAP, "another process uses this interface"),
        ("tun0", "is not a tap interface"),
        ("lo", "is not a tap interface"),
        ("fd=999", "fd=999: the descriptor is not open"),
    ] {
        refused(
            Launch::new().args(["--net", net]),
            status::FAILED,
            &["net0", mentions],
        );
    }
    ip("tuntap add tap1 mode tap");
    let several = Launch::new().args(["--net", "tap1,queues=2"]);
    refused(
        several,
        status::FAILED,
        &["was made for one queue", "multi_queue"],
    );
    let twice = format!("fd={busy}:{busy}");
    refused(
        Launch::new().args(["--net", &twice]),
        status::USAGE,
        &["same descriptor"],
    );
    if skip::without_program("setpriv") {
        return;
    }
    let nobody = ["setpriv", "--reuid", "65534", "--clear-groups"];
    let poor = Launch::under(&nobody).args(["--net", "tap1"]);
    refused(poor, status::FAILED, &["/dev/net/tun"]);
}
