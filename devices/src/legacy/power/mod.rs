//! The power block of `thimble-1`: what a hardware-reduced ACPI machine has instead of PM
//! registers. One page of memory-mapped I/O.
//!
//! Register accesses come on vCPU threads; [`PowerBlock::press_power_button`] and
//! [`PowerBlock::generation_changed`] on the main thread.
//!
//! | offset | size | register | ACPI 6.5 |
//! | --- | --- | --- | --- |
//! | 0x00 | 4 | event selector: pending events, cleared by the read | 5.6.9 (generic event device) |
//! | 0x10 | 1 | sleep control: bit 5 enable, bits 4:2 type | 4.8.3.7 |
//! | 0x14 | 1 | sleep status: the guest never wakes here, so 0 | 4.8.3.7 |
//! | 0x18 | 1 | reset register | 4.8.3.6 |
//!
//! Accesses of another size or elsewhere read 0 and write nothing: the tables name the sizes above.

mod saved;

use std::sync::Arc;

pub use saved::PowerState;

use crate::bus::BusDevice;
use crate::events::{EventSink, GuestEvent};
use crate::irq::IrqLine;
use crate::limited_warn;
use crate::saved::{BadState, Saved};

/// Length of the block in bytes.
pub const POWER_LEN: u64 = 0x1000;

/// Offset of the event selector.
pub const EVENT_SELECTOR: u64 = 0x00;
/// Offset of the sleep control register.
pub const SLEEP_CONTROL: u64 = 0x10;
/// Offset of the sleep status register.
pub const SLEEP_STATUS: u64 = 0x14;
/// Offset of the reset register.
pub const RESET: u64 = 0x18;

/// Event: the power button was pressed.
pub const EVENT_POWER_BUTTON: u32 = 1 << 0;
/// Event: the VM generation ID changed.
pub const EVENT_GENERATION: u32 = 1 << 1;
const EVENTS: u32 = EVENT_POWER_BUTTON | EVENT_GENERATION;

/// The sleep type of S5 (soft off), as `\_S5` names it.
pub const SLEEP_TYPE_S5: u8 = 5;
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;

/// The value that resets the machine when written to the reset register.
pub const RESET_VALUE: u8 = 0x42;

/// The block.
pub struct PowerBlock {
    irq: Arc<dyn IrqLine>,
    events: Arc<dyn EventSink>,
    pending: u32,
}

impl PowerBlock {
    /// A block that interrupts by `irq` and raises [`GuestEvent::Shutdown`] and
    /// [`GuestEvent::Reset`] at `events`.
    #[must_use]
    pub fn new(irq: Arc<dyn IrqLine>, events: Arc<dyn EventSink>) -> Self {
        Self {
            irq,
            events,
            pending: 0,
        }
    }

    /// Presses the power button. Pressing it again before the guest looked is pressing it once.
    pub fn press_power_button(&mut self) {
        self.signal(EVENT_POWER_BUTTON);
    }

    /// Tells the guest that its generation ID changed. The new ID must be in guest memory already.
    pub fn generation_changed(&mut self) {
        self.signal(EVENT_GENERATION);
    }

    /// Raises the interrupt again for events the guest has not read. To be called once after a
    /// restore, when the interrupt controller is there; an extra interrupt finds no event and is
    /// harmless.
    pub fn reassert_interrupt(&self) {
        if self.pending != 0
            && let Err(error) = self.irq.raise()
        {
            limited_warn!("power: cannot raise the interrupt: {error}");
        }
    }

    /// Back to the state after power-on. Main thread, vCPUs held.
    pub fn reset(&mut self) {
        let Self {
            irq: _,
            events: _,
            pending,
        } = self;
        *pending = 0;
    }

    fn signal(&mut self, event: u32) {
        self.pending |= event;
        self.reassert_interrupt();
    }

    fn write_sleep_control(&self, value: u8) {
        if value & SLEEP_ENABLE == 0 {
            return;
        }
        match (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK {
            SLEEP_TYPE_S5 => self.events.raise(GuestEvent::Shutdown),
            other => limited_warn!("power: the guest asked for unknown sleep type {other}"),
        }
    }
}

impl BusDevice for PowerBlock {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset == EVENT_SELECTOR && data.len() == size_of::<u32>() {
            data.copy_from_slice(&std::mem::take(&mut self.pending).to_le_bytes());
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SLEEP_CONTROL, [value]) => self.write_sleep_control(*value),
            (RESET, [RESET_VALUE]) => self.events.raise(GuestEvent::Reset),
            // Writing 1 to the wake bit of sleep status clears it; it is never set.
            (SLEEP_STATUS, [_]) => {}
            _ => limited_warn!("power: write of {data:02x?} at {offset:#x} ignored"),
        }
    }
}

impl Saved for PowerBlock {
    type State = PowerState;
    const KIND: &'static str = "power";
    const VERSION: u32 = 1;

    fn save(&self) -> PowerState {
        let Self {
            irq: _,
            events: _,
            pending,
        } = self;
        PowerState { pending: *pending }
    }

    fn restore(&mut self, state: &PowerState) -> Result<(), BadState> {
        let PowerState { pending } = state;
        if pending & !EVENTS != 0 {
            return Err(BadState {
                kind: Self::KIND,
                field: "pending",
                problem: format!("{pending:#x} has events this machine does not know"),
            });
        }
        self.pending = *pending;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{
        Edges, Events, refuses, reset_twice, save_restore_save, survives_hostile_accesses,
    };
    use super::*;

    fn block() -> (PowerBlock, Arc<Edges>, Arc<Events>) {
        let (edges, events) = (Edges::new(), Events::new());
        (
            PowerBlock::new(edges.clone(), events.clone()),
            edges,
            events,
        )
    }

    fn selector(block: &mut PowerBlock) -> u32 {
        let mut data = [0; 4];
        block.read(EVENT_SELECTOR, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn events_interrupt_and_are_read_once() {
        let (mut block, edges, _) = block();
        assert_eq!(selector(&mut block), 0);
        block.press_power_button();
        assert_eq!(edges.take(), 1);
        block.generation_changed();
        assert_eq!(edges.take(), 1);
        // A read of another size must not eat events.
        for size in [1, 2, 8] {
            let mut data = vec![0; size];
            block.read(EVENT_SELECTOR, &mut data);
            assert_eq!(data, vec![0; size]);
        }
        assert_eq!(selector(&mut block), EVENT_POWER_BUTTON | EVENT_GENERATION);
        assert_eq!(selector(&mut block), 0);
        block.reassert_interrupt();
        assert_eq!(edges.take(), 0);
    }

    #[test]
    fn s5_powers_off_and_the_reset_register_resets() {
        let (mut block, _, events) = block();
        block.write(SLEEP_CONTROL, &[(SLEEP_TYPE_S5 << 2) | 0x20]);
        assert_eq!(events.take(), [GuestEvent::Shutdown]);
        block.write(RESET, &[0x42]);
        assert_eq!(events.take(), [GuestEvent::Reset]);
        // Not enabled, another type, another value, another size, read-only.
        block.write(SLEEP_CONTROL, &[SLEEP_TYPE_S5 << 2]);
        block.write(SLEEP_CONTROL, &[(3 << 2) | 0x20]);
        block.write(RESET, &[0x41]);
        block.write(RESET, &[0x42, 0]);
        block.write(SLEEP_STATUS, &[0x80]);
        block.write(EVENT_SELECTOR, &[3, 0, 0, 0]);
        assert_eq!(events.take(), []);
        assert_eq!(selector(&mut block), 0);
    }

    #[test]
    fn pending_events_survive_a_restore() {
        let (mut old, _, _) = block();
        old.press_power_button();
        let (mut new, edges, _) = block();
        new.restore(&old.save()).unwrap();
        assert_eq!(edges.take(), 0);
        new.reassert_interrupt();
        assert_eq!(edges.take(), 1);
        assert_eq!(selector(&mut new), EVENT_POWER_BUTTON);
    }

    #[test]
    fn conforms() {
        let (mut chip, _, _) = block();
        survives_hostile_accesses(&mut chip, 0x20);
        survives_hostile_accesses(&mut chip, POWER_LEN);
        chip.press_power_button();
        save_restore_save(&chip, &mut block().0);
        refuses(&mut chip, &PowerState { pending: 4 }, "pending");
        reset_twice(&mut chip, PowerBlock::reset, &PowerState { pending: 0 });
    }
}
