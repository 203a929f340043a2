//! The saved form of a network card, beside its transport's and queues'.

use serde::{Deserialize, Serialize};

use super::config::GUEST_OFFLOADS;
use super::filter::{AddressTable, RxFilter, TABLE_MAX, VLANS, VlanTable};
use super::{MacAddress, Setup};
use crate::saved::BadState;

/// A network card's own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetState {
    /// Whether its cable is plugged in (`set_link`).
    pub link_up: bool,
    /// Whether the driver has been asked to announce itself and has not yet answered.
    pub announce: bool,
    /// Pairs of queues in use, at least 1.
    pub pairs: u16,
    /// The offloads the driver left switched on, as feature bits; `None` are all it agreed on.
    pub offloads: Option<u64>,
    /// What is received.
    pub filter: FilterState,
}

/// What is received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterState {
    /// The card's address.
    pub mac: MacAddress,
    /// Everything.
    pub promiscuous: bool,
    /// Every multicast.
    pub all_multicast: bool,
    /// Every unicast.
    pub all_unicast: bool,
    /// No multicast.
    pub no_multicast: bool,
    /// No unicast.
    pub no_unicast: bool,
    /// No broadcast.
    pub no_broadcast: bool,
    /// Unicast addresses.
    pub unicast: TableState,
    /// Multicast addresses.
    pub multicast: TableState,
    /// VLANs, ascending; `None` are all.
    pub vlans: Option<Vec<u16>>,
}

/// Addresses of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableState {
    /// The addresses, at most [`TABLE_MAX`].
    pub addresses: Vec<MacAddress>,
    /// There were more.
    pub overflow: bool,
}

impl FilterState {
    pub(super) fn of(filter: &RxFilter) -> Self {
        let RxFilter {
            mac,
            promiscuous,
            all_multicast,
            all_unicast,
            no_multicast,
            no_unicast,
            no_broadcast,
            unicast,
            multicast,
            vlans,
        } = filter;
        Self {
            mac: *mac,
            promiscuous: *promiscuous,
            all_multicast: *all_multicast,
            all_unicast: *all_unicast,
            no_multicast: *no_multicast,
            no_unicast: *no_unicast,
            no_broadcast: *no_broadcast,
            unicast: TableState::of(unicast),
            multicast: TableState::of(multicast),
            vlans: vlans.as_ref().map(|vlans| vlans.ids().collect()),
        }
    }

    fn restored(&self) -> Result<RxFilter, BadState> {
        let Self {
            mac,
            promiscuous,
            all_multicast,
            all_unicast,
            no_multicast,
            no_unicast,
            no_broadcast,
            unicast,
            multicast,
            vlans,
        } = self;
        let vlans = vlans.as_deref().map(vlan_table).transpose()?;
        Ok(RxFilter {
            mac: *mac,
            promiscuous: *promiscuous,
            all_multicast: *all_multicast,
            all_unicast: *all_unicast,
            no_multicast: *no_multicast,
            no_unicast: *no_unicast,
            no_broadcast: *no_broadcast,
            unicast: unicast.restored("filter.unicast")?,
            multicast: multicast.restored("filter.multicast")?,
            vlans,
        })
    }
}

impl TableState {
    fn of(table: &AddressTable) -> Self {
        let AddressTable {
            addresses,
            overflow,
        } = table;
        Self {
            addresses: addresses.clone(),
            overflow: *overflow,
        }
    }

    fn restored(&self, field: &'static str) -> Result<AddressTable, BadState> {
        let Self {
            addresses,
            overflow,
        } = self;
        if addresses.len() > TABLE_MAX {
            return Err(bad(field, format!("{} addresses", addresses.len())));
        }
        Ok(AddressTable {
            addresses: addresses.clone(),
            overflow: *overflow,
        })
    }
}

fn vlan_table(ids: &[u16]) -> Result<VlanTable, BadState> {
    // Strictly ascending, so that a state has one form, and is bounded.
    let ascending = ids.is_sorted_by(|a, b| a < b);
    let mut table = VlanTable::default();
    if !ascending || !ids.iter().all(|&id| id < VLANS && table.set(id, true)) {
        let problem = "are not ascending, or beyond 4095".to_owned();
        return Err(bad("filter.vlans", problem));
    }
    Ok(table)
}

impl NetState {
    /// What the driver had set up, for a device with `pairs_max` pairs that offers `features`.
    pub(super) fn setup(&self, pairs_max: u16, features: u64) -> Result<Setup, BadState> {
        let Self {
            link_up: _,
            announce: _,
            pairs,
            offloads,
            filter,
        } = self;
        if !(1..=pairs_max).contains(pairs) {
            let problem = format!("{pairs} of {pairs_max}");
            return Err(bad("pairs", problem));
        }
        if let Some(offloads) = offloads
            && offloads & !(features & GUEST_OFFLOADS) != 0
        {
            let problem = format!("{offloads:#x} were not on offer");
            return Err(bad("offloads", problem));
        }
        Ok(Setup {
            filter: filter.restored()?,
            pairs: *pairs,
            offloads: *offloads,
        })
    }
}

pub(super) fn bad(field: &'static str, problem: String) -> BadState {
    BadState {
        kind: "virtio-net",
        field,
        problem,
    }
}
