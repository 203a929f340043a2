//! The reset line of the i8042 keyboard controller, ports 0x60 to 0x64. There is no keyboard.
//!
//! Called on vCPU threads. Modelled after IBM's PC/AT Technical Reference, "Keyboard Controller":
//! command 0xFE pulses output line 0, which is wired to the CPU's reset; command 0xD1 takes the
//! next data byte as the output port, whose bit 0 is the same line.

mod saved;

use std::sync::Arc;

pub use saved::I8042State;

use crate::bus::BusDevice;
use crate::events::{EventSink, GuestEvent};
use crate::saved::{BadState, Saved};

/// Ports the chip takes: 0x60 data, 0x61 system control port B, 0x64 status and command.
pub const I8042_LEN: u64 = 5;

const DATA: u64 = 0;
const PORT_B: u64 = 1;
const COMMAND: u64 = 4;

/// "Write output port": the next byte at [`DATA`] is the output port.
const COMMAND_WRITE_OUTPUT_PORT: u8 = 0xd1;
/// Commands 0xF0 to 0xFF pulse the output lines whose bit is clear.
const COMMAND_PULSE: u8 = 0xf0;
/// Bit 0 of the output port and of a pulse command: the reset line, active low.
const RESET_LINE: u8 = 1 << 0;

/// What no controller leaves on the bus, but with "input buffer full" (bit 1) clear. The output
/// buffer that never empties makes Linux's probe give up after 16 reads; the clear bit makes the
/// wait before Linux's reboot by this controller end at its first read.
const STATUS: u8 = !(1 << 1);
/// What an empty data port reads as.
const NO_DATA: u8 = 0xff;
/// Port 0x61 bit 5, the output of timer channel 2. Linux's timer calibration spins until it is
/// set; there is no timer, so it always is.
const PORT_B_TIMER2_OUT: u8 = 1 << 5;

/// The controller.
pub struct I8042 {
    events: Arc<dyn EventSink>,
    /// The next data byte is the output port.
    output_port_next: bool,
}

impl I8042 {
    /// A controller that raises [`GuestEvent::Reset`] at `events`.
    #[must_use]
    pub fn new(events: Arc<dyn EventSink>) -> Self {
        Self {
            events,
            output_port_next: false,
        }
    }

    /// Back to the state after power-on. Main thread, vCPUs held.
    pub fn reset(&mut self) {
        let Self {
            events: _,
            output_port_next,
        } = self;
        *output_port_next = false;
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        let output_port_next = match offset {
            DATA | COMMAND => std::mem::take(&mut self.output_port_next),
            _ => return,
        };
        let pulses_reset = match offset {
            DATA => output_port_next && value & RESET_LINE == 0,
            _ => value >= COMMAND_PULSE && value & RESET_LINE == 0,
        };
        if pulses_reset {
            self.events.raise(GuestEvent::Reset);
        } else if offset == COMMAND {
            self.output_port_next = value == COMMAND_WRITE_OUTPUT_PORT;
        }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (register, byte) in (offset..).zip(data) {
            *byte = match register {
                PORT_B => PORT_B_TIMER2_OUT,
                COMMAND => STATUS,
                _ => NO_DATA,
            };
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (register, byte) in (offset..).zip(data) {
            self.write_byte(register, *byte);
        }
    }
}

impl Saved for I8042 {
    type State = I8042State;
    const KIND: &'static str = "i8042";
    const VERSION: u32 = 1;

    fn save(&self) -> I8042State {
        let Self {
            events: _,
            output_port_next,
        } = self;
        I8042State {
            output_port_next: *output_port_next,
        }
    }

    fn restore(&mut self, state: &I8042State) -> Result<(), BadState> {
        let I8042State { output_port_next } = state;
        self.output_port_next = *output_port_next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{
        Events, read_byte, reset_twice, save_restore_save, survives_hostile_accesses,
    };
    use super::*;

    #[test]
    fn a_pulse_of_the_reset_line_resets() {
        let events = Events::new();
        let mut chip = I8042::new(events.clone());
        chip.write(COMMAND, &[0xfe]);
        assert_eq!(events.take(), [GuestEvent::Reset]);
        // Pulses of other lines, and commands of a real controller, do not.
        for command in [0xf1, 0xff, 0xaa, 0x20, 0x60, 0xd1] {
            chip.write(COMMAND, &[command]);
        }
        assert_eq!(events.take(), []);
    }

    #[test]
    fn the_output_port_resets_when_bit_0_goes_low() {
        let events = Events::new();
        let mut chip = I8042::new(events.clone());
        // Without the command a data byte is for the keyboard.
        chip.write(DATA, &[0xfe]);
        chip.write(COMMAND, &[COMMAND_WRITE_OUTPUT_PORT]);
        chip.write(DATA, &[0xdf]);
        chip.write(DATA, &[0x00]);
        // Another command in between cancels it.
        chip.write(COMMAND, &[COMMAND_WRITE_OUTPUT_PORT]);
        chip.write(COMMAND, &[0xaa]);
        chip.write(DATA, &[0x00]);
        assert_eq!(events.take(), []);
        chip.write(COMMAND, &[COMMAND_WRITE_OUTPUT_PORT]);
        chip.write(PORT_B, &[0xff]);
        chip.write(DATA, &[0xfe]);
        assert_eq!(events.take(), [GuestEvent::Reset]);
    }

    #[test]
    fn no_wait_loop_of_linux_spins() {
        let mut chip = I8042::new(Events::new());
        let status = read_byte(&mut chip, COMMAND);
        assert_eq!(
            status & 0x01,
            0x01,
            "i8042_flush must give up: output buffer always full"
        );
        assert_eq!(status & 0x02, 0x00, "kb_wait must end: input buffer empty");
        assert_eq!(
            read_byte(&mut chip, PORT_B) & 0x20,
            0x20,
            "pit_calibrate_tsc must end"
        );
        let mut wide = [0; 4];
        chip.read(1, &mut wide);
        assert_eq!(wide, [0x20, 0xff, 0xff, 0xfd]);
    }

    #[test]
    fn conforms() {
        let mut chip = I8042::new(Events::new());
        survives_hostile_accesses(&mut chip, I8042_LEN);
        chip.write(COMMAND, &[COMMAND_WRITE_OUTPUT_PORT]);
        let fresh = I8042::new(Events::new()).save();
        assert_ne!(chip.save(), fresh);
        save_restore_save(&chip, &mut I8042::new(Events::new()));
        reset_twice(&mut chip, I8042::reset, &fresh);
    }
}
