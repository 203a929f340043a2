use std::sync::Mutex;

use proptest::prelude::*;

use super::super::conformance::{
    Edges, read_byte, refuses, reset_twice, save_restore_save, survives_hostile_accesses,
};
use super::*;

/// A backend that takes what it has room for.
#[derive(Default)]
struct Line {
    sent: Vec<u8>,
    room: usize,
    input_wanted: usize,
}

#[derive(Clone)]
struct SharedLine(Arc<Mutex<Line>>);

impl SerialBackend for SharedLine {
    fn room(&self) -> usize {
        self.0.lock().unwrap().room
    }
    fn put(&mut self, byte: u8) {
        let mut line = self.0.lock().unwrap();
        line.room = line.room.checked_sub(1).expect("a byte without room");
        line.sent.push(byte);
    }
    fn input_wanted(&mut self) {
        self.0.lock().unwrap().input_wanted += 1;
    }
}

struct Bench {
    chip: Serial,
    irq: Arc<Edges>,
    line: SharedLine,
}

fn bench() -> Bench {
    let irq = Edges::new();
    let line = SharedLine(Arc::default());
    line.0.lock().unwrap().room = 1_000_000;
    Bench {
        chip: Serial::new(irq.clone(), Box::new(line.clone())),
        irq,
        line,
    }
}

impl Bench {
    fn get(&mut self, register: u64) -> u8 {
        read_byte(&mut self.chip, register)
    }
    fn set(&mut self, register: u64, value: u8) {
        self.chip.write(register, &[value]);
    }
    fn sent(&self) -> Vec<u8> {
        std::mem::take(&mut self.line.0.lock().unwrap().sent)
    }
    fn make_room(&mut self, room: usize) {
        self.line.0.lock().unwrap().room = room;
        self.chip.output_drained();
    }
    fn iir(&mut self) -> u8 {
        self.get(IIR_FCR) & !IIR_FIFOS
    }
    fn transmitter_ready(&mut self) -> bool {
        let both = LSR_THR_EMPTY | LSR_IDLE;
        let lsr = self.get(LSR) & both;
        assert!(lsr == 0 || lsr == both);
        lsr == both
    }
}

#[test]
fn linux_takes_it_for_a_16550a() {
    let mut b = bench();
    // drivers/tty/serial/8250: autoconfig. Interrupt enable exists and has four bits.
    b.set(IER, 0);
    assert_eq!(b.get(IER), 0);
    b.set(IER, 0xff);
    assert_eq!(b.get(IER), 0x0f);
    b.set(IER, 0);
    // Loopback returns modem outputs as inputs.
    b.set(MCR, MCR_LOOPBACK | 0x0a);
    assert_eq!(b.get(MSR) & 0xf0, 0x90);
    b.set(MCR, 0);
    // FIFOs show as working; no 64-byte FIFO (16750).
    b.set(IIR_FCR, FCR_ENABLE);
    assert_eq!(b.get(IIR_FCR) >> 6, 3);
    b.set(IIR_FCR, FCR_ENABLE | 0x20);
    assert_eq!(b.get(IIR_FCR) & 0x20, 0);
    // No enhanced feature register behind LCR 0xBF.
    b.set(LCR, 0xbf);
    assert_ne!(b.get(IIR_FCR), 0);
    b.set(LCR, 0x03);
    // The divisor keeps its value, and the scratch register is one.
    b.set(LCR, 0x83);
    b.set(DATA, 0x34);
    b.set(IER, 0x12);
    assert_eq!((b.get(DATA), b.get(IER)), (0x34, 0x12));
    b.set(LCR, 0x03);
    assert_eq!(b.get(IER), 0);
    b.set(7, 0xa5);
    assert_eq!(b.get(7), 0xa5);
    assert!(b.sent().is_empty());
}

#[test]
fn linux_finds_no_transmitter_bug() {
    let mut b = bench();
    // serial8250_THRE_test: the interrupt comes each time it is enabled.
    b.set(IER, IER_THR_EMPTY);
    assert_eq!(b.iir(), IIR_THR_EMPTY);
    assert_eq!(b.iir(), IIR_NONE);
    b.set(IER, 0);
    b.set(IER, IER_THR_EMPTY);
    assert_eq!(b.iir(), IIR_THR_EMPTY);
    b.set(IER, 0);
    assert_eq!(b.irq.take(), 2);
    // The TXEN test: enabled with an empty transmitter, it is pending at once.
    b.set(IER, IER_THR_EMPTY);
    assert!(b.transmitter_ready());
    assert_eq!(b.iir(), IIR_THR_EMPTY);
}

#[test]
fn every_sent_byte_is_an_onset() {
    let mut b = bench();
    b.set(DATA, b'a');
    assert_eq!(b.irq.take(), 0, "not enabled");
    b.set(IER, IER_THR_EMPTY);
    assert_eq!(b.irq.take(), 1);
    // Not acknowledged, because it came while the line was masked, say: still one per byte.
    b.set(DATA, b'b');
    b.set(DATA, b'c');
    assert_eq!(b.irq.take(), 2);
    assert_eq!(b.iir(), IIR_THR_EMPTY);
    assert_eq!(b.iir(), IIR_NONE);
    // Enabling what is enabled is none.
    b.set(IER, IER_THR_EMPTY);
    assert_eq!(b.irq.take(), 0);
    assert_eq!(b.sent(), b"abc");
}

#[test]
fn a_full_backend_holds_the_guest_off_until_it_drains() {
    let mut b = bench();
    b.set(IIR_FCR, FCR_ENABLE);
    b.set(IER, IER_THR_EMPTY);
    b.make_room(FIFO_LEN + 1);
    b.irq.take();
    b.set(DATA, b'0');
    assert!(b.transmitter_ready());
    assert_eq!((b.irq.take(), b.iir()), (1, IIR_THR_EMPTY));
    // A driver that saw it empty may write a whole FIFO. It all arrives, and then it is busy.
    for i in 0..FIFO_LEN {
        b.set(DATA, b'a' + i as u8);
        assert!(!b.transmitter_ready());
        assert_eq!((b.irq.take(), b.iir()), (0, IIR_NONE));
    }
    assert_eq!(b.sent(), b"0abcdefghijklmnop");
    // Enabling the interrupt anew does not make it come.
    b.set(IER, 0);
    b.set(IER, IER_THR_EMPTY);
    assert_eq!((b.irq.take(), b.iir()), (0, IIR_NONE));
    // A byte more is lost, not put.
    b.set(DATA, b'!');
    // Less room than a FIFO is not enough; a FIFO's worth is.
    b.make_room(FIFO_LEN - 1);
    assert_eq!((b.irq.take(), b.iir()), (0, IIR_NONE));
    b.make_room(FIFO_LEN);
    assert_eq!((b.irq.take(), b.iir()), (1, IIR_THR_EMPTY));
    assert!(b.transmitter_ready());
    b.chip.output_drained();
    assert_eq!(b.irq.take(), 0);
    assert!(b.sent().is_empty());
}

#[test]
fn a_polling_guest_sees_room_even_if_nobody_says_so() {
    let mut b = bench();
    b.make_room(FIFO_LEN);
    b.set(DATA, b'x');
    assert!(!b.transmitter_ready());
    b.line.0.lock().unwrap().room = FIFO_LEN;
    assert!(b.transmitter_ready());
}

#[test]
fn a_well_behaved_guest_loses_nothing_to_a_slow_reader() {
    let text: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
    let mut b = bench();
    b.set(IIR_FCR, FCR_ENABLE);
    b.make_room(40);
    let (mut rest, mut received) = (text.as_slice(), Vec::new());
    while !rest.is_empty() {
        if b.transmitter_ready() {
            let (now, later) = rest.split_at(rest.len().min(FIFO_LEN));
            for byte in now {
                b.set(DATA, *byte);
            }
            rest = later;
        } else {
            // The reader takes a few bytes.
            received.extend(b.sent());
            let room = b.line.0.lock().unwrap().room;
            b.make_room((room + 7).min(40));
        }
    }
    received.extend(b.sent());
    assert_eq!(received, text);
}

#[test]
fn input_fills_the_fifo_and_interrupts() {
    let mut b = bench();
    b.set(IIR_FCR, FCR_ENABLE | (2 << FCR_TRIGGER_SHIFT));
    assert_eq!(b.chip.input(b"abc"), 3);
    assert_eq!((b.irq.take(), b.iir()), (0, IIR_NONE));
    assert_eq!(b.get(LSR) & LSR_DATA_READY, LSR_DATA_READY);
    b.set(IER, IER_RECEIVED);
    assert_eq!((b.irq.take(), b.iir()), (1, IIR_TIMEOUT));
    b.chip.input(b"defgh");
    assert_eq!((b.irq.take(), b.iir()), (1, IIR_RECEIVED));
    for expected in b"abcdefgh" {
        assert_eq!(b.get(DATA), *expected);
    }
    assert_eq!(
        (b.get(LSR) & LSR_DATA_READY, b.iir(), b.get(DATA)),
        (0, IIR_NONE, 0)
    );
    assert_eq!(b.irq.take(), 0);
}

#[test]
fn more_than_a_fifo_waits_and_each_refill_is_an_onset() {
    let mut b = bench();
    b.set(IIR_FCR, FCR_ENABLE);
    b.set(IER, IER_RECEIVED);
    let text: Vec<u8> = (0..40).collect();
    assert_eq!(b.chip.input(&text), 40);
    assert_eq!(b.irq.take(), 1);
    // A guest that reads exactly one FIFO per interrupt gets all.
    let mut got = Vec::new();
    for (count, edges) in [(16, 1), (16, 1), (8, 0)] {
        got.extend((0..count).map(|_| b.get(DATA)));
        assert_eq!(b.irq.take(), edges);
    }
    assert_eq!(got, text);
    // Without FIFOs the same, byte by byte.
    b.set(IIR_FCR, 0);
    b.chip.input(b"xyz");
    assert_eq!(
        [b.get(DATA), b.get(DATA), b.get(DATA), b.get(DATA)],
        [b'x', b'y', b'z', 0]
    );
}

#[test]
fn the_host_is_called_back_when_its_input_found_no_room() {
    let mut b = bench();
    b.set(IIR_FCR, FCR_ENABLE);
    let text = vec![b'x'; INPUT_QUEUE_LEN + FIFO_LEN];
    assert_eq!(b.chip.input(&text), INPUT_QUEUE_LEN);
    assert_eq!(b.chip.input(&text), FIFO_LEN);
    assert_eq!((b.chip.input_room(), b.chip.input(b"y")), (0, 0));
    for _ in 0..INPUT_QUEUE_LEN / 2 - 1 {
        b.get(DATA);
    }
    assert_eq!(b.line.0.lock().unwrap().input_wanted, 0);
    for _ in 0..INPUT_QUEUE_LEN {
        b.get(DATA);
    }
    assert_eq!(b.line.0.lock().unwrap().input_wanted, 1);
    // Nobody was refused: no call.
    b.chip.input(b"z");
    b.get(DATA);
    assert_eq!(b.line.0.lock().unwrap().input_wanted, 1);
    // Filled to the brim, though nothing was refused: a caller that knows the room stops by itself.
    let room = b.chip.input_room();
    assert_eq!(b.chip.input(&text[..room]), room);
    for _ in 0..text.len() {
        b.get(DATA);
    }
    assert_eq!(b.line.0.lock().unwrap().input_wanted, 2);
    // A reset makes room too.
    b.chip.input(&text);
    b.chip.reset();
    assert_eq!(b.line.0.lock().unwrap().input_wanted, 3);
}

#[test]
fn clearing_the_fifo_keeps_what_has_not_arrived() {
    let mut b = bench();
    b.set(IIR_FCR, FCR_ENABLE);
    b.chip.input(b"0123456789abcdefXY");
    b.set(IIR_FCR, FCR_ENABLE | FCR_CLEAR_RECEIVER);
    assert_eq!([b.get(DATA), b.get(DATA), b.get(DATA)], [b'X', b'Y', 0]);
}

#[test]
fn causes_are_identified_by_priority_and_none_is_forgotten() {
    let mut b = bench();
    b.set(IIR_FCR, FCR_ENABLE);
    b.set(MCR, MCR_LOOPBACK);
    b.get(MSR);
    b.set(IER, IER_MASK);
    b.set(MCR, MCR_LOOPBACK | MCR_RTS);
    for byte in 0..=FIFO_LEN as u8 {
        b.set(DATA, byte);
    }
    b.irq.take();
    assert_eq!(b.iir(), IIR_LINE);
    assert_eq!(
        b.get(LSR) & (LSR_OVERRUN | LSR_DATA_READY),
        LSR_OVERRUN | LSR_DATA_READY
    );
    assert_eq!((b.irq.take(), b.iir()), (1, IIR_RECEIVED));
    for byte in 0..FIFO_LEN as u8 {
        assert_eq!(b.get(DATA), byte);
    }
    assert_eq!(b.irq.take(), 1);
    assert_eq!(b.iir(), IIR_THR_EMPTY);
    assert_eq!((b.irq.take(), b.iir()), (1, IIR_MODEM));
    assert_eq!(b.get(MSR), MSR_CTS | MSR_DELTA_CTS);
    assert_eq!((b.irq.take(), b.iir()), (0, IIR_NONE));
    assert_eq!((b.get(LSR) & LSR_OVERRUN, b.get(MSR)), (0, MSR_CTS));
    assert!(b.sent().is_empty(), "looped back, not sent");
}

#[test]
fn modem_changes_are_recorded_as_the_data_sheet_says() {
    let mut b = bench();
    assert_eq!(b.get(MSR), MSR_CTS | MSR_DSR | MSR_DCD);
    b.set(MCR, MCR_LOOPBACK | MCR_OUT1);
    // CTS, DSR and DCD fell; RI rose, which is no event.
    assert_eq!(
        b.get(MSR),
        MSR_RI | MSR_DELTA_CTS | MSR_DELTA_DSR | MSR_DELTA_DCD
    );
    b.set(MCR, MCR_LOOPBACK);
    assert_eq!(b.get(MSR), MSR_RING_ENDED);
    b.set(MCR, 0xff);
    assert_eq!(b.get(MCR), 0x1f);
}

#[test]
fn host_input_waits_while_looped_back() {
    let mut b = bench();
    b.set(MCR, MCR_LOOPBACK);
    b.chip.input(b"host");
    assert_eq!(b.get(LSR) & LSR_DATA_READY, 0);
    b.set(DATA, b'g');
    assert_eq!((b.get(DATA), b.get(DATA)), (b'g', 0));
    b.set(MCR, 0);
    assert_eq!(b.get(DATA), b'h');
}

#[test]
fn a_wide_access_is_byte_accesses() {
    let mut b = bench();
    b.chip.write(DATA, &[b'w', IER_RECEIVED, FCR_ENABLE, 0x1b]);
    assert_eq!(b.sent(), b"w");
    let mut data = [0xee; 4];
    b.chip.read(DATA, &mut data);
    assert_eq!(data, [0, IER_RECEIVED, IIR_FIFOS | IIR_NONE, 0x1b]);
}

#[test]
fn a_restored_chip_meets_another_backend() {
    // Held off when saved, room when restored: the guest must hear of it.
    let mut old = bench();
    old.set(IER, IER_THR_EMPTY);
    old.make_room(FIFO_LEN);
    old.set(DATA, b'x');
    let mut new = bench();
    new.chip.restore(&old.chip.save()).unwrap();
    new.chip.reassert_interrupt();
    assert!(new.irq.take() >= 1);
    assert_eq!(new.iir(), IIR_THR_EMPTY);
    // The other way round it must be held off.
    let mut full = bench();
    full.make_room(3);
    full.chip.restore(&new.chip.save()).unwrap();
    full.chip.reassert_interrupt();
    assert!(!full.transmitter_ready());
    assert_eq!(full.irq.take(), 0);
    // Input under way interrupts again.
    let mut typed = bench();
    typed.set(IER, IER_RECEIVED);
    typed.chip.input(b"ab");
    let mut new = bench();
    new.chip.restore(&typed.chip.save()).unwrap();
    new.chip.reassert_interrupt();
    assert_eq!(new.irq.take(), 1);
    assert_eq!((new.get(DATA), new.get(DATA)), (b'a', b'b'));
}

#[test]
fn conforms() {
    let mut b = bench();
    b.chip.input(&[7; 1000]);
    survives_hostile_accesses(&mut b.chip, SERIAL_LEN);
    b.make_room(5);
    survives_hostile_accesses(&mut b.chip, SERIAL_LEN);
    b.chip.input(&[8; 100]);
    save_restore_save(&b.chip, &mut bench().chip);
    let fresh = bench().chip.save();
    b.make_room(1000);
    reset_twice(&mut b.chip, Serial::reset, &fresh);

    let good = || bench().chip.save();
    let chip = &mut b.chip;
    refuses(
        chip,
        &SerialState {
            ier: 0x10,
            ..good()
        },
        "ier",
    );
    refuses(
        chip,
        &SerialState {
            fcr: 0x02,
            ..good()
        },
        "fcr",
    );
    refuses(
        chip,
        &SerialState {
            mcr: 0x20,
            ..good()
        },
        "mcr",
    );
    refuses(
        chip,
        &SerialState {
            modem_deltas: 0x10,
            ..good()
        },
        "modem_deltas",
    );
    refuses(
        chip,
        &SerialState {
            fifo: vec![0; 2],
            ..good()
        },
        "fifo",
    );
    refuses(
        chip,
        &SerialState {
            fcr: 1,
            fifo: vec![0; 17],
            ..good()
        },
        "fifo",
    );
    refuses(
        chip,
        &SerialState {
            queue: vec![0; INPUT_QUEUE_LEN + 1],
            ..good()
        },
        "queue",
    );
}

/// Something the guest or the host does to the chip.
#[derive(Debug, Clone)]
enum Step {
    Read(u64),
    Write(u64, u8),
    Input(usize),
    Room(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..SERIAL_LEN).prop_map(Step::Read),
        4 => (0..SERIAL_LEN, any::<u8>()).prop_map(|(register, value)| Step::Write(register, value)),
        // The divisor latch hides the registers that matter most.
        1 => Just(Step::Write(LCR, 0x03)),
        1 => (0..2 * INPUT_QUEUE_LEN).prop_map(Step::Input),
        2 => (0..3 * FIFO_LEN).prop_map(Step::Room),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_no_interrupt_and_no_byte_is_lost(
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut b = bench();
        b.make_room(FIFO_LEN);
        for step in steps {
            let before = b.chip.cause();
            b.irq.take();
            match step {
                Step::Read(LSR) => {
                    let ready = b.get(LSR) & LSR_THR_EMPTY != 0;
                    let room = b.line.0.lock().unwrap().room;
                    prop_assert!(!ready || room >= FIFO_LEN || b.chip.loopback());
                }
                Step::Read(register) => {
                    b.get(register);
                }
                Step::Write(register, value) => b.set(register, value),
                Step::Input(len) => {
                    let room = b.chip.input_room();
                    prop_assert_eq!(b.chip.input(&vec![0; len]), len.min(room));
                }
                Step::Room(room) => {
                    // Room grows until the guest writes.
                    let room = room.max(b.line.0.lock().unwrap().room);
                    b.make_room(room);
                }
            }
            let after = b.chip.cause();
            // The pin rose, or stayed up for another cause: the line saw an edge. (The same
            // receive cause crossing its trigger level downwards is no onset.)
            if after.is_some() && before.is_none() {
                prop_assert!(b.irq.take() > 0, "{:?} to {:?}", before, after);
            }
            prop_assert!(b.chip.fifo.len() <= FIFO_LEN);
            prop_assert!(b.chip.queue.len() <= INPUT_QUEUE_LEN);
            // Nobody waits for nothing: bytes for the guest are in the FIFO, room is shown.
            let waiting = !b.chip.queue.is_empty() && b.chip.fifo.is_empty();
            prop_assert!(!waiting || b.chip.loopback());
        }
        save_restore_save(&b.chip, &mut bench().chip);
    }
}
