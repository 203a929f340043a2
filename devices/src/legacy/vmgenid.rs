//! The VM generation ID: a GUID in guest memory that changes whenever the guest may have been
//! duplicated, so that it reseeds what must be unique.
//!
//! Used on the main thread while the guest does not run. Microsoft, "Virtual Machine Generation
//! ID", 2012; Linux drivers/virt/vmgenid.c. Where the ID lies is the machine's business, and writing
//! it there the boot loader's; a change is told by
//! [`PowerBlock::generation_changed`](super::power::PowerBlock::generation_changed). The ID has no
//! saved form of its own: it lies in guest memory, and a restored guest gets a new one.

use std::fmt;
use std::io;

use crate::random;

/// A generation ID. Its text form is the usual one of a UUID, as QMP's `query-vm-generation-id`
/// gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationId([u8; 16]);

impl GenerationId {
    /// The ID whose text form shows `bytes` in this order.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A new random ID: a version 4 UUID, 122 bits from the kernel's generator.
    ///
    /// # Errors
    /// What getrandom(2) answered.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        random::fill(&mut bytes)?;
        // RFC 9562, 5.4: version 4 in octet 6, variant 10 in octet 8.
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Ok(Self(bytes))
    }

    /// The ID as it lies in guest memory: a GUID has its first three fields little-endian.
    #[must_use]
    pub const fn to_memory(self) -> [u8; 16] {
        let [a0, a1, a2, a3, b0, b1, c0, c1, rest @ ..] = self.0;
        let [d0, d1, d2, d3, d4, d5, d6, d7] = rest;
        [
            a3, a2, a1, a0, b1, b0, c1, c0, d0, d1, d2, d3, d4, d5, d6, d7,
        ]
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_memory_forms_are_those_of_a_guid() {
        // The example of QEMU's docs/specs/vmgenid, byte by byte.
        let id = GenerationId::from_bytes([
            0x32, 0x4e, 0x6e, 0xaf, 0xd1, 0xd1, 0x4b, 0xf6, 0xbf, 0x41, 0xb9, 0xbb, 0x6c, 0x91,
            0xfb, 0x87,
        ]);
        assert_eq!(id.to_string(), "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87");
        assert_eq!(
            id.to_memory(),
            [
                0xaf, 0x6e, 0x4e, 0x32, 0xd1, 0xd1, 0xf6, 0x4b, 0xbf, 0x41, 0xb9, 0xbb, 0x6c, 0x91,
                0xfb, 0x87
            ]
        );
    }

    #[test]
    fn random_ids_are_version_4_and_differ() {
        let (a, b) = (
            GenerationId::random().unwrap(),
            GenerationId::random().unwrap(),
        );
        assert_ne!(a, b);
        assert_eq!((a.0[6] >> 4, a.0[8] >> 6), (4, 2));
    }
}
