//! The running half of a network card: its queues, and when each is to be looked at.
//!
//! Owned by the I/O thread. For every queue there is one thing at a time to wait for: frames,
//! buffers, room in the backend, or the time of a rate limit. Whatever is not waited for does not
//! wake the thread, so that a full backend or a driver without buffers costs nothing.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

use super::config::{
    F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_UFO, F_GUEST_USO4, GUEST_OFFLOADS,
    guest_offloads,
};
use super::control::{self, Change, Terms, execute};
use super::rx::{self, Receiver};
use super::stats::add;
use super::tx::{self, Transmitter};
use super::{Role, Setup, Shared};
use crate::events::GuestEvent;
use crate::io_thread::{Fault, Source, Worker};
use crate::limited_warn;
use crate::memory::SharedMemory;
use crate::net::NetBackend;
use crate::rate_limit::RateLimiter;
use crate::virtio::chain::ChainBuffers;
use crate::virtio::device::{Activation, ActiveQueue, QueuePosition};
use crate::virtio::interrupt::Interrupt;

/// The token of the first pair's backend event; queues have their numbers.
const EVENTS: u32 = 1 << 16;
/// The token of the owner's wish to have the settings read again.
const SETTINGS: u32 = 1 << 17;
/// The token of the rate limits' timer.
const TIMER: u32 = SETTINGS + 1;

/// Commands of the control queue answered before the I/O thread looks at its other workers.
const COMMANDS: usize = 32;

/// What a card holds while no worker runs, and its worker while one does.
pub(super) struct Plumbing {
    pub(super) backend: Box<dyn NetBackend>,
    pub(super) timer: TimerFd,
    pub(super) rx_limit: RateLimiter,
    pub(super) tx_limit: RateLimiter,
}

/// Everything but the queues.
pub(super) struct Port {
    pub(super) memory: SharedMemory,
    pub(super) features: u64,
    pub(super) interrupt: Arc<Interrupt>,
    pub(super) shared: Arc<Shared>,
    pub(super) backend: Box<dyn NetBackend>,
    /// A copy of what is shared, to look at without a lock.
    pub(super) setup: Setup,
    timer: TimerFd,
    /// When the timer ends.
    armed: Option<Instant>,
    rx_limit: RateLimiter,
    tx_limit: RateLimiter,
}

impl Port {
    /// Whether the driver takes frames that are still to be cut.
    pub(super) fn takes_long_frames(&self) -> bool {
        let long = F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_UFO | F_GUEST_USO4;
        let enabled = self.enabled();
        enabled & F_GUEST_CSUM != 0 && enabled & long != 0
    }

    /// The features of the driver's taking that are switched on.
    fn enabled(&self) -> u64 {
        let agreed = self.features & GUEST_OFFLOADS;
        self.setup.offloads.map_or(agreed, |on| on & agreed)
    }

    /// Until when to wait before a frame may be received.
    pub(super) fn rx_wait(&mut self) -> Option<Instant> {
        wait(&mut self.rx_limit)
    }

    /// Until when to wait before a frame may be sent.
    pub(super) fn tx_wait(&mut self) -> Option<Instant> {
        wait(&mut self.tx_limit)
    }

    pub(super) fn rx_charge(&mut self, bytes: u32) {
        self.rx_limit.charge(bytes.into());
    }

    pub(super) fn tx_charge(&mut self, bytes: u32) {
        self.tx_limit.charge(bytes.into());
    }

    /// Whether the backend has gone for good.
    pub(super) fn is_lost(&self) -> bool {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// The backend has gone for good: the guest sees that there is no carrier.
    pub(super) fn lose(&mut self, error: &io::Error) {
        if self.shared.lost.swap(true, Ordering::Relaxed) {
            return;
        }
        let id = &self.shared.options.id;
        log::error!(
            "{id}: the network behind it has gone, and the guest's link is down: {error}; restart \
             the guest with a new interface"
        );
        self.interrupt.signal_config();
    }

    /// Tells the backend how many pairs are in use and what the driver takes.
    pub(super) fn set_up_backend(&mut self) {
        let offloads = guest_offloads(self.enabled());
        let active = self.setup.pairs;
        let done = self.backend.set_offloads(offloads);
        if let Err(error) = done.and_then(|()| self.backend.set_active(active)) {
            limited_warn!(
                "{}: offloads and queues cannot be set: {error}",
                self.shared.options.id
            );
        }
    }

    /// Carries one command of the control queue out.
    fn command(&mut self, chain: &ChainBuffers) -> Result<bool, Fault> {
        let terms = Terms {
            features: self.features,
            pairs_max: self.shared.pairs,
        };
        let memory = Arc::clone(&self.memory);
        let mut answer = chain.writable(&memory);
        if answer.remaining() == 0 {
            return Err(Fault("a command without room for its answer".to_owned()));
        }
        let mut request = chain.readable(&memory);
        let change = execute(&mut self.setup, terms, &mut request);
        let ack = if change.is_some() {
            control::OK
        } else {
            control::ERR
        };
        // Before the answer, which the driver may act upon.
        self.publish(change);
        answer.write(&[ack]).map_err(|error| Fault::new(&error))?;
        Ok(matches!(change, Some(Change::Pairs)))
    }

    fn publish(&mut self, change: Option<Change>) {
        let stats = &self.shared.stats;
        let Some(change) = change else {
            add(&stats.control_refused, 1);
            return;
        };
        add(&stats.control_done, 1);
        self.shared.setup().clone_from(&self.setup);
        match change {
            Change::Filter => {
                if self.shared.filter_event.swap(false, Ordering::AcqRel) {
                    let id = Arc::clone(&self.shared.options.id);
                    let event = GuestEvent::NicRxFilterChanged { id };
                    self.shared.options.events.raise(event);
                }
            }
            Change::Announced => self.shared.announce.store(false, Ordering::Relaxed),
            Change::Pairs | Change::Offloads => self.set_up_backend(),
        }
    }

    /// Has the timer end `until` then, or never.
    fn arm(&mut self, until: Option<Instant>) {
        self.armed = until;
        let set = match until {
            // A time of zero would switch it off.
            Some(until) => {
                let wait = until.saturating_duration_since(Instant::now());
                self.timer.reset(wait.max(Duration::from_nanos(1)), None)
            }
            None => self.timer.clear(),
        };
        if let Err(error) = set {
            limited_warn!("{}: no timer: {error}", self.shared.options.id);
        }
    }

    /// The owner has changed the limits.
    fn read_limits(&mut self) {
        let limits = *self.shared.limits();
        let now = Instant::now();
        self.rx_limit.set(limits.rx, now);
        self.tx_limit.set(limits.tx, now);
    }
}

fn wait(limit: &mut RateLimiter) -> Option<Instant> {
    if !limit.is_limited() {
        return None;
    }
    let now = Instant::now();
    let wait = limit.wait(now)?;
    Some(now.checked_add(wait).unwrap_or(now))
}

/// Two queues, and what each waits for.
struct Pair {
    /// Its number, from 0, which is also that of the backend's queue.
    number: u16,
    /// `None` if the driver did not set the queue up.
    receiver: Option<Receiver>,
    transmitter: Option<Transmitter>,
    rx: rx::Next,
    tx: tx::Next,
    /// What the backend's event tells.
    watched: (bool, bool),
}

impl Pair {
    fn receive(&mut self, port: &mut Port) -> Result<(), Fault> {
        if let Some(receiver) = &mut self.receiver {
            self.rx = receiver.run(port, self.number)?;
        }
        Ok(())
    }

    fn transmit(&mut self, port: &mut Port) -> Result<(), Fault> {
        if let Some(transmitter) = &mut self.transmitter {
            self.tx = transmitter.run(port, self.number)?;
        }
        Ok(())
    }

    /// Waits for the backend where that is what comes next.
    fn watch(&mut self, port: &mut Port) {
        let receiving = self.receiver.is_some() && self.rx == rx::Next::Frames && !port.is_lost();
        let wanted = (receiving, self.tx == tx::Next::Room);
        if wanted == self.watched {
            return;
        }
        self.watched = wanted;
        if let Err(error) = port.backend.watch(self.number, wanted.0, wanted.1) {
            port.lose(&error);
        }
    }

    /// Until when to wait for the rate limits.
    fn deadline(&self) -> Option<Instant> {
        let rx = match self.rx {
            rx::Next::Time(until) => Some(until),
            _ => None,
        };
        match self.tx {
            tx::Next::Time(until) => Some(rx.map_or(until, |rx| rx.min(until))),
            _ => rx,
        }
    }
}

/// The running half of a network card.
pub(super) struct NetWorker {
    port: Port,
    pairs: Vec<Pair>,
    control: Option<ActiveQueue>,
    chain: ChainBuffers,
}

impl NetWorker {
    pub(super) fn new(
        activation: Activation,
        shared: Arc<Shared>,
        plumbing: Plumbing,
        setup: Setup,
    ) -> Self {
        let Activation {
            memory,
            features,
            queues,
            interrupt,
            recall: _,
        } = activation;
        let Plumbing {
            backend,
            timer,
            rx_limit,
            tx_limit,
        } = plumbing;
        let new_pair = |number| Pair {
            number,
            receiver: None,
            transmitter: None,
            rx: rx::Next::Nothing,
            tx: tx::Next::Frames,
            watched: (false, false),
        };
        let mut pairs: Vec<Pair> = (0..shared.pairs).map(new_pair).collect();
        let mut control = None;
        for active in queues {
            match Role::of(active.index, features, shared.pairs) {
                Role::Unused => {}
                Role::Control => control = Some(active),
                Role::Receive(number) => {
                    if let Some(pair) = pairs.get_mut(usize::from(number)) {
                        pair.receiver = Some(Receiver::new(active, Arc::clone(&memory)));
                    }
                }
                Role::Transmit(number) => {
                    if let Some(pair) = pairs.get_mut(usize::from(number)) {
                        pair.transmitter = Some(Transmitter::new(active, Arc::clone(&memory)));
                    }
                }
            }
        }
        let mut port = Port {
            memory,
            features,
            interrupt,
            shared,
            backend,
            setup,
            timer,
            armed: None,
            rx_limit,
            tx_limit,
        };
        port.read_limits();
        port.set_up_backend();
        Self {
            port,
            pairs,
            control,
            chain: ChainBuffers::new(),
        }
    }

    /// What is left of it, and how far the queues are.
    pub(super) fn into_parts(self) -> (Plumbing, Vec<QueuePosition>) {
        let Self {
            port,
            pairs,
            control,
            chain: _,
        } = self;
        let Port {
            backend,
            timer,
            rx_limit,
            tx_limit,
            ..
        } = port;
        let each = pairs.iter().flat_map(|pair| {
            let rx = pair.receiver.as_ref().map(Receiver::position);
            let tx = pair.transmitter.as_ref().map(Transmitter::position);
            rx.into_iter().chain(tx)
        });
        let control = control.map(|active| (active.index, active.queue.position()));
        let positions = each.chain(control).collect();
        let plumbing = Plumbing {
            backend,
            timer,
            rx_limit,
            tx_limit,
        };
        (plumbing, positions)
    }

    fn step(&mut self, token: u32) -> Result<(), Fault> {
        match token {
            SETTINGS => {
                drop(self.port.shared.wake.read());
                self.port.read_limits();
                self.all()
            }
            TIMER => {
                self.port.arm(None);
                self.each(|pair, port| {
                    if matches!(pair.rx, rx::Next::Time(_)) {
                        pair.receive(port)?;
                    }
                    if matches!(pair.tx, tx::Next::Time(_)) {
                        pair.transmit(port)?;
                    }
                    Ok(())
                })
            }
            token if token >= EVENTS => {
                let number = token - EVENTS;
                self.each(|pair, port| {
                    if u32::from(pair.number) != number {
                        return Ok(());
                    }
                    if pair.watched.1 {
                        pair.transmit(port)?;
                    }
                    if pair.watched.0 {
                        pair.receive(port)?;
                    }
                    Ok(())
                })
            }
            token => self.notified(token),
        }
    }

    /// The driver has notified queue number `token`.
    fn notified(&mut self, token: u32) -> Result<(), Fault> {
        if let Some(control) = &self.control
            && u32::from(control.index) == token
        {
            return self.commands();
        }
        self.each(
            |pair, port| match token.checked_sub(u32::from(pair.number) * 2) {
                Some(0) => pair.receive(port),
                Some(1) => pair.transmit(port),
                _ => Ok(()),
            },
        )
    }

    fn each(
        &mut self,
        mut act: impl FnMut(&mut Pair, &mut Port) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let Self { port, pairs, .. } = self;
        pairs.iter_mut().try_for_each(|pair| act(pair, port))
    }

    fn all(&mut self) -> Result<(), Fault> {
        self.each(|pair, port| {
            pair.receive(port)?;
            pair.transmit(port)
        })
    }

    fn commands(&mut self) -> Result<(), Fault> {
        let Self {
            port,
            control,
            chain,
            ..
        } = self;
        let Some(control) = control else {
            return Ok(());
        };
        let memory = Arc::clone(&port.memory);
        let mut more_pairs = false;
        let served = control.serve(&memory, COMMANDS, |queue, head| {
            chain.collect(queue.chain(&memory, head))?;
            more_pairs |= port.command(chain)?;
            queue.push_used(&memory, head, 1)?;
            Ok(ControlFlow::Continue(()))
        });
        served.and(control.signal(&memory, &port.interrupt))?;
        if more_pairs { self.all() } else { Ok(()) }
    }

    /// Has every wait that is left be for something that will come.
    fn settle(&mut self) {
        let Self { port, pairs, .. } = self;
        for pair in pairs.iter_mut() {
            pair.watch(port);
        }
        let deadline = pairs.iter().filter_map(Pair::deadline).min();
        if deadline != port.armed {
            port.arm(deadline);
        }
    }
}

impl Worker for NetWorker {
    fn sources(&self) -> Vec<Source> {
        let Self {
            port,
            pairs,
            control,
            chain: _,
        } = self;
        let source = |fd, token| Source { fd, token };
        let doorbell = |active: &ActiveQueue| {
            let token = u32::from(active.index);
            source(active.doorbell.as_raw_fd(), token)
        };
        let mut sources = Vec::new();
        for pair in pairs {
            sources.extend(pair.receiver.as_ref().map(|r| doorbell(r.active())));
            sources.extend(pair.transmitter.as_ref().map(|t| doorbell(t.active())));
            let event = port.backend.event(pair.number);
            sources.extend(event.map(|fd| source(fd, EVENTS + u32::from(pair.number))));
        }
        sources.extend(control.as_ref().map(doorbell));
        sources.push(source(port.shared.wake.as_raw_fd(), SETTINGS));
        sources.push(source(port.timer.as_raw_fd(), TIMER));
        sources
    }

    fn ready(&mut self, token: u32) -> Result<(), Fault> {
        let result = self.step(token);
        self.settle();
        result
    }

    /// What the backend has comes by descriptors, which are not worth asking all the time.
    fn poll(&mut self) -> Result<bool, Fault> {
        Ok(false)
    }

    fn stop_polling(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// Nothing is ever in flight; what could wake the thread for nothing is switched off.
    fn finish(&mut self) -> bool {
        let Self {
            port,
            pairs,
            control,
            chain: _,
        } = self;
        for pair in pairs {
            pair.watched = (false, false);
            // Where it fails nothing is told any more.
            drop(port.backend.watch(pair.number, false, false));
            let receiver = pair.receiver.as_ref().map(Receiver::active);
            let transmitter = pair.transmitter.as_ref().map(Transmitter::active);
            for active in receiver.into_iter().chain(transmitter) {
                drop(active.doorbell.read());
            }
        }
        if let Some(control) = control {
            drop(control.doorbell.read());
        }
        drop(port.shared.wake.read());
        port.arm(None);
        true
    }
}
