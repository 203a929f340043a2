//! Ethernet addresses, as people write them, and those of cards that were given none.

use std::fmt;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

/// The first octet's bit of addresses for groups.
const MULTICAST: u8 = 1;
/// The first octet's bit of addresses that no maker of cards has given out.
const LOCAL: u8 = 2;

impl MacAddress {
    /// Reads six pairs of hexadecimal digits with colons between them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut address = [0; 6];
        let mut pairs = text.split(':');
        for octet in &mut address {
            let pair = pairs.next()?;
            // Neither a sign nor a single digit, which the number's own parser takes.
            if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            *octet = u8::from_str_radix(pair, 16).ok()?;
        }
        pairs.next().is_none().then_some(Self(address))
    }

    /// The address of a card that was given none: the same whenever the guest, named by its UUID
    /// or name, and the device, named by its id, are the same, and with another of either hardly
    /// ever so (46 bits of an FNV-1a hash, stirred). Locally administered.
    #[must_use]
    pub fn derived(guest: &str, device: &str) -> Self {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        // A byte that is in neither keeps "ab" and "c" apart from "a" and "bc".
        for byte in guest.bytes().chain([0xff]).chain(device.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // The last bytes reach the low bits only; have every bit count for every other.
        hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^= hash >> 32;
        let [a, b, c, d, e, f, ..] = hash.to_le_bytes();
        Self::local([a, b, c, d, e, f])
    }

    /// The locally administered address of one card that is nearest to these octets.
    #[must_use]
    pub fn local(octets: [u8; 6]) -> Self {
        let [first, rest @ ..] = octets;
        let [b, c, d, e, f] = rest;
        Self([first & !MULTICAST | LOCAL, b, c, d, e, f])
    }

    /// Whether it is a group's.
    #[must_use]
    pub fn is_multicast(self) -> bool {
        let [first, ..] = self.0;
        first & MULTICAST != 0
    }

    /// Whether it is all zeroes.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn addresses_are_read_and_written() {
        let mac = MacAddress::parse("52:54:00:aB:Cd:0f").unwrap();
        assert_eq!(mac.0, [0x52, 0x54, 0, 0xab, 0xcd, 0x0f]);
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
        for bad in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:ef:01",
            "52:54:00:ab:cd:",
            "52-54-00-ab-cd-ef",
            "5254:00:ab:cd:ef:",
            "52:54:0:ab:cd:ef",
            "52:54:00:ab:cd:+f",
            "52:54:00:ab:cd:0g",
        ] {
            assert_eq!(MacAddress::parse(bad), None, "{bad}");
        }
    }

    /// Guests keep their addresses over releases.
    #[test]
    fn derived_addresses_stay_as_they_are_and_differ() {
        let of = MacAddress::derived;
        assert_eq!(of("web", "net0").to_string(), "86:01:92:b2:61:a3");
        assert_ne!(of("ab", "c"), of("a", "bc"));
        let mut seen = BTreeSet::new();
        for guest in 0..100 {
            for device in 0..20 {
                let mac = of(&format!("guest{guest}"), &format!("net{device}"));
                assert!(!mac.is_multicast() && mac.0[0] & LOCAL != 0);
                assert!(seen.insert(mac), "{mac}");
            }
        }
    }
}
