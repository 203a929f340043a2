//! The 16550A UART; COM1 of `thimble-1`.
//!
//! National Semiconductor, PC16550D data sheet. Register accesses come on vCPU threads;
//! [`Serial::input`] and [`Serial::output_drained`] on the main thread.
//!
//! **Output is flow-controlled.** Bytes take no time on the line, but the backend's memory is
//! bounded. While it has less room than one transmit FIFO the line status register shows the
//! transmitter busy and its interrupt is withheld, as on a slow line: a guest that looks before it
//! writes loses nothing, and no vCPU thread ever waits for a reader. This is why the chip is not
//! vm-superio's `Serial`, which writes at once and shows the transmitter idle always.
//!
//! **Input** waits in a bounded queue until the receiver FIFO has room, so the host cannot overrun
//! the guest.
//!
//! **Interrupts on an edge-triggered line.** The chip's output pin is a level: any enabled cause.
//! The line sees only edges, and one that comes while the line is masked is lost. So the chip
//! raises the line at the onset of every cause, also when another is pending already, and again
//! when the guest has acknowledged one cause and another remains. An interrupt too many finds
//! nothing to do; one too few hangs a terminal. OUT2, which gates the pin on a PC, is not looked
//! at: no guest depends on an interrupt not coming.

mod registers;
mod saved;

use std::collections::VecDeque;
use std::sync::Arc;

use registers::*;
pub use saved::SerialState;

use crate::bus::BusDevice;
use crate::irq::IrqLine;
use crate::limited_warn;
use crate::saved::{BadState, Saved};

/// Ports the chip takes.
pub const SERIAL_LEN: u64 = 8;

/// Bytes in each FIFO. A driver that saw the transmitter empty writes this many without looking
/// again.
pub const FIFO_LEN: usize = 16;

/// Bytes from the host the chip keeps for the guest: a pasted page of text.
pub const INPUT_QUEUE_LEN: usize = 4096;

/// Where the guest's output goes. Called with the chip locked, mostly on vCPU threads; no call may
/// block, and none may lock the chip.
pub trait SerialBackend: Send {
    /// How many bytes [`put`](Self::put) takes now without losing any.
    fn room(&self) -> usize;

    /// Takes one byte of the guest's output.
    fn put(&mut self, byte: u8);

    /// The room of [`Serial::input`] was used up before, and there is some now.
    fn input_wanted(&mut self);
}

/// The chip.
pub struct Serial {
    irq: Arc<dyn IrqLine>,
    backend: Box<dyn SerialBackend>,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: u16,
    overrun: bool,
    modem_deltas: u8,
    thr_empty_pending: bool,
    /// The backend had less room than a FIFO, and the guest sees the transmitter busy.
    held_off: bool,
    fifo: VecDeque<u8>,
    queue: VecDeque<u8>,
    /// The host used up the room in `queue` or was told that there is none, and waits to be called.
    input_refused: bool,
}

impl Serial {
    /// A chip after power-on.
    #[must_use]
    pub fn new(irq: Arc<dyn IrqLine>, backend: Box<dyn SerialBackend>) -> Self {
        Self {
            irq,
            backend,
            ier: 0,
            fcr: 0,
            lcr: DEFAULT_LCR,
            mcr: 0,
            scr: 0,
            divisor: DEFAULT_DIVISOR,
            overrun: false,
            modem_deltas: 0,
            thr_empty_pending: false,
            held_off: false,
            fifo: VecDeque::new(),
            queue: VecDeque::new(),
            input_refused: false,
        }
    }

    /// Back to the state after power-on. Main thread, vCPUs held. Input the guest has not read is
    /// gone; what the guest sent is the backend's and stays.
    pub fn reset(&mut self) {
        let Self {
            irq: _,
            backend: _,
            ier,
            fcr,
            lcr,
            mcr,
            scr,
            divisor,
            overrun,
            modem_deltas,
            thr_empty_pending,
            held_off,
            fifo,
            queue,
            input_refused: _,
        } = self;
        (*ier, *fcr, *lcr, *mcr, *scr, *divisor) = (0, 0, DEFAULT_LCR, 0, 0, DEFAULT_DIVISOR);
        (*overrun, *modem_deltas, *thr_empty_pending, *held_off) = (false, 0, false, false);
        fifo.clear();
        queue.clear();
        self.held_off = self.backend.room() < FIFO_LEN;
        self.want_input();
    }

    /// Bytes [`Self::input`] takes now. A caller told 0 is called back by
    /// [`SerialBackend::input_wanted`].
    pub fn input_room(&mut self) -> usize {
        let room = INPUT_QUEUE_LEN.saturating_sub(self.queue.len());
        self.input_refused |= room == 0;
        room
    }

    /// Bytes from the host, for the guest to read. Returns how many were taken. A caller that used
    /// up the room is called back by [`SerialBackend::input_wanted`]; until then there is no use in
    /// offering more.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        let room = self.input_room();
        let taken = bytes.len().min(room);
        self.input_refused |= taken == room;
        self.queue.extend(bytes.iter().take(taken));
        self.refill();
        taken
    }

    /// The backend may have room again. Calling it without need is harmless.
    pub fn output_drained(&mut self) {
        if self.held_off && self.backend.room() >= FIFO_LEN {
            self.held_off = false;
            self.transmitter_empty();
        }
    }

    /// Takes up the backend and the interrupt line after a restore, when both are there: a state
    /// saved while its backend was full may meet an empty one, and an interrupt under way may have
    /// been lost.
    pub fn reassert_interrupt(&mut self) {
        if self.backend.room() < FIFO_LEN {
            self.held_off = true;
            self.thr_empty_pending = false;
        }
        self.output_drained();
        if self.cause().is_some() {
            self.raise();
        }
    }

    fn loopback(&self) -> bool {
        self.mcr & MCR_LOOPBACK != 0
    }

    fn fifo_depth(&self) -> usize {
        if self.fcr & FCR_ENABLE == 0 {
            1
        } else {
            FIFO_LEN
        }
    }

    fn trigger_level(&self) -> usize {
        match (self.fcr & FCR_TRIGGER) >> FCR_TRIGGER_SHIFT {
            _ if self.fcr & FCR_ENABLE == 0 => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    /// The pending enabled interrupt of the highest priority, as IIR shows it.
    fn cause(&self) -> Option<u8> {
        let enabled = |bit| self.ier & bit != 0;
        if enabled(IER_LINE) && self.overrun {
            Some(IIR_LINE)
        } else if enabled(IER_RECEIVED) && !self.fifo.is_empty() {
            // Bytes take no time, so the time after which a FIFO below its trigger level is
            // reported is over at once.
            let full_enough = self.fifo.len() >= self.trigger_level();
            Some(if full_enough {
                IIR_RECEIVED
            } else {
                IIR_TIMEOUT
            })
        } else if enabled(IER_THR_EMPTY) && self.thr_empty_pending {
            Some(IIR_THR_EMPTY)
        } else if enabled(IER_MODEM) && self.modem_deltas != 0 {
            Some(IIR_MODEM)
        } else {
            None
        }
    }

    fn raise(&self) {
        if let Err(error) = self.irq.raise() {
            limited_warn!("serial: cannot raise the interrupt: {error}");
        }
    }

    /// A cause has arisen: raises the line if the guest enabled it.
    fn arisen(&self, enable: u8) {
        if self.ier & enable != 0 {
            self.raise();
        }
    }

    /// A cause was acknowledged: on a level line any other would still hold it.
    fn acknowledged(&self) {
        if self.cause().is_some() {
            self.raise();
        }
    }

    /// Moves bytes from the host to the receiver FIFO as far as there is room.
    fn refill(&mut self) {
        if self.loopback() {
            return;
        }
        let room = self.fifo_depth().saturating_sub(self.fifo.len());
        let moved = room.min(self.queue.len());
        if moved > 0 {
            self.fifo.extend(self.queue.drain(..moved));
            self.arisen(IER_RECEIVED);
        }
        self.want_input();
    }

    /// Calls a refused host back once half the queue is free, not for every byte.
    fn want_input(&mut self) {
        if self.input_refused && self.queue.len() <= INPUT_QUEUE_LEN / 2 {
            self.input_refused = false;
            self.backend.input_wanted();
        }
    }

    fn transmitter_empty(&mut self) {
        self.thr_empty_pending = true;
        self.arisen(IER_THR_EMPTY);
    }

    fn transmit(&mut self, byte: u8) {
        self.thr_empty_pending = false;
        if self.loopback() {
            if self.fifo.len() < self.fifo_depth() {
                self.fifo.push_back(byte);
                self.arisen(IER_RECEIVED);
            } else {
                self.overrun = true;
                self.arisen(IER_LINE);
            }
            return self.transmitter_empty();
        }
        if self.backend.room() > 0 {
            self.backend.put(byte);
        } else {
            limited_warn!("serial: the guest wrote while the transmitter was busy: byte lost");
        }
        self.held_off = self.backend.room() < FIFO_LEN;
        if !self.held_off {
            self.transmitter_empty();
        }
    }

    fn receive(&mut self) -> u8 {
        let Some(byte) = self.fifo.pop_front() else {
            return 0;
        };
        if self.fifo.is_empty() {
            // Refilled only now, so that the cause ends and arises anew every FIFO's worth.
            self.refill();
            if self.fifo.is_empty() {
                self.acknowledged();
            }
        }
        byte
    }

    fn read_iir(&mut self) -> u8 {
        let cause = self.cause();
        if cause == Some(IIR_THR_EMPTY) {
            self.thr_empty_pending = false;
            self.acknowledged();
        }
        let fifos = if self.fcr & FCR_ENABLE == 0 {
            0
        } else {
            IIR_FIFOS
        };
        cause.unwrap_or(IIR_NONE) | fifos
    }

    fn read_lsr(&mut self) -> u8 {
        self.output_drained();
        let mut lsr = 0;
        if !self.fifo.is_empty() {
            lsr |= LSR_DATA_READY;
        }
        if !self.held_off || self.loopback() {
            lsr |= LSR_THR_EMPTY | LSR_IDLE;
        }
        if std::mem::take(&mut self.overrun) {
            lsr |= LSR_OVERRUN;
            self.acknowledged();
        }
        lsr
    }

    /// The modem inputs: the outputs in loopback, else a peer that is always ready.
    fn modem_inputs(&self) -> u8 {
        if !self.loopback() {
            return MSR_CTS | MSR_DSR | MSR_DCD;
        }
        [
            (MCR_RTS, MSR_CTS),
            (MCR_DTR, MSR_DSR),
            (MCR_OUT1, MSR_RI),
            (MCR_OUT2, MSR_DCD),
        ]
        .into_iter()
        .filter(|(output, _)| self.mcr & output != 0)
        .fold(0, |inputs, (_, input)| inputs | input)
    }

    fn read_msr(&mut self) -> u8 {
        let deltas = std::mem::take(&mut self.modem_deltas);
        if deltas != 0 {
            self.acknowledged();
        }
        self.modem_inputs() | deltas
    }

    fn write_ier(&mut self, value: u8) {
        let newly = value & IER_MASK & !self.ier;
        self.ier = value & IER_MASK;
        // Enabling the interrupt while the transmitter is empty is an onset of its own: Linux
        // starts every transmission so, and tests for it when it opens the port.
        if newly & IER_THR_EMPTY != 0 && !self.held_off {
            self.thr_empty_pending = true;
        }
        if newly != 0 && self.cause().is_some() {
            self.raise();
        }
    }

    fn write_fcr(&mut self, value: u8) {
        let toggled = (value ^ self.fcr) & FCR_ENABLE != 0;
        // Without the enable bit the others are not programmed.
        self.fcr = if value & FCR_ENABLE == 0 {
            0
        } else {
            value & (FCR_ENABLE | FCR_TRIGGER)
        };
        // Clearing the transmitter is nothing: bytes leave it at once.
        if toggled || value & (FCR_ENABLE | FCR_CLEAR_RECEIVER) == FCR_ENABLE | FCR_CLEAR_RECEIVER {
            self.fifo.clear();
        }
        self.refill();
    }

    fn write_mcr(&mut self, value: u8) {
        let before = self.modem_inputs();
        self.mcr = value & MCR_MASK;
        let after = self.modem_inputs();
        let changed = before ^ after;
        let mut deltas = 0;
        for (input, delta) in [
            (MSR_CTS, MSR_DELTA_CTS),
            (MSR_DSR, MSR_DELTA_DSR),
            (MSR_DCD, MSR_DELTA_DCD),
        ] {
            if changed & input != 0 {
                deltas |= delta;
            }
        }
        if before & !after & MSR_RI != 0 {
            deltas |= MSR_RING_ENDED;
        }
        if deltas != 0 {
            self.modem_deltas |= deltas;
            self.arisen(IER_MODEM);
        }
        self.refill();
    }

    fn read_register(&mut self, register: u64) -> u8 {
        let [low, high] = self.divisor.to_le_bytes();
        let divisor = self.lcr & LCR_DLAB != 0;
        match register {
            DATA if divisor => low,
            IER if divisor => high,
            DATA => self.receive(),
            IER => self.ier,
            IIR_FCR => self.read_iir(),
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => self.read_lsr(),
            MSR => self.read_msr(),
            _ => self.scr,
        }
    }

    fn write_register(&mut self, register: u64, value: u8) {
        let [low, high] = self.divisor.to_le_bytes();
        let divisor = self.lcr & LCR_DLAB != 0;
        match register {
            DATA if divisor => self.divisor = u16::from_le_bytes([value, high]),
            IER if divisor => self.divisor = u16::from_le_bytes([low, value]),
            DATA => self.transmit(value),
            IER => self.write_ier(value),
            IIR_FCR => self.write_fcr(value),
            LCR => self.lcr = value,
            MCR => self.write_mcr(value),
            // Factory test registers.
            LSR | MSR => {}
            _ => self.scr = value,
        }
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (register, byte) in (offset..).zip(data) {
            *byte = self.read_register(register);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (register, byte) in (offset..).zip(data) {
            self.write_register(register, *byte);
        }
    }
}

impl Saved for Serial {
    type State = SerialState;
    const KIND: &'static str = "serial";
    const VERSION: u32 = 1;

    fn save(&self) -> SerialState {
        let Self {
            irq: _,
            backend: _,
            ier,
            fcr,
            lcr,
            mcr,
            scr,
            divisor,
            overrun,
            modem_deltas,
            thr_empty_pending,
            held_off,
            fifo,
            queue,
            // Of this process's host side.
            input_refused: _,
        } = self;
        SerialState {
            ier: *ier,
            fcr: *fcr,
            lcr: *lcr,
            mcr: *mcr,
            scr: *scr,
            divisor: *divisor,
            overrun: *overrun,
            modem_deltas: *modem_deltas,
            thr_empty_pending: *thr_empty_pending,
            held_off: *held_off,
            fifo: fifo.iter().copied().collect(),
            queue: queue.iter().copied().collect(),
        }
    }

    fn restore(&mut self, state: &SerialState) -> Result<(), BadState> {
        let SerialState {
            ier,
            fcr,
            lcr,
            mcr,
            scr,
            divisor,
            overrun,
            modem_deltas,
            thr_empty_pending,
            held_off,
            fifo,
            queue,
        } = state;
        let bad = |field, problem| {
            Err(BadState {
                kind: Self::KIND,
                field,
                problem,
            })
        };
        for (field, value, mask) in [
            ("ier", *ier, IER_MASK),
            ("fcr", *fcr, FCR_ENABLE | FCR_TRIGGER),
            ("mcr", *mcr, MCR_MASK),
            ("modem_deltas", *modem_deltas, MSR_DELTAS),
        ] {
            if value & !mask != 0 {
                return bad(field, format!("{value:#04x} has bits outside {mask:#04x}"));
            }
        }
        let depth = if fcr & FCR_ENABLE == 0 { 1 } else { FIFO_LEN };
        for (field, bytes, limit) in [("fifo", fifo, depth), ("queue", queue, INPUT_QUEUE_LEN)] {
            if bytes.len() > limit {
                return bad(field, format!("{} bytes, at most {limit} fit", bytes.len()));
            }
        }
        (self.ier, self.fcr, self.lcr, self.mcr) = (*ier, *fcr, *lcr, *mcr);
        (self.scr, self.divisor, self.overrun) = (*scr, *divisor, *overrun);
        (self.modem_deltas, self.thr_empty_pending) = (*modem_deltas, *thr_empty_pending);
        self.held_off = *held_off;
        self.fifo = fifo.iter().copied().collect();
        self.queue = queue.iter().copied().collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
