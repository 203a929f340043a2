//! The running half of a socket device: moves packets between its queues and the connections.
//!
//! Owned by the I/O thread. It wakes for the guest's notifications and for the poll set of the
//! host's sockets, does what there is for a bounded time, and then tells the guest once.

use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hub::Hub;
use super::packet::{EVENT_TRANSPORT_RESET, Header};
use super::rx::Rx;
use super::to_guest::Fed;
use super::{EVENT_QUEUE, RX_QUEUE, TX_QUEUE};
use crate::disk::buffers::GuestBuffers;
use crate::io_thread::{Fault, Recall, Source, Worker};
use crate::memory::SharedMemory;
use crate::virtio::chain::ChainBuffers;
use crate::virtio::device::{Activation, ActiveQueue, QueuePosition};
use crate::virtio::interrupt::Interrupt;

/// The token of the host's sockets; queues have their numbers.
const HOST: u32 = u32::MAX;

/// How long one wake-up may take before the I/O thread looks elsewhere.
pub(super) const TURN: Duration = Duration::from_millis(5);

/// The running half of a socket device.
pub(super) struct VsockWorker {
    memory: SharedMemory,
    /// Each is `None` if the driver did not set it up.
    rx: Option<Rx>,
    tx: Option<ActiveQueue>,
    event: Option<ActiveQueue>,
    interrupt: Arc<Interrupt>,
    recall: Recall,
    hub: Box<Hub>,
    /// The guest is to be told that all connections are gone.
    reset_due: bool,
    // Room that is used again for each packet.
    chain: ChainBuffers,
    buffers: GuestBuffers,
}

impl VsockWorker {
    pub(super) fn new(activation: Activation, hub: Box<Hub>, reset_due: bool) -> Self {
        let Activation {
            memory,
            features: _,
            queues,
            interrupt,
            recall,
        } = activation;
        let (mut rx, mut tx, mut event) = (None, None, None);
        for queue in queues {
            match queue.index {
                RX_QUEUE => rx = Some(Rx::new(Arc::clone(&memory), queue)),
                TX_QUEUE => tx = Some(queue),
                EVENT_QUEUE => event = Some(queue),
                _ => {}
            }
        }
        Self {
            rx,
            tx,
            event,
            interrupt,
            recall,
            hub,
            reset_due,
            chain: ChainBuffers::new(),
            buffers: GuestBuffers::new(Arc::clone(&memory)),
            memory,
        }
    }

    /// The connections, whether the guest has yet to be told that they are new, and how far the
    /// queues are.
    pub(super) fn into_parts(self) -> (Box<Hub>, bool, Vec<QueuePosition>) {
        let Self {
            rx,
            tx,
            event,
            hub,
            reset_due,
            ..
        } = self;
        let others = tx.iter().chain(&event);
        let positions = rx
            .iter()
            .map(Rx::position)
            .chain(others.map(|q| (q.index, q.queue.position())))
            .collect();
        (hub, reset_due, positions)
    }

    /// Takes the guest's packets.
    fn take_packets(&mut self, begun: Instant) -> Result<(), Fault> {
        let Self {
            memory,
            tx: Some(tx),
            recall,
            hub,
            chain,
            buffers,
            ..
        } = self
        else {
            return Ok(());
        };
        let mut over = false;
        let budget = usize::from(tx.queue.size());
        tx.serve(memory, budget, |queue, head| {
            chain.collect(queue.chain(memory, head))?;
            let mut packet = chain.readable(memory);
            let mut header = Header::default().encode();
            packet
                .read(&mut header)
                .map_err(|_| Fault("a packet without a whole header".to_owned()))?;
            let header = Header::decode(&header);
            let data = packet.take(header.len).map_err(|_| {
                let (len, rest) = (header.len, packet.remaining());
                Fault(format!("a packet of {len} bytes in a chain of {rest}"))
            })?;
            hub.packet(&header, data, buffers)?;
            queue.push_used(memory, head, 0)?;
            over = begun.elapsed() >= TURN || recall.is_set();
            Ok(if over {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        if over {
            // There may be more. Fails only when its counter is full: it is signalled then.
            drop(tx.doorbell.write(1));
        }
        Ok(())
    }

    /// Tells the guest that its connections are gone, if it has to be and gave a buffer for it.
    fn tell_transport_reset(&mut self) -> Result<(), Fault> {
        let Self {
            memory,
            event: Some(event),
            reset_due,
            chain,
            ..
        } = self
        else {
            return Ok(());
        };
        if !*reset_due {
            return Ok(());
        }
        event.serve(memory, 1, |queue, head| {
            chain.collect(queue.chain(memory, head))?;
            let bytes = EVENT_TRANSPORT_RESET.to_le_bytes();
            chain
                .writable(memory)
                .write(&bytes)
                .map_err(|_| Fault("an event buffer of less than four bytes".to_owned()))?;
            queue.push_used(memory, head, 4)?;
            *reset_due = false;
            Ok(ControlFlow::Break(()))
        })
    }

    fn step(&mut self, token: u32) -> Result<(), Fault> {
        let begun = Instant::now();
        match u16::try_from(token) {
            Ok(TX_QUEUE) => self.take_packets(begun)?,
            Ok(RX_QUEUE) => self.rx.iter().for_each(Rx::hear),
            Ok(EVENT_QUEUE) => {
                if let Some(event) = &self.event {
                    // Fails if it had not rung.
                    drop(event.doorbell.read());
                }
            }
            _ => self.hub.poll(),
        }
        self.tell_transport_reset()?;
        self.hub.accept();
        self.hub.rest();
        if let Some(rx) = &mut self.rx {
            let fed = self.hub.feed(rx, begun, &self.recall)?;
            if fed == Fed::More || self.hub.may_accept() {
                rx.ring();
            }
        }
        Ok(())
    }

    fn signal(&mut self) -> Result<(), Fault> {
        let Self {
            memory,
            rx,
            tx,
            event,
            interrupt,
            ..
        } = self;
        if let Some(rx) = rx {
            rx.signal(interrupt)?;
        }
        for queue in tx.iter_mut().chain(event) {
            queue.signal(memory, interrupt)?;
        }
        Ok(())
    }
}

impl Worker for VsockWorker {
    fn sources(&self) -> Vec<Source> {
        let rx = self.rx.iter().map(|rx| (rx.fd(), RX_QUEUE));
        let others = self.tx.iter().chain(&self.event);
        let others = others.map(|queue| (queue.doorbell.as_raw_fd(), queue.index));
        let mut sources: Vec<_> = rx
            .chain(others)
            .map(|(fd, index)| Source {
                fd,
                token: index.into(),
            })
            .collect();
        sources.push(Source {
            fd: self.hub.fd(),
            token: HOST,
        });
        sources
    }

    fn ready(&mut self, token: u32) -> Result<(), Fault> {
        let result = self.step(token);
        // What was used before a fault is told as well.
        result.and(self.signal())
    }

    /// What the host sends comes by descriptors, which are not worth asking all the time.
    fn poll(&mut self) -> Result<bool, Fault> {
        Ok(false)
    }

    fn stop_polling(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// Nothing is ever in flight: what the host has not taken is the connection's, and stays so.
    fn finish(&mut self) -> bool {
        self.rx.iter().for_each(Rx::hear);
        for queue in self.tx.iter().chain(&self.event) {
            // Fails if it had not rung.
            drop(queue.doorbell.read());
        }
        true
    }
}
