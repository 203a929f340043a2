//! Numbers of virtio 1.2 that more than one file needs, each with its section. No code.
//!
//! The test below compares them with the Linux headers (through `virtio-bindings`).

/// Device type of a network card (5).
pub const TYPE_NET: u32 = 1;
/// Device type of a block device (5).
pub const TYPE_BLOCK: u32 = 2;
/// Device type of an entropy source (5).
pub const TYPE_ENTROPY: u32 = 4;
/// Device type of a socket device (5).
pub const TYPE_VSOCK: u32 = 19;

/// Device status (2.1): the driver has seen the device.
pub const STATUS_ACKNOWLEDGE: u8 = 1;
/// Device status (2.1): a driver for it exists.
pub const STATUS_DRIVER: u8 = 2;
/// Device status (2.1): the driver is set up and drives.
pub const STATUS_DRIVER_OK: u8 = 4;
/// Device status (2.1): feature negotiation is done.
pub const STATUS_FEATURES_OK: u8 = 8;
/// Device status (2.1): the device cannot go on until it is reset.
pub const STATUS_NEEDS_RESET: u8 = 0x40;
/// Device status (2.1): the driver has given up.
pub const STATUS_FAILED: u8 = 0x80;

/// Feature bit (6): descriptors may refer to a table of descriptors.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature bit (6): notifications are suppressed by ring position.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// Feature bit (6): not a legacy device.
pub const F_VERSION_1: u64 = 1 << 32;

/// Descriptor flag (2.7.5): the chain goes on at `next`.
pub const DESC_F_NEXT: u16 = 1;
/// Descriptor flag (2.7.5): for the device to write.
pub const DESC_F_WRITE: u16 = 2;
/// Descriptor flag (2.7.5): the buffer holds a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;
/// Flag of the available ring (2.7.6): the driver wants no interrupt.
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// Flag of the used ring (2.7.8): the device wants no notification.
pub const USED_F_NO_NOTIFY: u16 = 1;

/// Bytes of a descriptor (2.7.5).
pub const DESC_SIZE: u64 = 16;
/// Largest queue the standard knows (2.7).
pub const QUEUE_SIZE_MAX: u16 = 32768;

/// Interrupt status (4.2.2): the device has used a buffer.
pub const INTERRUPT_USED: u32 = 1;
/// Interrupt status (4.2.2): the device's configuration or status changed.
pub const INTERRUPT_CONFIG: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::virtio_ring as ring;
    use virtio_bindings::{virtio_config as config, virtio_ids as ids, virtio_mmio as mmio};

    #[test]
    fn numbers_are_those_of_the_linux_headers() {
        assert_eq!(TYPE_NET, ids::VIRTIO_ID_NET);
        assert_eq!(TYPE_BLOCK, ids::VIRTIO_ID_BLOCK);
        assert_eq!(TYPE_ENTROPY, ids::VIRTIO_ID_RNG);
        assert_eq!(TYPE_VSOCK, ids::VIRTIO_ID_VSOCK);
        let status = [
            (STATUS_ACKNOWLEDGE, config::VIRTIO_CONFIG_S_ACKNOWLEDGE),
            (STATUS_DRIVER, config::VIRTIO_CONFIG_S_DRIVER),
            (STATUS_DRIVER_OK, config::VIRTIO_CONFIG_S_DRIVER_OK),
            (STATUS_FEATURES_OK, config::VIRTIO_CONFIG_S_FEATURES_OK),
            (STATUS_NEEDS_RESET, config::VIRTIO_CONFIG_S_NEEDS_RESET),
            (STATUS_FAILED, config::VIRTIO_CONFIG_S_FAILED),
        ];
        assert!(
            status
                .iter()
                .all(|&(ours, theirs)| u32::from(ours) == theirs)
        );
        assert_eq!(F_INDIRECT_DESC, 1 << ring::VIRTIO_RING_F_INDIRECT_DESC);
        assert_eq!(F_EVENT_IDX, 1 << ring::VIRTIO_RING_F_EVENT_IDX);
        assert_eq!(F_VERSION_1, 1 << config::VIRTIO_F_VERSION_1);
        assert_eq!(u32::from(DESC_F_NEXT), ring::VRING_DESC_F_NEXT);
        assert_eq!(u32::from(DESC_F_WRITE), ring::VRING_DESC_F_WRITE);
        assert_eq!(u32::from(DESC_F_INDIRECT), ring::VRING_DESC_F_INDIRECT);
        assert_eq!(
            u32::from(AVAIL_F_NO_INTERRUPT),
            ring::VRING_AVAIL_F_NO_INTERRUPT
        );
        assert_eq!(u32::from(USED_F_NO_NOTIFY), ring::VRING_USED_F_NO_NOTIFY);
        assert_eq!(INTERRUPT_USED, mmio::VIRTIO_MMIO_INT_VRING);
        assert_eq!(INTERRUPT_CONFIG, mmio::VIRTIO_MMIO_INT_CONFIG);
    }
}
