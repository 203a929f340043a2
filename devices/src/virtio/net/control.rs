//! Commands of the control queue (virtio 1.2, 5.1.6.5): what each changes of a card's `Setup`.
//!
//! Pure but for reading the chain. Called by the worker on the I/O thread.

use super::config::{
    F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_RX_EXTRA, F_CTRL_VLAN,
    F_GUEST_ANNOUNCE, F_MQ, GUEST_OFFLOADS,
};
use super::filter::{AddressTable, TABLE_MAX, VLANS, VlanTable};
use super::{MacAddress, Setup};
use crate::virtio::chain::Reader;

/// `ack`: done.
pub const OK: u8 = 0;
/// `ack`: refused.
pub const ERR: u8 = 1;

/// Class: what is received.
pub const CLASS_RX: u8 = 0;
/// Class: addresses.
pub const CLASS_MAC: u8 = 1;
/// Class: VLANs.
pub const CLASS_VLAN: u8 = 2;
/// Class: announcing.
pub const CLASS_ANNOUNCE: u8 = 3;
/// Class: pairs of queues.
pub const CLASS_MQ: u8 = 4;
/// Class: offloads of the driver.
pub const CLASS_GUEST_OFFLOADS: u8 = 5;

/// [`CLASS_MAC`]: sets both tables.
pub const MAC_TABLE_SET: u8 = 0;
/// [`CLASS_MAC`]: sets the card's address.
pub const MAC_ADDR_SET: u8 = 1;
/// [`CLASS_VLAN`]: lets a VLAN pass.
pub const VLAN_ADD: u8 = 0;
/// [`CLASS_VLAN`]: lets a VLAN pass no more.
pub const VLAN_DEL: u8 = 1;

/// What a command changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// What is received.
    Filter,
    /// The driver has announced itself.
    Announced,
    /// The number of pairs in use.
    Pairs,
    /// What the driver takes.
    Offloads,
}

/// What the commands may depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// The negotiated features.
    pub(super) features: u64,
    /// Pairs of queues that there are.
    pub(super) pairs_max: u16,
}

/// Carries the command in `request` out on `setup`. `None`: refused, and nothing is changed.
pub(super) fn execute(setup: &mut Setup, terms: Terms, request: &mut Reader<'_>) -> Option<Change> {
    let [class, command] = bytes(request)?;
    let agreed = |feature: u64| (terms.features & feature != 0).then_some(());
    match class {
        CLASS_RX => {
            agreed(if command < 2 {
                F_CTRL_RX
            } else {
                F_CTRL_RX_EXTRA
            })?;
            receive_mode(setup, command, request)
        }
        CLASS_MAC if command == MAC_TABLE_SET => {
            agreed(F_CTRL_RX)?;
            let unicast = addresses(request)?;
            let multicast = addresses(request)?;
            (setup.filter.unicast, setup.filter.multicast) = (unicast, multicast);
            Some(Change::Filter)
        }
        CLASS_MAC if command == MAC_ADDR_SET => {
            agreed(F_CTRL_MAC_ADDR)?;
            setup.filter.mac = bytes(request)?;
            Some(Change::Filter)
        }
        CLASS_VLAN if command == VLAN_ADD || command == VLAN_DEL => {
            agreed(F_CTRL_VLAN)?;
            let id = u16::from_le_bytes(bytes(request)?);
            (id < VLANS).then(|| {
                let vlans = setup.filter.vlans.get_or_insert_with(VlanTable::default);
                vlans.set(id, command == VLAN_ADD);
                Change::Filter
            })
        }
        CLASS_ANNOUNCE if command == 0 => {
            agreed(F_GUEST_ANNOUNCE)?;
            Some(Change::Announced)
        }
        CLASS_MQ if command == 0 => {
            agreed(F_MQ)?;
            let pairs = u16::from_le_bytes(bytes(request)?);
            let possible = (1..=terms.pairs_max).contains(&pairs);
            possible.then(|| {
                setup.pairs = pairs;
                Change::Pairs
            })
        }
        CLASS_GUEST_OFFLOADS if command == 0 => {
            agreed(F_CTRL_GUEST_OFFLOADS)?;
            let offloads = u64::from_le_bytes(bytes(request)?);
            let possible = offloads & !(terms.features & GUEST_OFFLOADS) == 0;
            possible.then(|| {
                setup.offloads = Some(offloads);
                Change::Offloads
            })
        }
        _ => None,
    }
}

/// The commands of [`CLASS_RX`]: a switch each.
fn receive_mode(setup: &mut Setup, command: u8, request: &mut Reader<'_>) -> Option<Change> {
    let filter = &mut setup.filter;
    let mode = match command {
        0 => &mut filter.promiscuous,
        1 => &mut filter.all_multicast,
        2 => &mut filter.all_unicast,
        3 => &mut filter.no_multicast,
        4 => &mut filter.no_unicast,
        5 => &mut filter.no_broadcast,
        _ => return None,
    };
    let [on] = bytes(request)?;
    *mode = on != 0;
    Some(Change::Filter)
}

/// A table of addresses: their number, then each. As many as are kept are read.
fn addresses(request: &mut Reader<'_>) -> Option<AddressTable> {
    let count = u32::from_le_bytes(bytes(request)?);
    let mut all = request.take(count.checked_mul(6)?).ok()?;
    let overflow = usize::try_from(count).is_ok_and(|count| count > TABLE_MAX);
    let mut table = AddressTable {
        addresses: Vec::new(),
        overflow,
    };
    while !overflow && all.remaining() > 0 {
        let address: MacAddress = bytes(&mut all)?;
        table.addresses.push(address);
    }
    Some(table)
}

fn bytes<const N: usize>(request: &mut Reader<'_>) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    request.read(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::chain::ChainBuffers;
    use crate::virtio::fake_driver::{DATA, DriverQueue, memory, readable};
    use crate::virtio::net::filter::RxFilter;
    use crate::virtio::queue::{Layout, Position, Queue};
    use vm_memory::{Bytes, GuestAddress};

    const OWN: MacAddress = [2, 0, 0, 0, 0, 1];
    const TERMS: Terms = Terms {
        features: u64::MAX,
        pairs_max: 4,
    };

    fn setup() -> Setup {
        Setup {
            filter: RxFilter::new(OWN),
            pairs: 1,
            offloads: None,
        }
    }

    fn run(setup: &mut Setup, terms: Terms, request: &[u8]) -> Option<Change> {
        let memory = memory();
        let mut driver = DriverQueue::new(memory.clone(), 0, 8);
        let (size, desc, avail, used) = (8, driver.desc, driver.avail, driver.used);
        let layout = Layout {
            size,
            desc,
            avail,
            used,
        };
        let queue = Queue::new(&memory, layout, Position::default(), 0).unwrap();
        memory.write_slice(request, GuestAddress(DATA)).unwrap();
        driver.add(&[readable(DATA, request.len().try_into().unwrap())]);
        let mut buffers = ChainBuffers::new();
        buffers.collect(queue.chain(&memory, 0)).unwrap();
        execute(setup, terms, &mut buffers.readable(&memory))
    }

    fn table(count: u32) -> Vec<u8> {
        let mut bytes = count.to_le_bytes().to_vec();
        (0..count).for_each(|n| bytes.extend([2, 0, 0, 0, n.to_le_bytes()[1], n.to_le_bytes()[0]]));
        bytes
    }

    #[test]
    fn every_command_does_what_it_says() {
        let mut s = setup();
        for (command, read) in [
            (0, (|f: &RxFilter| f.promiscuous) as fn(&RxFilter) -> bool),
            (1, |f| f.all_multicast),
            (2, |f| f.all_unicast),
            (3, |f| f.no_multicast),
            (4, |f| f.no_unicast),
            (5, |f| f.no_broadcast),
        ] {
            for on in [1, 0] {
                let change = run(&mut s, TERMS, &[CLASS_RX, command, on]);
                assert_eq!((change, read(&s.filter)), (Some(Change::Filter), on == 1));
            }
        }
        let mac = run(&mut s, TERMS, &[CLASS_MAC, MAC_ADDR_SET, 2, 9, 8, 7, 6, 5]);
        assert_eq!(
            (mac, s.filter.mac),
            (Some(Change::Filter), [2, 9, 8, 7, 6, 5])
        );
        let tables = [&[CLASS_MAC, MAC_TABLE_SET][..], &table(2), &table(65)].concat();
        assert_eq!(run(&mut s, TERMS, &tables), Some(Change::Filter));
        assert_eq!(
            s.filter.unicast.addresses,
            [[2, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 1]]
        );
        assert!(!s.filter.unicast.overflow && s.filter.multicast.overflow);
        for (command, id, left) in [
            (VLAN_ADD, 5, &[5][..]),
            (VLAN_ADD, 4095, &[5, 4095]),
            (VLAN_DEL, 5, &[4095]),
        ] {
            let [low, high] = u16::to_le_bytes(id);
            let change = run(&mut s, TERMS, &[CLASS_VLAN, command, low, high]);
            assert_eq!(change, Some(Change::Filter));
            let ids: Vec<_> = s.filter.vlans.as_ref().unwrap().ids().collect();
            assert_eq!(ids, left);
        }
        assert_eq!(
            run(&mut s, TERMS, &[CLASS_ANNOUNCE, 0]),
            Some(Change::Announced)
        );
        assert_eq!(
            run(&mut s, TERMS, &[CLASS_MQ, 0, 4, 0]),
            Some(Change::Pairs)
        );
        let request = [&[CLASS_GUEST_OFFLOADS, 0][..], &2_u64.to_le_bytes()].concat();
        assert_eq!(run(&mut s, TERMS, &request), Some(Change::Offloads));
        assert_eq!((s.pairs, s.offloads), (4, Some(2)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_changes_nothing() {
        let huge = [&[CLASS_MAC, MAC_TABLE_SET][..], &[0xff; 4], &[0; 100]].concat();
        let short = [&[CLASS_MAC, MAC_TABLE_SET][..], &table(3), &table(3)[..20]].concat();
        let offloads = [&[CLASS_GUEST_OFFLOADS, 0][..], &1_u64.to_le_bytes()].concat();
        let requests: [&[u8]; 19] = [
            &[CLASS_VLAN, VLAN_ADD, 0, 0x10],
            &[CLASS_RX],
            &[CLASS_RX, 0],
            &[CLASS_RX, 6, 1],
            &[CLASS_MAC, MAC_ADDR_SET, 1, 2, 3, 4, 5],
            &[CLASS_MAC, 2, 0, 0, 0, 0],
            &[CLASS_MAC, MAC_TABLE_SET, 0, 0, 0],
            &huge,
            &short,
            &[CLASS_VLAN, VLAN_ADD, 0],
            &[CLASS_VLAN, 2, 0, 0],
            &[CLASS_ANNOUNCE, 1],
            &[CLASS_MQ, 0, 0, 0],
            &[CLASS_MQ, 0, 5, 0],
            &[CLASS_MQ, 1, 1, 0],
            &[CLASS_GUEST_OFFLOADS, 0, 1],
            &offloads,
            &[6, 0, 1],
            &[0xff, 0xff, 0xff],
        ];
        for request in requests {
            let mut s = setup();
            assert_eq!(run(&mut s, TERMS, request), None, "{request:x?}");
            assert_eq!(s, setup(), "{request:x?}");
        }
    }

    #[test]
    fn what_was_not_agreed_on_is_refused() {
        let no = |feature: u64| Terms {
            features: !feature,
            ..TERMS
        };
        let offloads = [&[CLASS_GUEST_OFFLOADS, 0][..], &[0; 8]].concat();
        let cases: [(u64, &[u8]); 8] = [
            (F_CTRL_RX, &[CLASS_RX, 0, 1]),
            (F_CTRL_RX_EXTRA, &[CLASS_RX, 2, 1]),
            (
                F_CTRL_RX,
                &[CLASS_MAC, MAC_TABLE_SET, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
            (
                F_CTRL_MAC_ADDR,
                &[CLASS_MAC, MAC_ADDR_SET, 1, 2, 3, 4, 5, 6],
            ),
            (F_CTRL_VLAN, &[CLASS_VLAN, VLAN_ADD, 1, 0]),
            (F_GUEST_ANNOUNCE, &[CLASS_ANNOUNCE, 0]),
            (F_MQ, &[CLASS_MQ, 0, 1, 0]),
            (F_CTRL_GUEST_OFFLOADS, &offloads),
        ];
        for (feature, request) in cases {
            assert_eq!(
                run(&mut setup(), no(feature), request),
                None,
                "{request:x?}"
            );
            assert!(run(&mut setup(), TERMS, request).is_some(), "{request:x?}");
        }
    }
}
