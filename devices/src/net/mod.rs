//! What is behind a network card: a backend that takes and gives Ethernet frames.
//!
//! * [`ranges`]: where in guest memory a frame lies, or is to go.
//! * [`tap`]: Linux's tap devices.
//! * [`open`]: making or inheriting them; the launcher's part.
//! * `fake`: sockets instead, for tests.
//!
//! A backend belongs to the card's worker on the I/O thread while that runs. Nothing here waits: a
//! backend that cannot go on answers `WouldBlock`, and its event tells when it can.

#[cfg(any(test, feature = "test-util"))]
pub mod fake;
pub mod open;
pub mod ranges;
mod readiness;
pub mod tap;

use std::io;
use std::os::fd::RawFd;

use self::ranges::GuestRanges;
use crate::random;

/// Bytes of the header before each frame, both ways: `struct virtio_net_hdr_v1` (virtio 1.2,
/// 5.1.6), as Linux's tap devices take it by `TUNSETVNETHDRSZ`.
pub const HEADER_LEN: usize = 12;

/// Most bytes of a frame without its header: the largest IP packet that segmentation offload
/// yields, 65535 bytes after an IPv6 header, with Ethernet's header, two VLAN tags, and to spare.
pub const FRAME_MAX: u32 = 0x1_0000 + 64;

/// What one side may leave to the other: frames without a checksum, and such as are longer than
/// the medium takes. All but `csum` need `csum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Checksums.
    pub csum: bool,
    /// TCP over IPv4 of up to 64 KiB.
    pub tso4: bool,
    /// TCP over IPv6 of up to 64 KiB.
    pub tso6: bool,
    /// TCP with explicit congestion notification.
    pub ecn: bool,
    /// UDP to be cut into IP fragments.
    pub ufo: bool,
    /// UDP to be cut into datagrams, both over IPv4 and IPv6.
    pub uso: bool,
}

/// Random octets, for an address.
///
/// # Errors
/// The host's answer if it has none.
pub fn random_octets() -> io::Result<[u8; 6]> {
    let mut octets = [0; 6];
    random::fill(&mut octets)?;
    Ok(octets)
}

/// The host's side of a network card.
///
/// Queues are numbered from 0; each sends and receives.
pub trait NetBackend: Send {
    /// How many queues there are, at least 1.
    fn queues(&self) -> u16;

    /// What the host takes from the guest and can give to it. It does not change.
    fn offloads(&self) -> Offloads;

    /// Says what the guest takes. Only `true` where [`NetBackend::offloads`] is.
    ///
    /// # Errors
    /// What the host answered.
    fn set_offloads(&mut self, guest: Offloads) -> io::Result<()>;

    /// Spreads what comes in over the first `active` queues: 1 to [`NetBackend::queues`].
    ///
    /// # Errors
    /// What the host answered.
    fn set_active(&mut self, active: u16) -> io::Result<()>;

    /// A descriptor that is readable when what [`NetBackend::watch`] asked for has come, the same
    /// always. `None` if there is no such queue.
    fn event(&self, queue: u16) -> Option<RawFd>;

    /// Says what the event of `queue` is to tell: that a frame waits to be received, that there
    /// is room to send one, both or nothing. At first nothing.
    ///
    /// # Errors
    /// What the host answered; the event tells nothing then.
    fn watch(&mut self, queue: u16, receiving: bool, sending: bool) -> io::Result<()>;

    /// Takes the next frame, behind its header, into `ranges` and what does not fit there into
    /// `overflow`. Answers how many bytes there were; if it is all the room there was, there may
    /// have been more, and they are lost. The header's last two bytes need not be written.
    ///
    /// # Errors
    /// `WouldBlock` when there is no frame. Any other means that the queue cannot be used.
    fn receive(
        &mut self,
        queue: u16,
        ranges: &mut GuestRanges,
        overflow: &mut [u8],
    ) -> io::Result<usize>;

    /// Sends a frame. `header` makes sense.
    ///
    /// # Errors
    /// `WouldBlock` when the queue is full; `NotConnected` when it cannot be used any more. Any
    /// other means that this frame could not be sent.
    fn send(
        &mut self,
        queue: u16,
        header: &[u8; HEADER_LEN],
        frame: &GuestRanges,
    ) -> io::Result<()>;
}
