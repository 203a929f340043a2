//! Sending: from the driver's buffers straight to the backend.
//!
//! On the I/O thread, a [`Transmitter`] for each transmit queue. A frame that the backend does not
//! take now stays first; nothing else is taken from the queue until it has gone. If the worker is
//! taken back it goes back into the ring.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::header::checked;
use super::stats::add;
use super::worker::Port;
use crate::io_thread::Fault;
use crate::memory::SharedMemory;
use crate::net::HEADER_LEN;
use crate::net::ranges::{GuestRanges, RANGES_MAX};
use crate::virtio::device::{ActiveQueue, QueuePosition};
use crate::virtio::queue::Queue;

/// Frames sent before the I/O thread looks at its other workers.
const BATCH: usize = 128;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Frames of the driver's.
    Frames,
    /// Room in the backend.
    Room,
    /// This time, for the rate limit.
    Time(Instant),
}

/// The device's side of a transmit queue.
pub(super) struct Transmitter {
    active: ActiveQueue,
    /// The frame that is being sent, without its header.
    frame: GuestRanges,
    /// A chain taken off the ring that could not be sent yet.
    first: Option<u16>,
}

impl Transmitter {
    pub(super) fn new(active: ActiveQueue, memory: SharedMemory) -> Self {
        Self {
            active,
            frame: GuestRanges::new(memory),
            first: None,
        }
    }

    pub(super) fn active(&self) -> &ActiveQueue {
        &self.active
    }

    /// How far the queue is; a chain that was not sent counts as not taken.
    pub(super) fn position(&self) -> QueuePosition {
        let mut position = self.active.queue.position();
        let kept = u16::from(self.first.is_some());
        position.next_avail = position.next_avail.wrapping_sub(kept);
        (self.active.index, position)
    }

    /// Sends what the driver has made available, by the backend's queue `number`.
    pub(super) fn run(&mut self, port: &mut Port, number: u16) -> Result<Next, Fault> {
        let memory = port.memory.clone();
        let next = self.batch(port, number);
        // What was sent before a fault is told as well.
        let told = self.active.signal(&memory, &port.interrupt);
        next.and_then(|next| told.map(|()| next))
    }

    fn batch(&mut self, port: &mut Port, number: u16) -> Result<Next, Fault> {
        let Self {
            active,
            frame,
            first,
        } = self;
        if let Some(head) = first.take() {
            let next = send(port, number, &mut active.queue, head, frame)?;
            if next != Next::Frames {
                *first = Some(head);
                drop(active.doorbell.read());
                return Ok(next);
            }
        }
        let memory = port.memory.clone();
        let mut next = Next::Frames;
        active.serve(&memory, BATCH, |queue, head| {
            next = send(port, number, queue, head, frame)?;
            Ok(if next == Next::Frames {
                ControlFlow::Continue(())
            } else {
                *first = Some(head);
                ControlFlow::Break(())
            })
        })?;
        Ok(next)
    }
}

/// Sends the frame at `head` of `queue` and gives its chain back; unless it has to wait.
fn send(
    port: &mut Port,
    number: u16,
    queue: &mut Queue,
    head: u16,
    frame: &mut GuestRanges,
) -> Result<Next, Fault> {
    let stats = port.shared.stats.clone();
    if let Some(until) = port.tx_wait() {
        add(&stats.tx_throttled, 1);
        return Ok(Next::Time(until));
    }
    let header = collect(port, queue, head, frame)?;
    let len = u32::try_from(frame.bytes()).unwrap_or(u32::MAX);
    let header = header.and_then(|raw| checked(&raw, len, port.features).ok());
    match header {
        None => add(&stats.tx_invalid, 1),
        Some(_) if !port.shared.link_up.load(Ordering::Relaxed) || port.is_lost() => {
            add(&stats.tx_dropped, 1);
        }
        Some(header) => match port.backend.send(number, &header, frame) {
            Ok(()) => {
                port.tx_charge(len);
                add(&stats.tx_frames, 1);
                add(&stats.tx_bytes, u64::from(len));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                add(&stats.tx_blocked, 1);
                return Ok(Next::Room);
            }
            Err(error) => {
                add(&stats.tx_dropped, 1);
                if error.kind() == io::ErrorKind::NotConnected {
                    port.lose(&error);
                }
            }
        },
    }
    queue.push_used(&port.memory, head, 0)?;
    Ok(Next::Frames)
}

/// Puts the frame at `head` into `frame`, and answers its header. `None`: it has more pieces than
/// can be sent at once.
fn collect(
    port: &Port,
    queue: &Queue,
    head: u16,
    frame: &mut GuestRanges,
) -> Result<Option<[u8; HEADER_LEN]>, Fault> {
    frame.clear();
    let mut fits = true;
    for descriptor in queue.chain(&port.memory, head) {
        let descriptor = descriptor?;
        if descriptor.writable {
            return Err(Fault("a frame to be sent that is to be written".to_owned()));
        }
        // One may become two where regions of memory meet.
        fits = fits && frame.count() + 2 <= RANGES_MAX;
        if fits {
            let added = frame.push(descriptor.address, descriptor.len);
            added.map_err(|error| Fault::new(&error))?;
        }
    }
    // A copy: what is checked is what is sent, whatever the guest writes meanwhile.
    let mut header = [0; HEADER_LEN];
    if !frame.read(0, &mut header) {
        let len = frame.bytes();
        return Err(Fault(format!("a frame with a header of {len} bytes")));
    }
    frame.advance(HEADER_LEN as u64);
    Ok(fits.then_some(header))
}
