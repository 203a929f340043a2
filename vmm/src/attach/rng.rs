//! The random number generator.

use devices::virtio::rng::{HostEntropy, Rng};

use super::virtio::{VirtioDeviceSlot, VirtioKind, attach as attach_virtio};
use super::{AttachError, Board};

/// Attaches a virtio-rng fed by the host's generator.
///
/// # Errors
/// [`AttachError`].
pub fn attach(board: &mut Board<'_>, id: &str) -> Result<VirtioDeviceSlot, AttachError> {
    let device = Rng::new(Box::new(HostEntropy));
    attach_virtio(board, id, Box::new(device), VirtioKind::Rng)
}
