//! Test guest: a virtio network card. Says hello, then sends every frame back to where it came
//! from, with its header, until one begins with `stop`.
//!
//! Frames of interest have a payload type of 0x88b5, or are IPv4. Command line: `mac=ADDRESS` and
//! `mtu=N` if the card is to have those; `plain` to agree on no more than every driver must;
//! `filter` to receive only what is for the card; `hostile` to break every rule first.
#![no_std]
#![no_main]

use rt::clock::Deadline;
use rt::memory::{PAGE, Region};
use rt::virtio::net::{FRAME_MAX, HEADER, Net};
use rt::virtio::queue::Segment;
use rt::virtio::{self, DEVICE_NET, NEEDS_RESET};
use rt::{boot_info, test, test_report};

rt::entry!(main, "net\n");

/// How long the device may take to give up on a hostile driver.
const PATIENCE_MS: u64 = 3000;
/// Offsets in a frame behind its header.
const TO: usize = HEADER;
const FROM: usize = HEADER + 6;
const TYPE: usize = HEADER + 12;
const PAYLOAD: usize = HEADER + 14;

fn main() {
    run();
    test_report::done();
}

fn says(word: &str) -> bool {
    boot_info::command_line()
        .split_ascii_whitespace()
        .any(|said| said == word)
}

fn run() {
    let Some(transport) = virtio::find(DEVICE_NET) else {
        test!("find", false, "no network card");
        return;
    };
    if says("hostile") {
        hostile(transport);
    }
    let without = if says("plain") { u64::MAX } else { 0 };
    let mut net = match Net::new(transport, without) {
        Ok(net) => net,
        Err(error) => {
            test!("set_up", false, "{error:?}");
            return;
        }
    };
    test!("features", true, "{:#x}", net.features());
    let mac = identity(&net);
    if !says("plain") {
        commands(&mut net, mac);
    }
    let mut hello = [0; HEADER + 60];
    hello[TO..FROM].fill(0xff);
    hello[FROM..TYPE].copy_from_slice(&mac);
    hello[TYPE..PAYLOAD].copy_from_slice(&[0x88, 0xb5]);
    hello[PAYLOAD..PAYLOAD + 5].copy_from_slice(b"hello");
    let sent = net.send(&hello);
    test!("hello", sent.is_ok(), "{sent:?}");
    echo(&mut net, mac);
    net.transport().reset();
}

fn identity(net: &Net) -> [u8; 6] {
    let transport = net.transport();
    let mut mac = [0; 6];
    for (offset, byte) in (0..).zip(&mut mac) {
        *byte = transport.config8(offset);
    }
    let own = mac[0] & 3 == 2;
    let wanted = boot_info::option("mac").is_none_or(|text| {
        let mut octets = text.split(':').map(|pair| u8::from_str_radix(pair, 16));
        mac.iter().all(|byte| octets.next() == Some(Ok(*byte)))
    });
    test!("mac", own && wanted, "{mac:02x?}");
    let status = transport.config16(6);
    test!("link", status == 1, "{status:#x}");
    let mtu = transport.config16(10);
    let wanted = boot_info::number("mtu").unwrap_or(0);
    test!("mtu", u64::from(mtu) == wanted, "{mtu}");
    mac
}

/// One command of each class, and some that are to be refused.
fn commands(net: &mut Net, mac: [u8; 6]) {
    let one = [1, 0, 0, 0, 0x33, 0x33, 0, 0, 0, 1];
    let tables = [&[0; 4][..], &one].concat_into();
    let promiscuous = u8::from(!says("filter"));
    let cases: [(&str, u8, u8, &[u8], u8); 11] = [
        ("promiscuous", 0, 0, &[promiscuous], 0),
        ("all_multicast", 0, 1, &[0], 0),
        ("no_broadcast", 0, 5, &[0], 0),
        ("mac_tables", 1, 0, &tables, 0),
        ("mac_set", 1, 1, &mac, 0),
        ("vlan", 2, 0, &[5, 0], 0),
        ("no_such_vlan", 2, 0, &[0, 0x10], 1),
        ("announced", 3, 0, &[], 0),
        ("no_such_class", 99, 0, &[0], 1),
        ("cut_short", 0, 0, &[], 1),
        ("too_many_pairs", 4, 0, &[99, 0], 1),
    ];
    for (name, class, command, data, wanted) in cases {
        let answer = net.command(class, command, data);
        test!(name, answer == Ok(wanted), "{answer:?}");
    }
}

/// Two pieces as one, without an allocator.
trait ConcatInto {
    fn concat_into(&self) -> [u8; 14];
}

impl ConcatInto for [&[u8]; 2] {
    fn concat_into(&self) -> [u8; 14] {
        let mut whole = [0; 14];
        let bytes = self.iter().flat_map(|part| part.iter());
        whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        whole
    }
}

/// A frame with room for the longest.
static mut FRAME: [u8; FRAME_MAX] = [0; FRAME_MAX];

fn echo(net: &mut Net, mac: [u8; 6]) {
    // SAFETY: only here, once, and on the one processor.
    let frame = unsafe { &mut *(&raw mut FRAME) };
    let (mut frames, mut buffers) = (0_u32, 0_u32);
    loop {
        let (length, count) = match net.receive(frame) {
            Ok(received) => received,
            Err(error) => {
                test!("receive", false, "after {frames} frames: {error:?}");
                return;
            }
        };
        let kind = [frame[TYPE], frame[TYPE + 1]];
        if kind != [0x88, 0xb5] && kind != [8, 0] {
            continue;
        }
        frames += 1;
        buffers += u32::from(count);
        let last = frame[PAYLOAD..].starts_with(b"stop");
        frame.copy_within(FROM..TYPE, TO);
        frame[FROM..TYPE].copy_from_slice(&mac);
        // The number of buffers is the device's to set.
        frame[10..12].fill(0);
        // What the device says of a checksum that it has checked is of no use to the other side.
        frame[0] &= 1;
        let sent = net.send(&frame[..length]);
        if last || sent.is_err() {
            test!("echo", sent.is_ok(), "{frames} frames in {buffers} buffers: {sent:?}");
            return;
        }
    }
}

/// What no driver may do, one thing at a time.
fn hostile(transport: virtio::Transport) {
    let page = Region::allocate(PAGE);
    let piece = |length: u32, device_writes: bool| Segment {
        address: page.address(),
        length,
        device_writes,
    };
    let nowhere = Segment {
        address: 0xe000_0000,
        ..piece(100, true)
    };
    let cases: [(&str, u32, Segment); 6] = [
        ("receive_readable", 0, piece(100, false)),
        ("receive_short", 0, piece(11, true)),
        ("receive_nowhere", 0, nowhere),
        ("send_writable", 1, piece(100, true)),
        ("send_short", 1, piece(11, false)),
        ("control_no_answer", 2, piece(3, false)),
    ];
    for (name, index, segment) in cases {
        let broken = (|| {
            transport.negotiate(u64::MAX >> 40)?;
            let mut queue = transport.set_up_queue(index)?;
            transport.driver_ok();
            queue.submit(&[segment]);
            transport.notify(index);
            Ok::<_, virtio::Error>(())
        })();
        let deadline = Deadline::after_ms(PATIENCE_MS);
        while transport.status() & NEEDS_RESET == 0 && !deadline.passed() {
            core::hint::spin_loop();
        }
        let stopped = transport.status() & NEEDS_RESET != 0;
        test!(name, stopped && broken.is_ok(), "{broken:?}");
        transport.reset();
    }
}
