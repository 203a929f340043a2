//! The header before each frame to be sent (virtio 1.2, 5.1.6.2), taken from the guest and made
//! safe. Pure.
//!
//! The host's kernel believes this header as far as it must. What reaches it is a copy that was
//! checked, so that no guest can change it afterwards, and that holds nothing the driver has not
//! agreed on.

use super::config::{F_CSUM, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO};
use crate::net::{FRAME_MAX, HEADER_LEN};

/// `flags`: the checksum is to be filled in.
pub const NEEDS_CSUM: u8 = 1;
/// `gso_type`: nothing to cut.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// `gso_type`: UDP, into fragments.
pub const GSO_UDP: u8 = 3;
/// `gso_type`: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// `gso_type`: UDP, into datagrams.
pub const GSO_UDP_L4: u8 = 5;
/// `gso_type`: a bit beside TCP: with congestion notification.
pub const GSO_ECN: u8 = 0x80;

/// Bytes of an Ethernet header, the least that a frame has.
pub const ETHERNET_LEN: u32 = 14;

/// Why a frame is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Less than an Ethernet header, or more than any packet.
    #[error("a frame of {0} bytes")]
    Length(u32),
    /// The checksum's place is not in the frame.
    #[error("a checksum at {start}+{offset} of {len} bytes")]
    Checksum {
        /// `csum_start`.
        start: u16,
        /// `csum_offset`.
        offset: u16,
        /// The frame's length.
        len: u32,
    },
    /// A checksum or segmentation that was not agreed on, or that there is not.
    #[error("flags {flags:#x} with segmentation {gso:#x} were not agreed on")]
    NotAgreed {
        /// `flags`.
        flags: u8,
        /// `gso_type`.
        gso: u8,
    },
    /// Segments of no bytes.
    #[error("segments of no bytes")]
    NoSegment,
}

/// The header for the host, from the one the guest wrote for a frame of `len` bytes, with the
/// negotiated `features`.
///
/// # Errors
/// [`HeaderError`]; the frame is to be dropped.
pub fn checked(
    raw: &[u8; HEADER_LEN],
    len: u32,
    features: u64,
) -> Result<[u8; HEADER_LEN], HeaderError> {
    let &[flags, gso, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = raw;
    if !(ETHERNET_LEN..=FRAME_MAX).contains(&len) {
        return Err(HeaderError::Length(len));
    }
    // Unknown flags are to be ignored (5.1.6.2.2).
    let needs_csum = flags & NEEDS_CSUM != 0;
    let not_agreed = HeaderError::NotAgreed { flags, gso };
    let mut safe = [0; HEADER_LEN];
    if needs_csum {
        let start = u16::from_le_bytes([s0, s1]);
        let offset = u16::from_le_bytes([o0, o1]);
        if features & F_CSUM == 0 {
            return Err(not_agreed);
        }
        if u32::from(start) + u32::from(offset) + 2 > len {
            return Err(HeaderError::Checksum { start, offset, len });
        }
        safe = [NEEDS_CSUM, 0, 0, 0, 0, 0, s0, s1, o0, o1, 0, 0];
    }
    if gso == GSO_NONE {
        return Ok(safe);
    }
    let kind = gso & !GSO_ECN;
    let (needed, is_tcp) = match kind {
        GSO_TCPV4 => (F_HOST_TSO4, true),
        GSO_TCPV6 => (F_HOST_TSO6, true),
        GSO_UDP => (F_HOST_UFO, false),
        GSO_UDP_L4 => (F_HOST_USO, false),
        _ => return Err(not_agreed),
    };
    let ecn = gso & GSO_ECN != 0;
    let fine = features & needed != 0
        && (!ecn || (is_tcp && features & F_HOST_ECN != 0))
        // Each segment gets a checksum of its own. Fragments have one in all.
        && (needs_csum || kind == GSO_UDP);
    if !fine {
        return Err(not_agreed);
    }
    if [g0, g1] == [0, 0] {
        return Err(HeaderError::NoSegment);
    }
    // Only a hint of how much to look at, but not one the kernel takes if it is beyond the frame.
    let hint = u32::from(u16::from_le_bytes([h0, h1])).min(len);
    let [h0, h1, ..] = hint.to_le_bytes();
    let [_, _, _, _, _, _, s0, s1, o0, o1, _, _] = safe;
    Ok([safe[0], gso, h0, h1, g0, g1, s0, s1, o0, o1, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: u64 = F_CSUM | F_HOST_ECN | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_UFO | F_HOST_USO;

    /// A header with a checksum at 34 + 16 and segments of 1448 bytes.
    fn header(flags: u8, gso: u8) -> [u8; HEADER_LEN] {
        [flags, gso, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]
    }

    #[test]
    fn what_was_agreed_on_passes() {
        for (flags, gso) in [
            (1, GSO_TCPV4),
            (1, GSO_TCPV6),
            (1, GSO_TCPV4 | GSO_ECN),
            (1, GSO_TCPV6 | GSO_ECN),
            (1, GSO_UDP_L4),
            (1, GSO_UDP),
        ] {
            let raw = header(flags, gso);
            assert_eq!(checked(&raw, 3000, ALL), Ok(raw), "{gso:#x}");
        }
        let plain = [0; HEADER_LEN];
        assert_eq!(checked(&plain, 60, 0), Ok(plain));
        // What means nothing there is left out: unknown flags, sizes, the number of buffers.
        assert_eq!(
            checked(&[0xfe, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9], 60, 0),
            Ok(plain)
        );
    }

    #[test]
    fn what_was_not_agreed_on_is_refused() {
        for (flags, gso, missing) in [
            (1, GSO_NONE, F_CSUM),
            (1, GSO_TCPV4, F_HOST_TSO4),
            (1, GSO_TCPV6, F_HOST_TSO6),
            (1, GSO_TCPV4 | GSO_ECN, F_HOST_ECN),
            (1, GSO_UDP, F_HOST_UFO),
            (1, GSO_UDP_L4, F_HOST_USO),
        ] {
            let refused = checked(&header(flags, gso), 3000, ALL & !missing);
            assert_eq!(refused, Err(HeaderError::NotAgreed { flags, gso }));
        }
        for (flags, gso) in [
            (0, GSO_TCPV4),
            (0, GSO_UDP_L4),
            (1, 2),
            (1, 6),
            (1, 0x7f),
            (1, GSO_ECN),
            (1, GSO_UDP | GSO_ECN),
            (1, GSO_UDP_L4 | GSO_ECN),
        ] {
            let refused = checked(&header(flags, gso), 3000, ALL);
            assert_eq!(refused, Err(HeaderError::NotAgreed { flags, gso }));
        }
    }

    #[test]
    fn places_and_lengths_are_within_the_frame() {
        for len in [0, 13, FRAME_MAX + 1, u32::MAX] {
            assert_eq!(
                checked(&header(0, 0), len, ALL),
                Err(HeaderError::Length(len))
            );
        }
        assert!(checked(&header(1, 0), 52, ALL).is_ok());
        assert!(matches!(
            checked(&header(1, 0), 51, ALL),
            Err(HeaderError::Checksum { .. })
        ));
        let mut raw = header(1, GSO_TCPV4);
        (raw[4], raw[5]) = (0, 0);
        assert_eq!(checked(&raw, 3000, ALL), Err(HeaderError::NoSegment));
        let mut raw = header(1, GSO_TCPV4);
        (raw[2], raw[3]) = (0xff, 0xff);
        assert_eq!(checked(&raw, 3000, ALL).unwrap()[2..4], [0xb8, 0x0b]);
    }

    proptest! {
        #[test]
        fn whatever_passes_is_safe_and_passes_unchanged(
            raw: [u8; HEADER_LEN],
            len in 0_u32..70_000,
            features: u64,
        ) {
            if let Ok(safe) = checked(&raw, len, features) {
                prop_assert_eq!(safe[0] & !NEEDS_CSUM, 0);
                let at = |n: usize| u32::from(u16::from_le_bytes([safe[n], safe[n + 1]]));
                prop_assert!(safe[0] == 0 || at(6) + at(8) + 2 <= len);
                prop_assert!(at(2) <= len && at(10) == 0);
                prop_assert_eq!(checked(&safe, len, features), Ok(safe));
            }
        }
    }
}
