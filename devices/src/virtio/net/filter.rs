//! Which frames a network card takes (virtio 1.2, 5.1.6.5.1 to 5.1.6.5.3): by address and VLAN.
//! Pure.
//!
//! Changed by the driver through the control queue, asked for every frame that is received.

use super::MacAddress;

/// Most addresses kept of each kind, unicast and multicast. If a driver sets more, all of that
/// kind pass.
pub const TABLE_MAX: usize = 64;
/// VLANs there can be.
pub const VLANS: u16 = 4096;

/// Bytes of a frame that the filter wants to see: Ethernet's header and a VLAN tag.
pub const SEEN: usize = 18;
/// EtherType of a VLAN tag.
const TAGGED: [u8; 2] = [0x81, 0x00];

/// Addresses of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressTable {
    /// At most [`TABLE_MAX`].
    pub addresses: Vec<MacAddress>,
    /// There were more: every address of the kind passes.
    pub overflow: bool,
}

impl AddressTable {
    fn passes(&self, address: MacAddress) -> bool {
        self.overflow || self.addresses.contains(&address)
    }
}

/// The VLANs whose frames pass.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanTable([u64; VLANS as usize / 64]);

impl Default for VlanTable {
    fn default() -> Self {
        Self([0; VLANS as usize / 64])
    }
}

impl std::fmt::Debug for VlanTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.ids()).finish()
    }
}

impl VlanTable {
    /// Lets a VLAN pass or not. False if there cannot be such a VLAN.
    pub fn set(&mut self, id: u16, passes: bool) -> bool {
        let Some(word) = self.0.get_mut(usize::from(id / 64)) else {
            return false;
        };
        let bit = 1 << (id % 64);
        if passes {
            *word |= bit;
        } else {
            *word &= !bit;
        }
        true
    }

    fn passes(&self, id: u16) -> bool {
        let word = self.0.get(usize::from(id / 64)).copied().unwrap_or(0);
        word & (1 << (id % 64)) != 0
    }

    /// The VLANs that pass, in order.
    pub fn ids(&self) -> impl Iterator<Item = u16> + '_ {
        (0..VLANS).filter(|&id| self.passes(id))
    }
}

/// What passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RxFilter {
    /// The card's own address.
    pub mac: MacAddress,
    /// Everything passes, whatever its address and VLAN.
    pub promiscuous: bool,
    /// Every multicast passes.
    pub all_multicast: bool,
    /// Every unicast passes.
    pub all_unicast: bool,
    /// No multicast passes.
    pub no_multicast: bool,
    /// No unicast passes.
    pub no_unicast: bool,
    /// No broadcast passes.
    pub no_broadcast: bool,
    /// Unicast addresses that pass beside `mac`.
    pub unicast: AddressTable,
    /// Multicast addresses that pass.
    pub multicast: AddressTable,
    /// VLANs that pass; `None` lets all pass.
    pub vlans: Option<VlanTable>,
}

impl RxFilter {
    /// That of a card which no driver has set up: everything passes.
    #[must_use]
    pub fn new(mac: MacAddress) -> Self {
        Self {
            mac,
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            unicast: AddressTable::default(),
            multicast: AddressTable::default(),
            vlans: None,
        }
    }

    /// Whether frames need not be looked at.
    #[must_use]
    pub fn passes_all(&self) -> bool {
        self.promiscuous
    }

    /// Whether a frame that begins so passes. A frame too short for a tag has none.
    #[must_use]
    pub fn passes(&self, start: &[u8]) -> bool {
        if self.promiscuous {
            return true;
        }
        if let Some(vlans) = &self.vlans
            && start.get(12..14) == Some(&TAGGED[..])
            && let Some(&[high, low]) = start.get(14..16)
            && !vlans.passes(u16::from_be_bytes([high, low]) % VLANS)
        {
            return false;
        }
        let Some(&[a, b, c, d, e, f]) = start.get(..6) else {
            return false;
        };
        let to = [a, b, c, d, e, f];
        if to == [0xff; 6] {
            !self.no_broadcast
        } else if a & 1 != 0 {
            !self.no_multicast && (self.all_multicast || self.multicast.passes(to))
        } else {
            !self.no_unicast && (self.all_unicast || to == self.mac || self.unicast.passes(to))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddress = [2, 0, 0, 0, 0, 1];
    const OTHER: MacAddress = [2, 0, 0, 0, 0, 2];
    const GROUP: MacAddress = [0x33, 0x33, 0, 0, 0, 1];
    const ALL: MacAddress = [0xff; 6];

    fn frame(to: MacAddress, vlan: Option<u16>) -> Vec<u8> {
        let mut frame = [&to[..], &OTHER].concat();
        if let Some(vlan) = vlan {
            // With a priority, which is not part of the number.
            frame.extend([0x81, 0, 0xe0 | vlan.to_be_bytes()[0], vlan.to_be_bytes()[1]]);
        }
        frame.extend([8, 0, 0, 0, 0, 0]);
        frame
    }

    fn choosy() -> RxFilter {
        RxFilter {
            promiscuous: false,
            ..RxFilter::new(OWN)
        }
    }

    fn passing(filter: &RxFilter) -> [bool; 4] {
        [OWN, OTHER, GROUP, ALL].map(|to| filter.passes(&frame(to, None)))
    }

    /// A change of a filter, and which of own, other, group and broadcast frames pass then.
    type Case = (fn(&mut RxFilter), [bool; 4]);

    #[test]
    fn addresses_pass_as_the_driver_says() {
        assert_eq!(passing(&RxFilter::new(OWN)), [true; 4]);
        let cases: [Case; 10] = [
            (|_| {}, [true, false, false, true]),
            (|f| f.all_multicast = true, [true, false, true, true]),
            (|f| f.all_unicast = true, [true, true, false, true]),
            (|f| f.no_unicast = true, [false, false, false, true]),
            (|f| f.no_broadcast = true, [true, false, false, false]),
            (
                |f| (f.no_multicast, f.all_multicast) = (true, true),
                [true, false, false, true],
            ),
            (
                |f| f.unicast.addresses.push(OTHER),
                [true, true, false, true],
            ),
            (
                |f| f.multicast.addresses.push(GROUP),
                [true, false, true, true],
            ),
            (|f| f.unicast.overflow = true, [true, true, false, true]),
            (|f| f.multicast.overflow = true, [true, false, true, true]),
        ];
        for (index, (change, expected)) in cases.iter().enumerate() {
            let mut filter = choosy();
            change(&mut filter);
            assert_eq!(passing(&filter), *expected, "case {index}");
        }
    }

    #[test]
    fn vlans_pass_as_the_driver_says_and_untagged_frames_always() {
        let mut filter = choosy();
        assert!(filter.passes(&frame(OWN, Some(7))));
        let mut vlans = VlanTable::default();
        assert!(vlans.set(7, true) && vlans.set(4095, true) && !vlans.set(4096, true));
        assert_eq!(vlans.ids().collect::<Vec<_>>(), [7, 4095]);
        filter.vlans = Some(vlans);
        for (vlan, passes) in [
            (Some(7), true),
            (Some(4095), true),
            (Some(8), false),
            (None, true),
        ] {
            assert_eq!(filter.passes(&frame(OWN, vlan)), passes, "{vlan:?}");
        }
        // The address is looked at as well.
        assert!(!filter.passes(&frame(OTHER, Some(7))));
        filter.promiscuous = true;
        assert!(filter.passes(&frame(OTHER, Some(8))) && filter.passes_all());
    }

    #[test]
    fn what_is_no_frame_does_not_pass() {
        let filter = choosy();
        for len in 0..6 {
            assert!(!filter.passes(&OWN[..len]));
        }
        assert!(filter.passes(&OWN));
    }
}
