//! Network cards as clients see them.

use std::sync::Arc;

use api_socket::config::MacAddress;
use api_socket::qmp::error::QmpError;
use api_socket::qmp::types::{
    AnnounceSelfArguments, LimitSettings, QueryRxFilterArguments, RxFilterInfo, RxState,
    SetLimitsArguments, SetLinkArguments,
};
use devices::rate_limit::{Limits, Rate};
use devices::virtio::net::VirtioNet;
use devices::virtio::net::filter::{AddressTable, RxFilter};

use crate::attach::VirtioDeviceSlot;
use crate::attach::net::NetInfo;
use crate::machine::lock;
use crate::main_loop::MainLoop;

/// The card with this id.
fn card<'m>(main: &'m MainLoop, id: &str) -> Result<(&'m VirtioDeviceSlot, &'m NetInfo), QmpError> {
    let mut nets = main.machine.nets();
    nets.find(|(slot, _)| &*slot.id == id)
        .ok_or_else(|| QmpError::device_not_found(id))
}

/// Changes a card's configuration space, while nothing of the machine runs, and tells the guest.
fn change(
    main: &mut MainLoop,
    id: &str,
    change: impl FnOnce(&mut VirtioNet),
) -> Result<(), QmpError> {
    let transport = Arc::clone(&card(main, id)?.0.transport);
    let changed = main.while_held(|_| {
        let mut transport = lock(&transport);
        let core = transport.core_mut();
        change(core.device_mut::<VirtioNet>()?);
        core.config_changed();
        Some(())
    });
    changed.ok_or_else(|| QmpError::device_not_found(id))
}

pub(super) fn set_link(main: &mut MainLoop, arguments: &SetLinkArguments) -> Result<(), QmpError> {
    let SetLinkArguments { name, up } = arguments;
    change(main, name, |device| device.set_link(*up))
}

pub(super) fn announce_self(
    main: &mut MainLoop,
    arguments: &AnnounceSelfArguments,
) -> Result<(), QmpError> {
    let ids: Vec<String> = match &arguments.interfaces {
        Some(ids) => ids.clone(),
        None => main
            .machine
            .nets()
            .map(|(slot, _)| slot.id.to_string())
            .collect(),
    };
    // All or none.
    for id in &ids {
        card(main, id)?;
    }
    ids.iter()
        .try_for_each(|id| change(main, id, VirtioNet::announce))
}

pub(super) fn query_rx_filter(
    main: &MainLoop,
    arguments: &QueryRxFilterArguments,
) -> Result<Vec<RxFilterInfo>, QmpError> {
    let of =
        |(slot, info): (&VirtioDeviceSlot, &NetInfo)| filter_info(&slot.id, &info.handle.filter());
    match &arguments.name {
        Some(name) => Ok(vec![of(card(main, name)?)]),
        None => Ok(main.machine.nets().map(of).collect()),
    }
}

fn filter_info(id: &str, filter: &RxFilter) -> RxFilterInfo {
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
    let state = |none: bool, all: bool| match (none, all) {
        (true, _) => RxState::None,
        (false, true) => RxState::All,
        (false, false) => RxState::Normal,
    };
    let table = |table: &AddressTable| {
        let each = table.addresses.iter();
        each.map(|&address| MacAddress(address).to_string())
            .collect()
    };
    let vlan_table: Vec<i64> = vlans
        .as_ref()
        .map(|vlans| vlans.ids().map(i64::from).collect())
        .unwrap_or_default();
    RxFilterInfo {
        name: id.to_owned(),
        promiscuous: *promiscuous,
        multicast: state(*no_multicast, *all_multicast),
        unicast: state(*no_unicast, *all_unicast),
        vlan: match vlans {
            None => RxState::All,
            Some(_) if vlan_table.is_empty() => RxState::None,
            Some(_) => RxState::Normal,
        },
        broadcast_allowed: !no_broadcast,
        multicast_overflow: multicast.overflow,
        unicast_overflow: unicast.overflow,
        main_mac: MacAddress(*mac).to_string(),
        vlan_table,
        unicast_table: table(unicast),
        multicast_table: table(multicast),
    }
}

pub(super) fn set_limits(main: &MainLoop, arguments: &SetLimitsArguments) -> Result<(), QmpError> {
    let SetLimitsArguments { id, rx, tx } = arguments;
    let (_, info) = card(main, id)?;
    let mut limits = info.handle.limits();
    if let Some(rx) = rx {
        limits.rx = limits_of(**rx);
    }
    if let Some(tx) = tx {
        limits.tx = limits_of(**tx);
    }
    info.handle.set_limits(limits);
    Ok(())
}

fn limits_of(settings: LimitSettings) -> Limits {
    let LimitSettings {
        bps,
        bps_burst,
        ops,
        ops_burst,
    } = settings;
    let rate = |per_second: Option<u64>, burst: Option<u64>| {
        let usual = Rate::new(per_second.filter(|&rate| rate > 0)?);
        Some(burst.map_or(usual, |burst| usual.with_burst(burst)))
    };
    Limits {
        bytes: rate(bps, bps_burst),
        operations: rate(ops, ops_burst),
    }
}

/// The lines of `info network`: each card and what is behind it.
pub(super) fn lines(main: &MainLoop) -> Vec<String> {
    let each = main.machine.nets().flat_map(|(slot, info)| {
        let (id, mac) = (&slot.id, MacAddress(info.handle.mac()));
        let carrier = if info.handle.carrier() { "up" } else { "down" };
        [
            format!("{id}: index=0,type=nic,model=virtio-net-device,macaddr={mac},link={carrier}"),
            format!(
                " \\ {id}: index=0,type=tap,ifname={},queues={}",
                info.interface, info.queues
            ),
        ]
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::virtio::net::filter::VlanTable;

    #[test]
    fn a_filter_is_told_in_qemus_words() {
        let fresh = RxFilter::new([2, 0, 0, 0, 0, 1]);
        let info = filter_info("net0", &fresh);
        assert_eq!((info.vlan, info.unicast), (RxState::All, RxState::Normal));
        assert!(info.promiscuous && info.broadcast_allowed);
        assert_eq!(info.main_mac, "02:00:00:00:00:01");
        let mut vlans = VlanTable::default();
        let empty = RxFilter {
            vlans: Some(vlans.clone()),
            no_multicast: true,
            all_multicast: true,
            all_unicast: true,
            no_broadcast: true,
            ..fresh.clone()
        };
        let info = filter_info("net0", &empty);
        assert_eq!((info.vlan, info.unicast), (RxState::None, RxState::All));
        assert_eq!(
            (info.multicast, info.broadcast_allowed),
            (RxState::None, false)
        );
        vlans.set(7, true);
        let some = RxFilter {
            vlans: Some(vlans),
            multicast: AddressTable {
                addresses: vec![[0x33, 0x33, 0, 0, 0, 1]],
                overflow: true,
            },
            ..fresh
        };
        let info = filter_info("net0", &some);
        assert_eq!((info.vlan, info.vlan_table), (RxState::Normal, vec![7]));
        assert_eq!(info.multicast_table, ["33:33:00:00:00:01"]);
        assert!(info.multicast_overflow && !info.unicast_overflow);
    }

    #[test]
    fn no_limit_is_absent_or_zero() {
        let none = limits_of(LimitSettings {
            bps: Some(0),
            bps_burst: Some(5),
            ..LimitSettings::default()
        });
        assert_eq!(none, Limits::default());
        let some = limits_of(LimitSettings {
            bps: Some(1000),
            ops: Some(50),
            ops_burst: Some(0),
            ..LimitSettings::default()
        });
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        assert_eq!(
            (some.bytes, some.operations),
            (rate(1000, 100), rate(50, 1))
        );
    }
}
