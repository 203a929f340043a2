//! The legacy chips with everything outside them played by counters.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use devices::events::{EventSink, GuestEvent};
use devices::irq::IrqLine;
use devices::legacy::i8042::I8042;
use devices::legacy::panic::PvPanic;
use devices::legacy::power::PowerBlock;
use devices::legacy::rtc::Rtc;
use devices::legacy::serial::{Serial, SerialBackend};

/// What is outside the chips.
#[derive(Debug, Default)]
pub struct Outside {
    /// Bytes the serial port's backend takes.
    pub room: AtomicUsize,
    /// Bytes it was given beyond its room.
    pub overrun: AtomicUsize,
    /// The host's clock, in milliseconds since 1970.
    pub now: AtomicU64,
}

impl IrqLine for Outside {
    fn raise(&self) -> io::Result<()> {
        Ok(())
    }
}

impl EventSink for Outside {
    fn raise(&self, event: GuestEvent) {
        assert!(!matches!(
            event,
            GuestEvent::BlockIoError(_)
                | GuestEvent::NicRxFilterChanged { .. }
                | GuestEvent::DeviceNeedsReset { .. }
        ));
    }
}

struct Backend(Arc<Outside>);

impl SerialBackend for Backend {
    fn room(&self) -> usize {
        self.0.room.load(Ordering::Relaxed)
    }

    fn put(&mut self, _byte: u8) {
        let room = self.0.room.load(Ordering::Relaxed);
        match room.checked_sub(1) {
            Some(left) => self.0.room.store(left, Ordering::Relaxed),
            None => drop(self.0.overrun.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn input_wanted(&mut self) {}
}

/// One of each chip.
pub struct Chips {
    /// COM1.
    pub serial: Serial,
    /// The clock.
    pub rtc: Rtc,
    /// The keyboard controller.
    pub i8042: I8042,
    /// The power block.
    pub power: PowerBlock,
    /// The panic port.
    pub panic: PvPanic,
}

impl Chips {
    /// Chips after power-on.
    pub fn new(outside: &Arc<Outside>) -> Self {
        let clock = Arc::clone(outside);
        let clock = move || Duration::from_millis(clock.now.load(Ordering::Relaxed));
        Self {
            serial: Serial::new(outside.clone(), Box::new(Backend(outside.clone()))),
            rtc: Rtc::new(Box::new(clock), Some(Box::new(|_| {}))),
            i8042: I8042::new(outside.clone()),
            power: PowerBlock::new(outside.clone(), outside.clone()),
            panic: PvPanic::new(outside.clone()),
        }
    }
}
