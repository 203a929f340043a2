//! The network card (virtio 1.2, 5.1).
//!
//! * [`config`]: feature bits and the configuration space.
//! * [`header`]: the header of a frame to be sent, checked.
//! * [`filter`]: which frames are received.
//! * [`control`]: the control queue's commands.
//! * `rx`, `tx`: one queue each way; `worker`: all of them, on the I/O thread.
//! * [`stats`]: counters that anybody may read.
//! * [`saved`]: the saved form.
//!
//! The device itself (this file) is called on vCPU threads, and on the main thread while paused.
//! What is behind it is a [`NetBackend`].

pub mod config;
pub mod control;
pub mod filter;
pub mod header;
mod rx;
pub mod saved;
pub mod stats;
mod tx;
mod worker;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use self::config::{F_CTRL_VLAN, F_CTRL_VQ, F_MQ, S_ANNOUNCE, S_LINK_UP};
use self::filter::{RxFilter, VlanTable};
use self::saved::{FilterState, NetState, bad};
use self::stats::NetStats;
use self::worker::{NetWorker, Plumbing};
use super::device::{Activation, Identity, QueuePosition, VirtioDevice};
use super::saved::DeviceState;
use super::spec::TYPE_NET;
use crate::events::EventSink;
use crate::io_thread::{Fault, Worker};
use crate::net::{NetBackend, Offloads};
use crate::rate_limit::{Limits, RateLimiter};
use crate::saved::BadState;

/// Size of each queue; QEMU's default.
pub const QUEUE_SIZE: u16 = 256;
/// Size of the control queue, where it is the last one.
pub const CONTROL_QUEUE_SIZE: u16 = 64;
/// Most pairs of queues: one for each of 32 vCPUs.
pub const PAIRS_MAX: u16 = 32;

/// An Ethernet address.
pub type MacAddress = [u8; 6];

/// How a network card is set up.
#[derive(Clone)]
pub struct NetOptions {
    /// The device's id, as events name it.
    pub id: Arc<str>,
    /// Its address, unless the driver sets another.
    pub mac: MacAddress,
    /// The MTU that the guest is told; `None` tells none.
    pub mtu: Option<u16>,
    /// Limits from the start.
    pub limits: NetLimits,
    /// Who is told of changes of the filter.
    pub events: Arc<dyn EventSink>,
}

/// How much may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetLimits {
    /// Into the guest.
    pub rx: Limits,
    /// Out of the guest.
    pub tx: Limits,
}

/// What the driver has set up by the control queue.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setup {
    filter: RxFilter,
    /// Pairs of queues in use.
    pairs: u16,
    /// The offloads left switched on; `None` are all that were agreed on.
    offloads: Option<u64>,
}

impl Setup {
    fn new(mac: MacAddress) -> Self {
        Self {
            filter: RxFilter::new(mac),
            pairs: 1,
            offloads: None,
        }
    }
}

/// What device, worker and owner all look at.
struct Shared {
    options: NetOptions,
    /// Pairs of queues that there are. Constant.
    pairs: u16,
    stats: Arc<NetStats>,
    /// Changed by the worker while one runs.
    setup: Mutex<Setup>,
    limits: Mutex<NetLimits>,
    /// Whether the cable is plugged in.
    link_up: AtomicBool,
    /// The backend has gone for good. Nothing brings it back.
    lost: AtomicBool,
    /// The driver has been asked to announce itself.
    announce: AtomicBool,
    /// The next change of the filter is to be told.
    filter_event: AtomicBool,
    /// Has the worker look at the settings.
    wake: EventFd,
}

impl Shared {
    fn setup(&self) -> MutexGuard<'_, Setup> {
        self.setup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> MutexGuard<'_, NetLimits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when the counter is full: it is signalled then.
        drop(self.wake.write(1));
    }
}

/// The owner's way to a card, at any time and without the machine being held.
#[derive(Clone)]
pub struct NetHandle(Arc<Shared>);

impl NetHandle {
    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &NetStats {
        &self.0.stats
    }

    /// What is received. The next change after this is told as an event.
    #[must_use]
    pub fn filter(&self) -> RxFilter {
        self.0.filter_event.store(true, Ordering::Release);
        self.0.setup().filter.clone()
    }

    /// The card's present address.
    #[must_use]
    pub fn mac(&self) -> MacAddress {
        self.0.setup().filter.mac
    }

    /// Whether the guest sees a carrier.
    #[must_use]
    pub fn carrier(&self) -> bool {
        self.0.link_up.load(Ordering::Relaxed) && !self.0.lost.load(Ordering::Relaxed)
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> NetLimits {
        *self.0.limits()
    }

    /// Changes the limits at once.
    pub fn set_limits(&self, limits: NetLimits) {
        *self.0.limits() = limits;
        self.0.wake();
    }
}

/// What a queue is for. Without [`F_MQ`] there is one pair, whatever the device has, and the
/// control queue follows it (5.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Receive(u16),
    Transmit(u16),
    Control,
    Unused,
}

impl Role {
    fn of(index: u16, features: u64, pairs: u16) -> Self {
        let pairs = if features & F_MQ != 0 { pairs } else { 1 };
        if index / 2 < pairs {
            return if index.is_multiple_of(2) {
                Self::Receive(index / 2)
            } else {
                Self::Transmit(index / 2)
            };
        }
        if index == pairs * 2 && features & F_CTRL_VQ != 0 {
            Self::Control
        } else {
            Self::Unused
        }
    }
}

/// The network card.
pub struct VirtioNet {
    identity: Identity,
    shared: Arc<Shared>,
    /// The worker has it while one runs.
    plumbing: Option<Plumbing>,
}

impl fmt::Debug for VirtioNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioNet")
            .field("id", &self.shared.options.id)
            .finish_non_exhaustive()
    }
}

impl VirtioNet {
    /// A card in front of `backend`. Pairs of queues beyond [`PAIRS_MAX`] are not used.
    ///
    /// # Errors
    /// When the host is out of descriptors.
    pub fn new(backend: Box<dyn NetBackend>, options: NetOptions) -> io::Result<Self> {
        let pairs = backend.queues().clamp(1, PAIRS_MAX);
        let mut queue_sizes = vec![QUEUE_SIZE; usize::from(pairs) * 2];
        queue_sizes.push(CONTROL_QUEUE_SIZE);
        let features = config::features(backend.offloads(), pairs, options.mtu);
        let now = Instant::now();
        let limits = options.limits;
        let plumbing = Plumbing {
            backend,
            timer: TimerFd::new()?,
            rx_limit: RateLimiter::new(limits.rx, now),
            tx_limit: RateLimiter::new(limits.tx, now),
        };
        let shared = Shared {
            setup: Mutex::new(Setup::new(options.mac)),
            options,
            pairs,
            stats: Arc::default(),
            limits: Mutex::new(limits),
            link_up: AtomicBool::new(true),
            lost: AtomicBool::new(false),
            announce: AtomicBool::new(false),
            filter_event: AtomicBool::new(true),
            wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        };
        Ok(Self {
            identity: Identity {
                device_type: TYPE_NET,
                features,
                queue_sizes,
            },
            shared: Arc::new(shared),
            plumbing: Some(plumbing),
        })
    }

    /// The owner's handle.
    #[must_use]
    pub fn handle(&self) -> NetHandle {
        NetHandle(Arc::clone(&self.shared))
    }

    /// Plugs the cable in or out. Afterwards the caller tells the guest with
    /// `Core::config_changed`.
    pub fn set_link(&mut self, up: bool) {
        self.shared.link_up.store(up, Ordering::Relaxed);
        self.shared.wake();
    }

    /// Asks the driver to announce its addresses to the network. Afterwards the caller tells the
    /// guest with `Core::config_changed`.
    pub fn announce(&mut self) {
        self.shared.announce.store(true, Ordering::Relaxed);
    }

    fn status(&self) -> u16 {
        let carrier = self.shared.link_up.load(Ordering::Relaxed)
            && !self.shared.lost.load(Ordering::Relaxed);
        let announce = self.shared.announce.load(Ordering::Relaxed);
        let bit = |on: bool, bit: u16| if on { bit } else { 0 };
        bit(carrier, S_LINK_UP) | bit(announce, S_ANNOUNCE)
    }
}

impl VirtioDevice for VirtioNet {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mac = self.shared.setup().filter.mac;
        let Shared { options, pairs, .. } = &*self.shared;
        let space = config::encode(mac, self.status(), *pairs, options.mtu);
        let from = usize::try_from(offset)
            .ok()
            .and_then(|offset| space.get(offset..));
        for (byte, value) in data.iter_mut().zip(from.unwrap_or_default()) {
            *byte = *value;
        }
    }

    /// Nothing is writable: a modern driver sets the address by the control queue.
    fn write_config(&mut self, _features: u64, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<Box<dyn Worker>, Fault> {
        let plumbing = self.plumbing.take();
        let plumbing = plumbing.ok_or_else(|| Fault("the network is gone".to_owned()))?;
        let mut setup = self.shared.setup();
        if activation.features & F_CTRL_VLAN != 0 {
            // From here on the driver says which pass.
            setup.filter.vlans.get_or_insert_with(VlanTable::default);
        }
        let setup = setup.clone();
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(NetWorker::new(
            activation, shared, plumbing, setup,
        )))
    }

    fn reclaim(&mut self, worker: Box<dyn Worker>) -> Result<Vec<QueuePosition>, Fault> {
        let worker: Box<dyn Any> = worker;
        let worker = worker.downcast::<NetWorker>();
        let worker = worker.map_err(|_| Fault("not a network card's worker".to_owned()))?;
        let (plumbing, positions) = worker.into_parts();
        self.plumbing = Some(plumbing);
        Ok(positions)
    }

    fn reset(&mut self) {
        let Self {
            identity: _,
            shared,
            plumbing,
        } = self;
        *shared.setup() = Setup::new(shared.options.mac);
        shared.announce.store(false, Ordering::Relaxed);
        if let Some(plumbing) = plumbing {
            // What comes in from now on is for a driver that has agreed on nothing yet. Where it
            // fails the network has gone, which the next worker finds.
            drop(plumbing.backend.set_offloads(Offloads::default()));
            drop(plumbing.backend.set_active(1));
        }
    }

    fn save(&self) -> DeviceState {
        let Self {
            identity: _,
            shared,
            plumbing: _,
        } = self;
        let setup = shared.setup();
        let Setup {
            filter,
            pairs,
            offloads,
        } = &*setup;
        DeviceState::Net(NetState {
            link_up: shared.link_up.load(Ordering::Relaxed),
            announce: shared.announce.load(Ordering::Relaxed),
            pairs: *pairs,
            offloads: *offloads,
            filter: FilterState::of(filter),
        })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), BadState> {
        let DeviceState::Net(state) = state else {
            return Err(bad("device", "is not a network card's".to_owned()));
        };
        let setup = state.setup(self.shared.pairs, self.identity.features)?;
        *self.shared.setup() = setup;
        let Shared {
            link_up, announce, ..
        } = &*self.shared;
        link_up.store(state.link_up, Ordering::Relaxed);
        announce.store(state.announce, Ordering::Relaxed);
        Ok(())
    }
}
