//! The VM generation ID: a GUID in guest memory that changes whenever the guest may have been
//! duplicated, so that it reseeds what must be unique.
//!
//! Used on the main thread while the guest does not run. Microsoft, "Virtual Machine Generation
//! ID", 2012; Linux drivers/virt/vmgenid.c. Writing the ID is the first half; the second is
//! [`PowerBlock::generation_changed`](super::power::PowerBlock::generation_changed). The ID has no
//! saved form of its own: it lies in guest memory, and a restored guest gets a new one.

use std::fmt;
use std::io;
use std::str::FromStr;

use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestMemory;

/// Where the GUID lies in `thimble-1`: in the reserved range below 1 MiB, on a page of its own.
pub const GENERATION_ID_ADDRESS: GuestAddress = GuestAddress(0xf_f000);

/// A generation ID. Its text form is the usual one of a UUID, as QMP's `query-vm-generation-id`
/// gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationId([u8; 16]);

/// Why a generation ID could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the guest has no memory for the generation ID at {:#x}", GENERATION_ID_ADDRESS.0)]
pub struct WriteError(#[from] vm_memory::GuestMemoryError);

/// Why a text is not a generation ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a UUID of the form 01234567-89ab-cdef-0123-456789abcdef")]
pub struct ParseError(String);

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
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match getrandom(rest, GetRandomFlags::empty()) {
                Ok(n) => filled += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
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

    /// Writes the ID to its place in guest memory.
    ///
    /// # Errors
    /// [`WriteError`] when the guest has no memory there.
    pub fn write(self, memory: &GuestMemory) -> Result<(), WriteError> {
        Ok(memory.write_slice(&self.to_memory(), GENERATION_ID_ADDRESS)?)
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

impl FromStr for GenerationId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError(text.chars().take(64).collect());
        if text.len() != 36 {
            return Err(error());
        }
        let mut bytes = [0; 16];
        let mut digits = 0;
        for (i, c) in text.chars().enumerate() {
            if matches!(i, 8 | 13 | 18 | 23) {
                if c != '-' {
                    return Err(error());
                }
                continue;
            }
            let value = c
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
                .ok_or_else(error)?;
            let byte = bytes.get_mut(digits / 2).ok_or_else(error)?;
            *byte = *byte << 4 | value;
            digits += 1;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87";

    #[test]
    fn text_and_memory_forms_are_those_of_a_guid() {
        let id: GenerationId = TEXT.parse().unwrap();
        assert_eq!(id.to_string(), TEXT);
        // The example of QEMU's docs/specs/vmgenid, byte by byte.
        assert_eq!(
            id.to_memory(),
            [
                0xaf, 0x6e, 0x4e, 0x32, 0xd1, 0xd1, 0xf6, 0x4b, 0xbf, 0x41, 0xb9, 0xbb, 0x6c, 0x91,
                0xfb, 0x87
            ]
        );
        assert_eq!(TEXT.to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb8",
            "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb870",
            "324e6eafd1d1-4bf6-bf41-b9bb6c91fb87--",
            "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb8g",
            "+24e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87",
            "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fbé",
            &"-".repeat(1_000_000),
        ] {
            assert!(text.parse::<GenerationId>().is_err(), "{text:.40}");
        }
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

    #[test]
    fn the_id_goes_to_its_place_in_memory() {
        let id: GenerationId = TEXT.parse().unwrap();
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        id.write(&memory).unwrap();
        let mut data = [0xff; 18];
        memory.read_slice(&mut data, GuestAddress(0xfefff)).unwrap();
        assert_eq!((data[0], data[17]), (0, 0));
        assert_eq!(data[1..17], id.to_memory());
        let small = GuestMemory::from_ranges(&[(GuestAddress(0), 0xff008)]).unwrap();
        assert!(id.write(&small).is_err());
    }
}
