//! The network device's feature bits (virtio 1.2, 5.1.3) and configuration space (5.1.4).

use super::MacAddress;
use crate::net::Offloads;

/// The device takes frames without a checksum.
pub const F_CSUM: u64 = 1 << 0;
/// The driver takes frames without a checksum.
pub const F_GUEST_CSUM: u64 = 1 << 1;
/// What the driver takes can be changed by the control queue.
pub const F_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// `mtu` is valid.
pub const F_MTU: u64 = 1 << 3;
/// `mac` is valid.
pub const F_MAC: u64 = 1 << 5;
/// The driver takes TCP over IPv4 to be segmented.
pub const F_GUEST_TSO4: u64 = 1 << 7;
/// The driver takes TCP over IPv6 to be segmented.
pub const F_GUEST_TSO6: u64 = 1 << 8;
/// The driver takes TCP to be segmented with explicit congestion notification.
pub const F_GUEST_ECN: u64 = 1 << 9;
/// The driver takes UDP to be fragmented.
pub const F_GUEST_UFO: u64 = 1 << 10;
/// The device takes TCP over IPv4 to be segmented.
pub const F_HOST_TSO4: u64 = 1 << 11;
/// The device takes TCP over IPv6 to be segmented.
pub const F_HOST_TSO6: u64 = 1 << 12;
/// The device takes TCP to be segmented with explicit congestion notification.
pub const F_HOST_ECN: u64 = 1 << 13;
/// The device takes UDP to be fragmented.
pub const F_HOST_UFO: u64 = 1 << 14;
/// A received frame may be spread over several chains.
pub const F_MRG_RXBUF: u64 = 1 << 15;
/// `status` is valid.
pub const F_STATUS: u64 = 1 << 16;
/// There is a control queue.
pub const F_CTRL_VQ: u64 = 1 << 17;
/// The control queue changes what is received.
pub const F_CTRL_RX: u64 = 1 << 18;
/// The control queue filters VLANs.
pub const F_CTRL_VLAN: u64 = 1 << 19;
/// The control queue has more ways to change what is received.
pub const F_CTRL_RX_EXTRA: u64 = 1 << 20;
/// The device may ask the driver to announce itself.
pub const F_GUEST_ANNOUNCE: u64 = 1 << 21;
/// There are several pairs of queues.
pub const F_MQ: u64 = 1 << 22;
/// The control queue sets the address.
pub const F_CTRL_MAC_ADDR: u64 = 1 << 23;
/// The driver takes UDP over IPv4 to be segmented.
pub const F_GUEST_USO4: u64 = 1 << 54;
/// The driver takes UDP over IPv6 to be segmented.
pub const F_GUEST_USO6: u64 = 1 << 55;
/// The device takes UDP to be segmented.
pub const F_HOST_USO: u64 = 1 << 56;

/// The features that the control queue can switch (5.1.6.5.6.1): all the driver may take.
pub const GUEST_OFFLOADS: u64 = F_GUEST_CSUM
    | F_GUEST_TSO4
    | F_GUEST_TSO6
    | F_GUEST_ECN
    | F_GUEST_UFO
    | F_GUEST_USO4
    | F_GUEST_USO6;

/// `status`: there is a carrier.
pub const S_LINK_UP: u16 = 1;
/// `status`: the driver is to announce itself.
pub const S_ANNOUNCE: u16 = 2;

/// Bytes of the configuration space: `mac`, `status`, `max_virtqueue_pairs`, `mtu`.
pub const CONFIG_LEN: usize = 12;

/// The features of a device in front of a backend with these offloads.
pub(super) fn features(host: Offloads, pairs: u16, mtu: Option<u16>) -> u64 {
    let Offloads {
        csum,
        tso4,
        tso6,
        ecn,
        ufo,
        uso,
    } = host;
    let bits = |on: bool, bits: u64| if on { bits } else { 0 };
    F_MAC
        | F_STATUS
        | F_MRG_RXBUF
        | F_CTRL_VQ
        | F_CTRL_RX
        | F_CTRL_RX_EXTRA
        | F_CTRL_VLAN
        | F_CTRL_MAC_ADDR
        | F_CTRL_GUEST_OFFLOADS
        | F_GUEST_ANNOUNCE
        | bits(mtu.is_some(), F_MTU)
        | bits(pairs > 1, F_MQ)
        | bits(csum, F_CSUM | F_GUEST_CSUM)
        | bits(csum && tso4, F_HOST_TSO4 | F_GUEST_TSO4)
        | bits(csum && tso6, F_HOST_TSO6 | F_GUEST_TSO6)
        | bits(csum && ecn, F_HOST_ECN | F_GUEST_ECN)
        | bits(csum && ufo, F_HOST_UFO | F_GUEST_UFO)
        | bits(csum && uso, F_HOST_USO | F_GUEST_USO4 | F_GUEST_USO6)
}

/// What a driver that has agreed on `features`, and left `enabled` of them switched on, takes.
pub(super) fn guest_offloads(enabled: u64) -> Offloads {
    let has = |bit: u64| enabled & bit != 0;
    Offloads {
        csum: has(F_GUEST_CSUM),
        tso4: has(F_GUEST_TSO4),
        tso6: has(F_GUEST_TSO6),
        ecn: has(F_GUEST_ECN),
        ufo: has(F_GUEST_UFO),
        // The host gives both or neither.
        uso: has(F_GUEST_USO4) && has(F_GUEST_USO6),
    }
}

/// The configuration space.
pub(super) fn encode(
    mac: MacAddress,
    status: u16,
    pairs: u16,
    mtu: Option<u16>,
) -> [u8; CONFIG_LEN] {
    let [m0, m1, m2, m3, m4, m5] = mac;
    let [s0, s1] = status.to_le_bytes();
    let [p0, p1] = pairs.to_le_bytes();
    let [t0, t1] = mtu.unwrap_or(0).to_le_bytes();
    [m0, m1, m2, m3, m4, m5, s0, s1, p0, p1, t0, t1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::virtio_net as linux;

    #[test]
    fn bits_are_those_of_the_linux_headers() {
        for (ours, theirs) in [
            (F_CSUM, linux::VIRTIO_NET_F_CSUM),
            (F_GUEST_CSUM, linux::VIRTIO_NET_F_GUEST_CSUM),
            (
                F_CTRL_GUEST_OFFLOADS,
                linux::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
            ),
            (F_MTU, linux::VIRTIO_NET_F_MTU),
            (F_MAC, linux::VIRTIO_NET_F_MAC),
            (F_GUEST_TSO4, linux::VIRTIO_NET_F_GUEST_TSO4),
            (F_GUEST_TSO6, linux::VIRTIO_NET_F_GUEST_TSO6),
            (F_GUEST_ECN, linux::VIRTIO_NET_F_GUEST_ECN),
            (F_GUEST_UFO, linux::VIRTIO_NET_F_GUEST_UFO),
            (F_HOST_TSO4, linux::VIRTIO_NET_F_HOST_TSO4),
            (F_HOST_TSO6, linux::VIRTIO_NET_F_HOST_TSO6),
            (F_HOST_ECN, linux::VIRTIO_NET_F_HOST_ECN),
            (F_HOST_UFO, linux::VIRTIO_NET_F_HOST_UFO),
            (F_MRG_RXBUF, linux::VIRTIO_NET_F_MRG_RXBUF),
            (F_STATUS, linux::VIRTIO_NET_F_STATUS),
            (F_CTRL_VQ, linux::VIRTIO_NET_F_CTRL_VQ),
            (F_CTRL_RX, linux::VIRTIO_NET_F_CTRL_RX),
            (F_CTRL_VLAN, linux::VIRTIO_NET_F_CTRL_VLAN),
            (F_CTRL_RX_EXTRA, linux::VIRTIO_NET_F_CTRL_RX_EXTRA),
            (F_GUEST_ANNOUNCE, linux::VIRTIO_NET_F_GUEST_ANNOUNCE),
            (F_MQ, linux::VIRTIO_NET_F_MQ),
            (F_CTRL_MAC_ADDR, linux::VIRTIO_NET_F_CTRL_MAC_ADDR),
            (F_GUEST_USO4, linux::VIRTIO_NET_F_GUEST_USO4),
            (F_GUEST_USO6, linux::VIRTIO_NET_F_GUEST_USO6),
            (F_HOST_USO, linux::VIRTIO_NET_F_HOST_USO),
        ] {
            assert_eq!(ours, 1 << theirs);
        }
        assert_eq!(u32::from(S_LINK_UP), linux::VIRTIO_NET_S_LINK_UP);
        assert_eq!(u32::from(S_ANNOUNCE), linux::VIRTIO_NET_S_ANNOUNCE);
    }

    #[test]
    fn fields_are_where_the_linux_headers_have_them() {
        use linux::virtio_net_config as layout;
        use std::mem::offset_of;
        let space = encode([2, 3, 4, 5, 6, 7], 0x1234, 0x5678, Some(0x9abc));
        let at = |offset: usize| u16::from_le_bytes([space[offset], space[offset + 1]]);
        assert_eq!(space[offset_of!(layout, mac)..][..6], [2, 3, 4, 5, 6, 7]);
        assert_eq!(at(offset_of!(layout, status)), 0x1234);
        assert_eq!(at(offset_of!(layout, max_virtqueue_pairs)), 0x5678);
        assert_eq!(at(offset_of!(layout, mtu)), 0x9abc);
        assert_eq!(offset_of!(layout, speed), CONFIG_LEN);
    }

    #[test]
    fn what_the_host_cannot_do_is_not_offered() {
        let nothing = features(Offloads::default(), 1, None);
        assert_eq!(nothing & (GUEST_OFFLOADS | F_CSUM | F_HOST_USO), 0);
        assert_eq!(nothing & (F_MTU | F_MQ), 0);
        let everything = Offloads {
            csum: true,
            tso4: true,
            tso6: true,
            ecn: true,
            ufo: true,
            uso: true,
        };
        let all = features(everything, 2, Some(9000));
        assert_eq!(all & GUEST_OFFLOADS, GUEST_OFFLOADS);
        assert_eq!(guest_offloads(all), everything);
        assert!(!guest_offloads(all & !F_GUEST_USO6).uso);
    }
}
