//! Sockets between guest and host.

use devices::virtio::vsock::{PATIENCE, VirtioVsock};

use super::virtio::{VirtioDeviceSlot, VirtioKind, attach as attach_virtio};
use super::{AttachError, Board};
use crate::launch::OpenVsock;

// The configuration's rule (api-socket) and the device's (devices) each name these numbers, and
// neither crate imports the other.
const _: () = {
    use api_socket::config as rule;
    use devices::virtio::vsock as device;
    assert!(rule::CID_MIN == device::CID_MIN && rule::CID_MAX == device::CID_MAX);
};

/// Attaches a virtio-vsock.
///
/// # Errors
/// [`AttachError`].
pub fn attach(board: &mut Board<'_>, vsock: OpenVsock) -> Result<VirtioDeviceSlot, AttachError> {
    let OpenVsock { config, backend } = vsock;
    let device = VirtioVsock::new(backend, config.cid, PATIENCE).map_err(AttachError::EventFd)?;
    let stats = device.stats();
    attach_virtio(
        board,
        &config.id,
        Box::new(device),
        VirtioKind::Vsock(stats),
    )
}
