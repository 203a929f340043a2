use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use super::host_fd::Direction;
use super::open::{Spec, open};
use super::output::RING_LEN;
use super::*;
use crate::bus::BusDevice;
use crate::irq::IrqLine;
use crate::legacy::serial::{Serial, SerialBackend};

/// What a broken test waits for at most.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

struct Bench {
    chardev: Chardev,
    output: Output,
    received: Vec<u8>,
}

impl Bench {
    fn new(backend: Backend) -> Self {
        let chardev = Chardev::new("serial0", backend).unwrap();
        let output = chardev.output();
        let mut bench = Self {
            chardev,
            output,
            received: Vec::new(),
        };
        bench.process(usize::MAX);
        bench
    }

    /// One round, for a chip that has `room` and, if it was filled, has room again right after.
    fn process(&mut self, room: usize) -> Activity {
        let before = self.received.len();
        let activity = self
            .chardev
            .process(Instant::now(), room, &mut self.received);
        let delivered = self.received.len() - before;
        assert!(delivered <= room);
        if delivered == room && room > 0 {
            self.output.input_wanted();
        }
        activity
    }

    fn put(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.output.put(*byte));
    }

    /// Puts bytes until there is no room, as a guest that looks first.
    fn fill(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while self.output.room() > 0 {
            let byte = (all.len() % 251) as u8;
            self.output.put(byte);
            all.push(byte);
        }
        all
    }

    /// Processes what becomes ready until `done`.
    fn run_until(&mut self, room: usize, mut done: impl FnMut(&mut Self) -> bool) {
        self.process(room);
        while !done(self) {
            assert!(is_ready(&self.chardev, &PATIENCE), "nothing happened");
            self.process(room);
        }
    }

    fn is_idle(&self) -> bool {
        !is_ready(&self.chardev, &Timespec::default())
    }

    fn filename(&self) -> String {
        self.chardev.info().filename
    }
}

fn is_ready(chardev: &Chardev, patience: &Timespec) -> bool {
    let watches = chardev.watches();
    let mut fds: Vec<PollFd<'_>> = watches
        .iter()
        .map(|watch| {
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::IN, watch.read);
            interest.set(PollFlags::OUT, watch.write);
            PollFd::from_borrowed_fd(watch.fd, interest)
        })
        .collect();
    poll(&mut fds, Some(patience)).unwrap() > 0
}

fn pipe() -> (File, File) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    (reader.into(), writer.into())
}

/// Stdio as pipes: what to write input to, what to read output from.
fn piped() -> (Bench, File, File) {
    let (input, keyboard) = pipe();
    let (screen, output) = pipe();
    let input = HostFd::shared(input.as_fd(), Direction::Input).unwrap();
    let output = HostFd::shared(output.as_fd(), Direction::Output).unwrap();
    (
        Bench::new(Backend::Stdio { input, output }),
        keyboard,
        screen,
    )
}

fn socket() -> (Bench, PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serial.sock");
    (
        Bench::new(open(&Spec::Socket(path.clone())).unwrap()),
        path,
        dir,
    )
}

fn read_exactly(from: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn null_takes_everything_and_keeps_nothing() {
    let mut b = Bench::new(open(&Spec::Null).unwrap());
    b.put(&[b'x'; 2 * RING_LEN]);
    assert_eq!((b.output.room(), b.chardev.dropped()), (RING_LEN, 0));
    assert!(b.is_idle() && b.received.is_empty());
    let info = b.chardev.info();
    assert_eq!(
        (info.label.as_str(), info.filename.as_str()),
        ("serial0", "null")
    );
    assert!(info.frontend_open);
}

#[test]
fn a_file_has_each_byte_at_once_and_errors_lose_bytes_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut b = Bench::new(open(&Spec::File(path.clone())).unwrap());
    b.put(b"boot");
    assert_eq!(std::fs::read(&path).unwrap(), b"boot");
    assert_eq!(b.filename(), format!("file:{}", path.display()));
    // Every write fails with ENOSPC.
    let mut b = Bench::new(open(&Spec::File("/dev/full".into())).unwrap());
    b.put(b"lost");
    assert_eq!((b.chardev.dropped(), b.output.room()), (4, RING_LEN));
    assert!(b.is_idle());
}

#[test]
fn stdio_is_lossless_to_a_slow_reader() {
    let (mut b, _keyboard, mut screen) = piped();
    b.put(b"prompt");
    assert_eq!(read_exactly(&mut screen, 6), b"prompt");
    assert!(b.is_idle());
    let sent = b.fill();
    assert_eq!((b.output.room(), b.chardev.deadline()), (0, None));
    assert!(!b.process(0).output_drained, "nobody has read");
    assert!(b.is_idle());
    let mut received = read_exactly(&mut screen, 4096);
    assert!(is_ready(&b.chardev, &PATIENCE));
    assert!(b.process(0).output_drained);
    assert!(b.output.room() > 0);
    while received.len() < sent.len() {
        let mut buffer = [0; 4096];
        let count = screen.read(&mut buffer).unwrap();
        received.extend_from_slice(&buffer[..count]);
        b.process(0);
    }
    assert!(received == sent);
    assert_eq!((b.output.room(), b.chardev.dropped()), (RING_LEN, 0));
    assert_eq!(b.filename(), "stdio");
}

#[test]
fn a_closed_stdout_discards() {
    let (mut b, _keyboard, screen) = piped();
    b.fill();
    drop(screen);
    b.run_until(0, |b| b.output.room() == RING_LEN);
    b.put(b"unheard");
    assert!(b.is_idle());
}

#[test]
fn a_full_stdout_loses_bytes_only() {
    let (null, full) = (File::open("/dev/null").unwrap(), full());
    let mut b = Bench::new(Backend::Stdio {
        input: HostFd::shared(null.as_fd(), Direction::Input).unwrap(),
        output: HostFd::shared(full.as_fd(), Direction::Output).unwrap(),
    });
    for lost in [4, 8] {
        b.put(b"lost");
        assert_eq!((b.chardev.dropped(), b.output.room()), (lost, RING_LEN));
    }
}

/// Every write fails with ENOSPC.
fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn input_waits_in_the_pipe_while_the_guest_has_no_room() {
    let (mut b, mut keyboard, _screen) = piped();
    keyboard.write_all(b"0123456789").unwrap();
    b.run_until(4, |b| !b.received.is_empty());
    assert_eq!(b.received, b"0123");
    // Unwanted, it wakes nobody, not even by its end.
    b.process(0);
    drop(keyboard);
    assert!(b.is_idle());
    b.output.input_wanted();
    b.run_until(100, |b| b.received.len() == 10);
    b.run_until(100, |b| b.is_idle());
    assert_eq!(b.received, b"0123456789");
}

#[test]
fn stdin_may_be_a_file() {
    let mut file = tempfile::tempfile().unwrap();
    let text: Vec<u8> = (0..20_000_u32).map(|i| (i % 253) as u8).collect();
    file.write_all(&text).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    let input = HostFd::shared(file.as_fd(), Direction::Input).unwrap();
    let output = HostFd::own(File::create("/dev/null").unwrap().into()).unwrap();
    let mut b = Bench::new(Backend::Stdio { input, output });
    b.run_until(1000, |b| b.received.len() > 10_000);
    // A guest without room stops it; one with room again starts it.
    b.process(0);
    b.process(0);
    assert!(b.is_idle());
    b.output.input_wanted();
    b.run_until(1000, |b| b.is_idle());
    assert!(b.received == text);
}

#[test]
fn a_terminal_escapes_even_when_the_guest_does_not_read() {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    let mut modes = rustix::termios::tcgetattr(&slave).unwrap();
    modes.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &modes).unwrap();
    let input = HostFd::shared(slave.as_fd(), Direction::Input).unwrap();
    let output = HostFd::shared(slave.as_fd(), Direction::Output).unwrap();
    let mut b = Bench::new(Backend::Stdio { input, output });
    let mut user: File = master.into();

    user.write_all(b"ls\x01\x01\x01z\r").unwrap();
    b.run_until(100, |b| b.received.len() == 4);
    assert_eq!(b.received, b"ls\x01\r");
    user.write_all(b"\x01h").unwrap();
    b.run_until(0, |_| {
        let mut fds = [PollFd::new(&user, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    });
    assert_eq!(read_exactly(&mut user, escape::HELP.len()), escape::HELP);
    // No room at the guest for any of it: the escape comes through all the same.
    user.write_all(b"typed ahead\x01x").unwrap();
    let mut quit = false;
    while !quit {
        assert!(is_ready(&b.chardev, &PATIENCE));
        quit = b.process(0).quit;
    }
    b.received.clear();
    b.process(5);
    b.process(100);
    assert_eq!(b.received, b"typed ahead");
}

#[test]
fn a_pty_without_users_discards_and_a_late_user_sees_what_was_said() {
    let mut b = Bench::new(open(&Spec::Pty).unwrap());
    let path = b.filename().strip_prefix("pty:").unwrap().to_owned();
    assert!(path.starts_with("/dev/pts/"), "{path}");
    b.put(&vec![b'-'; 2 * RING_LEN]);
    b.put(b"login: ");
    assert!(b.is_idle());
    assert_eq!((b.output.room(), b.chardev.dropped()), (RING_LEN, 0));

    for user in [b"root\r", b"back\r"] {
        let mut slave = File::options().read(true).write(true).open(&path).unwrap();
        let mut screen = Vec::new();
        b.run_until(0, |b| b.output.room() < RING_LEN);
        while !screen.ends_with(b"login: ") {
            b.process(0);
            screen.extend(read_exactly(&mut slave, 1));
        }
        assert_eq!(screen.len(), REPLAY_LEN);
        slave.write_all(user).unwrap();
        b.received.clear();
        b.run_until(100, |b| b.received == user);
        // What a user said last is heard, though gone.
        slave.write_all(b"bye").unwrap();
        drop(slave);
        b.run_until(100, |b| b.received.ends_with(b"bye"));
        b.run_until(100, |b| b.is_idle());
        assert_eq!(b.output.room(), RING_LEN);
    }
}

#[test]
fn a_pty_held_open_works_too() {
    let Backend::Pty { master, path, .. } = open(&Spec::Pty).unwrap() else {
        panic!()
    };
    let slave = File::options().read(true).write(true).open(&path).unwrap();
    let mut user = File::options().read(true).write(true).open(&path).unwrap();
    let slave = PtySlave::HeldOpen(slave.into());
    let mut b = Bench::new(Backend::Pty {
        master,
        slave,
        path,
    });
    b.put(b"hi");
    assert_eq!(read_exactly(&mut user, 2), b"hi");
    user.write_all(b"yo").unwrap();
    drop(user);
    b.run_until(100, |b| b.received == b"yo");
    b.run_until(100, |b| b.is_idle());
}

#[test]
fn socket_clients_take_turns_and_late_ones_get_a_replay() {
    let (mut b, path, _dir) = socket();
    let (connected, gone) = (
        format!("unix:{},server=on", path.display()),
        format!("disconnected:unix:{},server=on", path.display()),
    );
    assert_eq!(b.filename(), gone);
    b.put(b"early ");
    let mut first = UnixStream::connect(&path).unwrap();
    b.run_until(0, |b| b.filename() == connected);
    let mut second = UnixStream::connect(&path).unwrap();
    b.put(b"words");
    assert_eq!(read_exactly(&mut first, 11), b"early words");
    assert!(b.is_idle(), "the second client waits");
    let ids = |b: &Bench| b.chardev.watches().iter().map(|w| w.id).collect::<Vec<_>>();
    let first_ids = ids(&b);
    first.write_all(b"one").unwrap();
    second.write_all(b"two").unwrap();
    b.run_until(100, |b| b.received == b"one");
    drop(first);
    b.run_until(100, |b| b.received == b"onetwo");
    assert_eq!(read_exactly(&mut second, 11), b"early words");
    // Its descriptor may have the number of the first one's, in the same round.
    assert_ne!(ids(&b), first_ids);
    drop(second);
    b.run_until(100, |b| b.filename() == gone);
    b.put(&vec![b'.'; 3 * RING_LEN]);
    assert_eq!((b.output.room(), b.chardev.dropped()), (RING_LEN, 0));
    assert!(b.is_idle());
}

#[test]
fn a_client_that_only_wants_to_listen_may_close_its_side() {
    let (mut b, path, _dir) = socket();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"poweroff\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    b.run_until(100, |b| b.received == b"poweroff\n");
    b.run_until(100, |b| b.is_idle());
    b.put(b"bye");
    assert_eq!(read_exactly(&mut client, 3), b"bye");
    drop(client);
    b.run_until(100, |b| b.filename().starts_with("disconnected:"));
    assert!(b.is_idle());
}

#[test]
fn the_last_words_of_a_client_are_kept_for_the_guest() {
    let (mut b, path, _dir) = socket();
    let mut client = UnixStream::connect(&path).unwrap();
    b.process(0);
    client.write_all(&[b'w'; 10_000]).unwrap();
    drop(client);
    b.run_until(0, |b| b.filename().starts_with("disconnected:"));
    assert!(b.is_idle() && b.received.is_empty());
    while b.process(16) == Activity::default() && b.received.len() < 10_000 {}
    assert_eq!(b.received, [b'w'; 10_000]);
}

#[test]
fn a_client_that_does_not_read_holds_the_guest_only_so_long() {
    let (mut b, path, _dir) = socket();
    let mut client = UnixStream::connect(&path).unwrap();
    b.run_until(0, |b| !b.filename().starts_with("disconnected:"));
    assert_eq!(b.chardev.deadline(), None);
    let sent = b.fill();
    // The vCPU thread woke the main loop, which now has a deadline to keep.
    assert!(!b.is_idle());
    assert!(!b.process(0).output_drained);
    assert!(b.is_idle());
    let deadline = b.chardev.deadline().unwrap();
    assert!(deadline <= Instant::now() + STALL_LIMIT);
    let early = deadline - Duration::from_millis(1);
    assert!(!b.chardev.process(early, 0, &mut b.received).output_drained);
    assert_eq!(b.output.room(), 0);
    assert!(
        b.chardev
            .process(deadline, 0, &mut b.received)
            .output_drained
    );
    assert_eq!((b.output.room(), b.chardev.deadline()), (RING_LEN, None));
    // Dropped are the oldest that wait; the client will see the newest.
    b.put(&vec![b'!'; RING_LEN]);
    assert_eq!(b.chardev.dropped(), RING_LEN as u64);
    let in_flight = sent.len() - RING_LEN;
    let head = read_exactly(&mut client, in_flight);
    assert!(head == sent[..in_flight]);
    let reader = std::thread::spawn(move || (read_exactly(&mut client, RING_LEN), client));
    b.run_until(0, |b| !b.chardev.shared.outbound().is_waiting());
    let (tail, client) = reader.join().unwrap();
    assert!(tail.iter().all(|byte| *byte == b'!'));
    // It reads again, so it is waited for again.
    b.fill();
    assert!(b.chardev.deadline().is_some());
    // Gone while the guest waits: the guest is released.
    drop(client);
    let mut released = false;
    while !released {
        assert!(is_ready(&b.chardev, &PATIENCE));
        released = b.process(0).output_drained;
    }
    assert_eq!((b.output.room(), b.chardev.deadline()), (RING_LEN, None));
}

#[test]
fn a_burst_of_clients_that_are_gone_ends() {
    let (mut b, path, _dir) = socket();
    for _ in 0..5 {
        drop(UnixStream::connect(&path).unwrap());
    }
    b.run_until(0, |b| b.is_idle());
    assert!(b.filename().starts_with("disconnected:"));
}

/// An interrupt line that a guest thread waits on.
struct Bell(Mutex<mpsc::Sender<()>>);

impl IrqLine for Bell {
    fn raise(&self) -> io::Result<()> {
        // The guest has finished.
        let _ = self.0.lock().unwrap().send(());
        Ok(())
    }
}

/// A guest that writes by interrupt, sleeping when the transmitter is busy, against a reader that
/// is slower than it: through chip, device and socket every byte arrives, and nobody hangs.
#[test]
fn an_interrupt_driven_guest_and_a_slow_client_lose_nothing() {
    let (b, path, _dir) = socket();
    let mut chardev = b.chardev;
    let (bell, ring) = mpsc::channel();
    let chip = Serial::new(Arc::new(Bell(Mutex::new(bell))), Box::new(chardev.output()));
    let chip = Arc::new(Mutex::new(chip));
    let text: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();

    let mut client = UnixStream::connect(&path).unwrap();
    chardev.process(Instant::now(), 0, &mut Vec::new());
    let (guest_chip, guest_text) = (chip.clone(), text.clone());
    let guest = std::thread::spawn(move || {
        let write = |register, value| guest_chip.lock().unwrap().write(register, &[value]);
        let read = |register| {
            let mut data = [0];
            guest_chip.lock().unwrap().read(register, &mut data);
            data[0]
        };
        write(2, 0x01);
        write(1, 0x02);
        let mut chunks = guest_text.chunks(16);
        loop {
            ring.recv_timeout(Duration::from_secs(30))
                .expect("an interrupt was lost");
            while read(2) & 0x0f == 0x02 {
                let Some(chunk) = chunks.next() else { return };
                chunk.iter().for_each(|byte| write(0, *byte));
            }
        }
    });
    let len = text.len();
    let reader = std::thread::spawn(move || read_exactly(&mut client, len));
    while !(guest.is_finished() && reader.is_finished()) {
        // Short, because the threads' ends wake nobody.
        is_ready(
            &chardev,
            &Timespec {
                tv_sec: 0,
                tv_nsec: 10_000_000,
            },
        );
        let room = chip.lock().unwrap().input_room();
        if chardev
            .process(Instant::now(), room, &mut Vec::new())
            .output_drained
        {
            chip.lock().unwrap().output_drained();
        }
    }
    guest.join().unwrap();
    assert!(reader.join().unwrap() == text);
    assert_eq!(chardev.dropped(), 0);
}

#[test]
fn a_replay_that_does_not_go_out_at_once_costs_the_guest_nothing() {
    let mut b = Bench::new(open(&Spec::Pty).unwrap());
    let path = b.filename().strip_prefix("pty:").unwrap().to_owned();
    b.put(&[b'-'; RING_LEN]);
    let mut slave = File::options().read(true).write(true).open(&path).unwrap();
    b.run_until(0, |b| b.output.room() < RING_LEN);
    // A guest that saw the transmitter empty just before.
    b.put(b"0123456789abcdef");
    assert_eq!(b.chardev.dropped(), 0);
    let mut screen = Vec::new();
    while !screen.ends_with(b"abcdef") {
        b.process(0);
        screen.extend(read_exactly(&mut slave, 1));
    }
    assert!(screen.ends_with(b"--0123456789abcdef"));
}
