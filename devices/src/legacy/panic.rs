//! pvpanic, port 0x505: how a guest says that it panicked.
//!
//! Called on vCPU threads. QEMU, docs/specs/pvpanic: a read gives the supported events, a write
//! raises one. The chip has no state, hence no saved form and no reset.

use std::sync::Arc;

use crate::bus::BusDevice;
use crate::events::{EventSink, GuestEvent};
use crate::limited_warn;

/// Ports the chip takes.
pub const PVPANIC_LEN: u64 = 1;

/// The guest panicked.
const PANICKED: u8 = 1 << 0;
/// The guest panicked and its crash kernel takes over.
const CRASH_LOADED: u8 = 1 << 1;
/// The guest wants to be powered off.
const SHUTDOWN: u8 = 1 << 2;

/// The events the chip understands, as a read shows them.
const SUPPORTED: u8 = PANICKED | CRASH_LOADED | SHUTDOWN;

/// The chip.
pub struct PvPanic {
    events: Arc<dyn EventSink>,
}

impl PvPanic {
    /// A chip that raises its events at `events`.
    #[must_use]
    pub fn new(events: Arc<dyn EventSink>) -> Self {
        Self { events }
    }
}

impl BusDevice for PvPanic {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        if let Some(byte) = data.first_mut() {
            *byte = SUPPORTED;
        }
    }

    /// One write raises one event: of several bits the gravest counts.
    fn write(&mut self, _offset: u64, data: &[u8]) {
        let value = data.first().copied().unwrap_or(0);
        if value & !SUPPORTED != 0 {
            limited_warn!("pvpanic: the guest raised unknown events {value:#04x}");
        }
        if value & PANICKED != 0 {
            self.events.raise(GuestEvent::Panicked);
        } else if value & CRASH_LOADED != 0 {
            self.events.raise(GuestEvent::CrashLoaded);
        } else if value & SHUTDOWN != 0 {
            self.events.raise(GuestEvent::PvShutdown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Events, read_byte, survives_hostile_accesses};
    use super::*;

    #[test]
    fn a_read_shows_what_a_write_may_raise() {
        let events = Events::new();
        let mut chip = PvPanic::new(events.clone());
        assert_eq!(read_byte(&mut chip, 0), 0b111);
        for (value, event) in [
            (0b001, GuestEvent::Panicked),
            (0b010, GuestEvent::CrashLoaded),
            (0b100, GuestEvent::PvShutdown),
            (0b111, GuestEvent::Panicked),
            (0b110, GuestEvent::CrashLoaded),
            (0b1111_0100, GuestEvent::PvShutdown),
        ] {
            chip.write(0, &[value]);
            assert_eq!(events.take(), [event], "{value:#b}");
        }
        chip.write(0, &[0]);
        chip.write(0, &[0xf8]);
        assert_eq!(events.take(), []);
    }

    #[test]
    fn conforms() {
        survives_hostile_accesses(&mut PvPanic::new(Events::new()), PVPANIC_LEN);
    }
}
