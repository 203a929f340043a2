//! A network card: an opened tap behind a virtio-net device.

use api_socket::config::{CheckedLimits, CheckedNetBackend, CheckedRate, MacAddress};
use devices::net::random_octets;
use devices::rate_limit::{Limits, Rate};
use devices::virtio::net::{NetHandle, NetLimits, NetOptions, VirtioNet};

use super::virtio::{VirtioDeviceSlot, VirtioKind, attach as attach_virtio};
use super::{AttachError, Board};
use crate::launch::OpenNet;

/// What the machine keeps of a network card beside its device.
pub struct NetInfo {
    /// Counters, filter, limits, at any time.
    pub handle: NetHandle,
    /// The tap interface's name.
    pub interface: String,
    /// Pairs of queues.
    pub queues: u16,
}

/// Attaches a network card. `guest` is the guest's UUID or name, from which the card's address is
/// made if none is configured; that of a nameless guest is random.
///
/// # Errors
/// [`AttachError`].
pub fn attach(
    board: &mut Board<'_>,
    net: OpenNet,
    guest: Option<&str>,
) -> Result<VirtioDeviceSlot, AttachError> {
    let OpenNet {
        config,
        backend,
        interface,
    } = net;
    let mac = match (config.mac, guest) {
        (Some(mac), _) => mac,
        (None, Some(guest)) => MacAddress::derived(guest, &config.id),
        (None, None) => MacAddress::local(random_octets().map_err(AttachError::Address)?),
    };
    let queues = match &config.backend {
        CheckedNetBackend::Tap { queues, .. } => *queues,
        CheckedNetBackend::Fds(fds) => u16::try_from(fds.len()).unwrap_or(u16::MAX),
    };
    let options = NetOptions {
        id: config.id.as_str().into(),
        mac: mac.0,
        mtu: config.mtu,
        limits: NetLimits {
            rx: limits(config.rx),
            tx: limits(config.tx),
        },
        events: board.events.clone(),
    };
    let device = VirtioNet::new(backend, options).map_err(AttachError::EventFd)?;
    let info = NetInfo {
        handle: device.handle(),
        interface,
        queues,
    };
    attach_virtio(board, &config.id, Box::new(device), VirtioKind::Net(info))
}

/// Limits as the device takes them.
#[must_use]
pub fn limits(checked: CheckedLimits) -> Limits {
    let rate = |rate: CheckedRate| {
        let usual = Rate::new(rate.per_second);
        rate.burst.map_or(usual, |burst| usual.with_burst(burst))
    };
    Limits {
        bytes: checked.bytes.map(rate),
        operations: checked.operations.map(rate),
    }
}
