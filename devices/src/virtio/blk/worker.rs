//! The running half of a block device: takes requests from its queues, gives them to the backend,
//! and answers each exactly once.
//!
//! Owned by the I/O thread. A request that failed and is to be kept ([`ErrorPolicy::Stop`]) stalls
//! the worker: it takes no further request until it has been taken back and a new one made, which
//! tries the kept ones first. A kept request is remembered by its place in the ring alone, and
//! parsed anew. A request the backend gave up because the worker is wanted back is kept likewise.

use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::config::{F_CONFIG_WCE, F_FLUSH};
use super::request::{Command, DiskCommand, Limits, S_IOERR, S_OK, parse};
use super::saved::StalledRequest;
use super::stats::OpKind;
use super::{ErrorPolicy, SERIAL_LEN, Shared};
use crate::disk::buffers::GuestBuffers;
use crate::disk::{Completion, Disk, Op, Outcome, Submission};
use crate::events::{BlockErrorAction, BlockIoError, GuestEvent};
use crate::io_thread::{Fault, Recall, Source, Worker};
use crate::memory::{GuestMemory, SharedMemory};
use crate::virtio::chain::{ChainBuffers, Writer};
use crate::virtio::device::{Activation, ActiveQueue, QueuePosition};
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::Queue;

/// The token of the backend's completions; queues have their place in the list.
const COMPLETIONS: u32 = u32::MAX;

/// How long the worker serves one notification before the I/O thread looks elsewhere: at its other
/// workers, and at who wants this one back. A guest can ask for terabytes with one ring.
pub(super) const TURN: Duration = Duration::from_millis(10);

/// A request at the backend.
struct InFlight {
    tag: u64,
    /// Place in the list of queues.
    queue: usize,
    head: u16,
    /// Guest-physical address of the status byte.
    status: u64,
    kind: OpKind,
    /// First byte on the disk.
    offset: u64,
    /// Bytes read, written or discarded.
    bytes: u64,
    /// Bytes written to guest memory on success, with the status.
    written: u32,
    started: Instant,
}

/// The running half of a block device.
pub(super) struct BlkWorker {
    queues: Vec<ActiveQueue>,
    interrupt: Arc<Interrupt>,
    /// Requests of the worker before, to be tried first.
    retry: Vec<StalledRequest>,
    /// Whether the driver has been told that it need not notify.
    polling: bool,
    engine: Engine,
}

/// Everything but the queues, so that a request can be answered while its queue is borrowed.
struct Engine {
    memory: SharedMemory,
    features: u64,
    shared: Arc<Shared>,
    disk: Box<dyn Disk>,
    recall: Recall,
    /// Kept for the next worker. While any are, nothing is taken from the queues.
    stalled: Vec<StalledRequest>,
    in_flight: Vec<InFlight>,
    /// Entries of all queues.
    in_flight_max: usize,
    next_tag: u64,
    // Room that is used again for each request.
    chain: ChainBuffers,
    data: GuestBuffers,
    done: Vec<Completion>,
}

impl BlkWorker {
    pub(super) fn new(
        activation: Activation,
        disk: Box<dyn Disk>,
        shared: Arc<Shared>,
        retry: Vec<StalledRequest>,
    ) -> Self {
        let Activation {
            memory,
            features,
            queues,
            interrupt,
            recall,
        } = activation;
        let engine = Engine {
            recall,
            data: GuestBuffers::new(Arc::clone(&memory)),
            memory,
            features,
            shared,
            disk,
            stalled: Vec::new(),
            in_flight: Vec::new(),
            in_flight_max: queues
                .iter()
                .map(|active| usize::from(active.queue.size()))
                .sum(),
            next_tag: 0,
            chain: ChainBuffers::new(),
            done: Vec::new(),
        };
        Self {
            queues,
            interrupt,
            retry,
            polling: false,
            engine,
        }
    }

    /// The backend, the requests to be tried again, and how far the queues are.
    pub(super) fn into_parts(self) -> (Box<dyn Disk>, Vec<StalledRequest>, Vec<QueuePosition>) {
        let Self {
            queues,
            interrupt: _,
            retry,
            polling: _,
            engine,
        } = self;
        let Engine {
            disk, mut stalled, ..
        } = engine;
        // Those that stalled were before those not tried yet.
        stalled.extend(retry);
        let positions = queues
            .iter()
            .map(|q| (q.index, q.queue.position()))
            .collect();
        (disk, stalled, positions)
    }

    /// Tries the requests again that the worker before kept, in their order, until one stalls.
    fn retry(&mut self) -> Result<(), Fault> {
        while let Some(&request) = self.retry.first() {
            if !self.engine.stalled.is_empty() {
                return Ok(());
            }
            self.retry.remove(0);
            let StalledRequest { queue: index, head } = request;
            let position = self.queues.iter().position(|queue| queue.index == index);
            let place = position.ok_or_else(|| Fault(format!("queue {index} is gone")))?;
            if let Some(active) = self.queues.get_mut(place) {
                if head >= active.queue.size() {
                    return Err(Fault(format!("a kept request at descriptor {head}")));
                }
                self.engine.begin(place, index, &mut active.queue, head)?;
            }
        }
        Ok(())
    }

    /// Takes what is in the queues, notified or not.
    fn look(&mut self) -> Result<bool, Fault> {
        let Self { queues, engine, .. } = self;
        let memory = Arc::clone(&engine.memory);
        let mut any = false;
        for (place, active) in queues.iter_mut().enumerate() {
            let index = active.index;
            let budget = usize::from(active.queue.size());
            let begun = Instant::now();
            any |= active.look(&memory, budget, |queue, head| {
                engine.begin(place, index, queue, head)?;
                let over = begun.elapsed() >= TURN || engine.recall.is_set();
                Ok(if over || !engine.stalled.is_empty() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            })?;
        }
        Ok(any)
    }

    fn serve(&mut self, place: usize) -> Result<(), Fault> {
        let Self { queues, engine, .. } = self;
        let Some(active) = queues.get_mut(place) else {
            return Ok(());
        };
        let memory = Arc::clone(&engine.memory);
        let index = active.index;
        let budget = usize::from(active.queue.size());
        let begun = Instant::now();
        let mut over = false;
        active.serve(&memory, budget, |queue, head| {
            engine.begin(place, index, queue, head)?;
            over = begun.elapsed() >= TURN || engine.recall.is_set();
            Ok(if over || !engine.stalled.is_empty() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        if over {
            // There may be more. Fails only when its counter is full: it is signalled then.
            drop(active.doorbell.write(1));
        }
        Ok(())
    }

    /// Answers what the backend has completed; returns whether that was anything.
    fn complete(&mut self) -> Result<bool, Fault> {
        let Self { queues, engine, .. } = self;
        let mut done = std::mem::take(&mut engine.done);
        engine.disk.reap(&engine.recall, &mut done);
        let any = !done.is_empty();
        let mut result = Ok(());
        for Completion { tag, outcome } in done.drain(..) {
            let place = engine
                .in_flight
                .iter()
                .position(|request| request.tag == tag);
            let Some(place) = place else { continue };
            let request = engine.in_flight.swap_remove(place);
            if let Some(active) = queues.get_mut(request.queue) {
                let index = active.index;
                result = result.and(engine.finish(index, &mut active.queue, &request, outcome));
            }
        }
        engine.done = done;
        result.map(|()| any)
    }

    fn signal(&mut self) -> Result<(), Fault> {
        let Self {
            queues,
            interrupt,
            engine,
            ..
        } = self;
        queues
            .iter_mut()
            .try_for_each(|active| active.signal(&engine.memory, interrupt))
    }

    /// Nothing is taken, but the notifications are, or they would wake us for ever. The next worker
    /// looks at the queues without one.
    fn ignore_notifications(&self) {
        for active in &self.queues {
            drop(active.doorbell.read());
        }
    }

    fn step(&mut self, token: u32) -> Result<(), Fault> {
        if token == COMPLETIONS {
            self.complete()?;
        }
        self.retry()?;
        if !self.engine.stalled.is_empty() {
            self.ignore_notifications();
            return Ok(());
        }
        match usize::try_from(token) {
            Ok(place) if token != COMPLETIONS => self.serve(place),
            _ => Ok(()),
        }
    }
}

impl Worker for BlkWorker {
    fn sources(&self) -> Vec<Source> {
        let doorbells = self.queues.iter().map(|active| active.doorbell.as_raw_fd());
        let mut sources: Vec<_> = (0..)
            .zip(doorbells)
            .map(|(token, fd)| Source { fd, token })
            .collect();
        let completions = self.engine.disk.completion_event();
        sources.extend(completions.map(|fd| Source {
            fd,
            token: COMPLETIONS,
        }));
        sources
    }

    fn ready(&mut self, token: u32) -> Result<(), Fault> {
        let result = self.step(token);
        // All that was begun goes to the backend at once, and much of it is over by then.
        self.engine.disk.kick();
        let result = result.and(self.complete().map(drop));
        // What was answered before a fault is told as well.
        result.and(self.signal())
    }

    fn poll(&mut self) -> Result<bool, Fault> {
        let engine = &self.engine;
        if !self.retry.is_empty() || !engine.stalled.is_empty() || engine.recall.is_set() {
            return Ok(false);
        }
        if !self.polling {
            self.polling = true;
            for active in &mut self.queues {
                active.queue.disable_notification(&self.engine.memory)?;
            }
        }
        let found = self.look();
        self.engine.disk.kick();
        let ended = self.complete();
        if matches!((&found, &ended), (Ok(false), Ok(false))) {
            return Ok(false);
        }
        // What was answered before a fault is told as well.
        let told = self.signal();
        found.and(ended).and(told).map(|()| true)
    }

    fn stop_polling(&mut self) -> Result<(), Fault> {
        if std::mem::take(&mut self.polling) {
            for active in &mut self.queues {
                active.stop_looking(&self.engine.memory)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> bool {
        // A fault here concerns a queue that is being given up; the rest still has to end.
        drop(self.complete());
        drop(self.signal());
        self.ignore_notifications();
        self.engine.in_flight.is_empty()
    }
}

impl Engine {
    /// Begins the request at `head` of `queue`, the `place`th of the list and number `index`.
    fn begin(
        &mut self,
        place: usize,
        index: u16,
        queue: &mut Queue,
        head: u16,
    ) -> Result<(), Fault> {
        let memory = Arc::clone(&self.memory);
        let limits = Limits {
            geometry: self.disk.geometry(),
            features: self.features,
        };
        let durable = !self.writeback();
        self.chain.collect(queue.chain(&memory, head))?;
        let request = parse(&self.chain, &memory, &limits)?;
        self.data.clear();
        let status = request.status;
        let command = match request.command {
            Err(refused) => {
                if let Some(kind) = refused.kind {
                    self.shared.stats.of(kind).was_invalid();
                }
                return answer(&memory, queue, head, status, refused.status, 1);
            }
            Ok(Command::GetId { mut data }) => {
                let written = put_serial(&self.shared.options.serial, &mut data);
                return answer(&memory, queue, head, status, S_OK, written + 1);
            }
            Ok(Command::Disk(command)) => command,
        };
        let Operation {
            kind,
            op,
            offset,
            bytes,
        } = Operation::new(command, durable, &mut self.data)?;
        let read = if kind == OpKind::Read {
            u32::try_from(bytes).unwrap_or(0)
        } else {
            0
        };
        // Before the backend sees it: a driver that offers one chain twice must not grow our list.
        if self.in_flight.len() >= self.in_flight_max {
            return Err(Fault("more requests than descriptors".to_owned()));
        }
        let tag = self.next_tag;
        self.next_tag = tag.wrapping_add(1);
        let started = Instant::now();
        let written = read + 1;
        let request = InFlight {
            tag,
            queue: place,
            head,
            status,
            kind,
            offset,
            bytes,
            written,
            started,
        };
        match self.disk.submit(tag, op, &mut self.data, &self.recall) {
            Submission::Done(outcome) => self.finish(index, queue, &request, outcome),
            Submission::Pending => {
                self.in_flight.push(request);
                Ok(())
            }
        }
    }

    /// Whether the guest minds a volatile write cache. 5.2.6.2: without either feature it does not
    /// know that there is one.
    fn writeback(&self) -> bool {
        if self.features & F_CONFIG_WCE != 0 {
            self.shared.writeback.load(Ordering::Relaxed)
        } else {
            self.features & F_FLUSH != 0 && self.shared.options.writeback
        }
    }

    /// The backend has ended `request` of queue number `index`.
    fn finish(
        &mut self,
        index: u16,
        queue: &mut Queue,
        request: &InFlight,
        outcome: Outcome,
    ) -> Result<(), Fault> {
        let InFlight {
            head,
            status,
            kind,
            offset,
            bytes,
            written,
            started,
            ..
        } = *request;
        let stats = &self.shared.stats;
        let error = match outcome {
            Outcome::Failed(error) => error,
            Outcome::Recalled => {
                self.stalled.push(StalledRequest { queue: index, head });
                return Ok(());
            }
            Outcome::Success => {
                stats.of(kind).succeeded(bytes, started.elapsed());
                if kind == OpKind::Write {
                    stats
                        .wr_highest_offset
                        .fetch_max(offset + bytes, Ordering::Relaxed);
                }
                return answer(&self.memory, queue, head, status, S_OK, written);
            }
        };
        stats.of(kind).has_failed(started.elapsed());
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let action = self.action(kind, errno);
        if action == BlockErrorAction::Stop {
            // Before the event, which may have us taken back at once.
            self.stalled.push(StalledRequest { queue: index, head });
        }
        let id = Arc::clone(&self.shared.options.id);
        let write = kind != OpKind::Read;
        let event = GuestEvent::BlockIoError(BlockIoError {
            id,
            write,
            action,
            errno,
        });
        self.shared.options.events.raise(event);
        match action {
            BlockErrorAction::Stop => Ok(()),
            BlockErrorAction::Report => answer(&self.memory, queue, head, status, S_IOERR, 1),
            BlockErrorAction::Ignore => answer(&self.memory, queue, head, status, S_OK, written),
        }
    }

    fn action(&self, kind: OpKind, errno: i32) -> BlockErrorAction {
        let options = &self.shared.options;
        let policy = if kind == OpKind::Read {
            options.rerror
        } else {
            options.werror
        };
        match policy {
            ErrorPolicy::Ignore => BlockErrorAction::Ignore,
            ErrorPolicy::Stop => BlockErrorAction::Stop,
            ErrorPolicy::Enospc if errno == libc::ENOSPC => BlockErrorAction::Stop,
            ErrorPolicy::Report | ErrorPolicy::Enospc => BlockErrorAction::Report,
        }
    }
}

/// A command as the backend takes it.
struct Operation {
    kind: OpKind,
    op: Op,
    /// First byte on the disk.
    offset: u64,
    /// Bytes read, written or discarded.
    bytes: u64,
}

impl Operation {
    /// Translates `command`, and puts its data into `buffers`, which is empty.
    fn new(
        command: DiskCommand<'_>,
        durable: bool,
        buffers: &mut GuestBuffers,
    ) -> Result<Self, Fault> {
        let (kind, op, offset, bytes) = match command {
            DiskCommand::Read { offset, data } => {
                data.append_to(buffers)
                    .map_err(|error| Fault::new(&error))?;
                (
                    OpKind::Read,
                    Op::Read { offset },
                    offset,
                    u64::from(data.remaining()),
                )
            }
            DiskCommand::Write { offset, data } => {
                data.append_to(buffers)
                    .map_err(|error| Fault::new(&error))?;
                let bytes = u64::from(data.remaining());
                (OpKind::Write, Op::Write { offset, durable }, offset, bytes)
            }
            DiskCommand::Flush => (OpKind::Flush, Op::Flush, 0, 0),
            DiskCommand::Discard { offset, len } => {
                (OpKind::Unmap, Op::Discard { offset, len }, offset, len)
            }
            DiskCommand::WriteZeroes { offset, len, unmap } => (
                OpKind::Write,
                Op::WriteZeroes {
                    offset,
                    len,
                    unmap,
                    durable,
                },
                offset,
                len,
            ),
        };
        Ok(Self {
            kind,
            op,
            offset,
            bytes,
        })
    }
}

/// Copies the serial number into `data`, padded with zeroes, as much as fits. Answers how many
/// bytes were written.
fn put_serial(serial: &str, data: &mut Writer<'_>) -> u32 {
    let mut padded = [0; SERIAL_LEN];
    for (to, from) in padded.iter_mut().zip(serial.bytes()) {
        *to = from;
    }
    let room = usize::try_from(data.remaining())
        .unwrap_or(SERIAL_LEN)
        .min(SERIAL_LEN);
    let fitting = padded.get(..room).unwrap_or_default();
    // It fits, so it is written.
    if data.write(fitting).is_ok() {
        u32::try_from(room).unwrap_or(0)
    } else {
        0
    }
}

/// Gives a request back to the driver.
fn answer(
    memory: &GuestMemory,
    queue: &mut Queue,
    head: u16,
    status_address: u64,
    status: u8,
    written: u32,
) -> Result<(), Fault> {
    memory
        .write_obj(status, GuestAddress(status_address))
        .map_err(|_| Fault("the status byte is not in guest memory".to_owned()))?;
    queue.push_used(memory, head, written)?;
    Ok(())
}
