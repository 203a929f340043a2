//! Network cards: virtio-net devices on tap interfaces.

use std::os::fd::RawFd;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::control::FIRST_FREE_FD;
use super::mac::MacAddress;
use super::names::check_id;
use super::problem::{KeyPath, Problems, quoted};
use super::size::Size;

/// Most queues of a network card: one for each CPU that a machine can have.
pub const NET_QUEUES_MAX: u16 = 32;

/// Least MTU: IPv4's, and virtio 1.2's (5.1.4.1).
pub const MTU_MIN: u16 = 68;

/// Longest name of an interface, in bytes: `IFNAMSIZ` of netdevice(7) is 16 with its NUL.
pub const INTERFACE_LIMIT: usize = 15;

/// A network card. The guest sees a virtio-net device. Exactly one of `tap` and `fds` says what is
/// behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Net {
    /// The device's id in control commands, by default `net0`, `net1` and so on, by its place in
    /// the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^[A-Za-z][A-Za-z0-9._-]*$"), length(max = 127))]
    pub id: Option<String>,
    /// The tap interface, which is made if there is none and thimble may: at most 15 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub tap: Option<String>,
    /// Inherited descriptors of one opened tap interface, 3 or higher, one for each queue.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 3, max = 2_147_483_647)))]
    pub fds: Vec<RawFd>,
    /// The card's address, six pairs of hexadecimal digits with colons between them. By default
    /// made from the machine's UUID or name and the device's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$"))]
    pub mac: Option<String>,
    /// The MTU that the guest is told, in bytes: 68 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 68, max = 65535))]
    pub mtu: Option<u16>,
    /// Pairs of queues, 1 to 32; more than one needs an interface made for it. With `fds` there
    /// are as many as descriptors.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub queues: Option<u16>,
    /// Bytes a second into the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_bps: Option<Size>,
    /// Bytes into the guest at once after a quiet time; by default a tenth of a second's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_bps_burst: Option<Size>,
    /// Frames a second into the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub rx_ops: Option<u32>,
    /// Frames into the guest at once after a quiet time; by default a tenth of a second's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub rx_ops_burst: Option<u32>,
    /// Bytes a second out of the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_bps: Option<Size>,
    /// Bytes out of the guest at once after a quiet time; by default a tenth of a second's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_bps_burst: Option<Size>,
    /// Frames a second out of the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub tx_ops: Option<u32>,
    /// Frames out of the guest at once after a quiet time; by default a tenth of a second's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub tx_ops_burst: Option<u32>,
}

/// A network card, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckedNet {
    /// The device's id, unlike that of any other device.
    pub id: String,
    /// What is behind it.
    pub backend: CheckedNetBackend,
    /// Its address, if one was given.
    pub mac: Option<MacAddress>,
    /// The MTU that the guest is told.
    pub mtu: Option<u16>,
    /// Limits into the guest.
    pub rx: CheckedLimits,
    /// Limits out of the guest.
    pub tx: CheckedLimits,
}

/// What is behind a network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckedNetBackend {
    /// A tap interface.
    Tap {
        /// Its name.
        name: String,
        /// Pairs of queues, 1 to [`NET_QUEUES_MAX`].
        queues: u16,
    },
    /// Inherited descriptors of one tap interface, [`FIRST_FREE_FD`] or higher.
    Fds(Vec<RawFd>),
}

/// Limits of one direction; `None` is without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckedLimits {
    /// Bytes.
    pub bytes: Option<CheckedRate>,
    /// Operations: frames or requests.
    pub operations: Option<CheckedRate>,
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedRate {
    /// How much a second, at least 1.
    pub per_second: u64,
    /// How much at once, at least 1, if it was given.
    pub burst: Option<u64>,
}

impl Net {
    /// The id of the card at `index`, from 0, of the list.
    pub(super) fn id_at(&self, index: usize) -> String {
        self.id.clone().unwrap_or_else(|| format!("net{index}"))
    }

    /// The rules for one card alone; `index` is its place in the list.
    pub(super) fn check(&self, index: usize, at: &KeyPath, problems: &mut Problems) -> CheckedNet {
        if let Some(id) = &self.id {
            check_id(id, &at.key("id"), problems);
        }
        let backend = self.check_backend(at, problems);
        let mac = self
            .mac
            .as_deref()
            .and_then(|text| check_mac(text, &at.key("mac"), problems));
        let range = u64::from(MTU_MIN)..=u64::from(u16::MAX);
        check_range(self.mtu.map(u64::from), range, &at.key("mtu"), problems);
        let rx = Direction {
            bps: ("rx-bps", self.rx_bps.as_ref()),
            bps_burst: ("rx-bps-burst", self.rx_bps_burst.as_ref()),
            ops: ("rx-ops", self.rx_ops),
            ops_burst: ("rx-ops-burst", self.rx_ops_burst),
        };
        let tx = Direction {
            bps: ("tx-bps", self.tx_bps.as_ref()),
            bps_burst: ("tx-bps-burst", self.tx_bps_burst.as_ref()),
            ops: ("tx-ops", self.tx_ops),
            ops_burst: ("tx-ops-burst", self.tx_ops_burst),
        };
        CheckedNet {
            id: self.id_at(index),
            backend,
            mac,
            mtu: self.mtu,
            rx: rx.check(at, problems),
            tx: tx.check(at, problems),
        }
    }

    fn check_backend(&self, at: &KeyPath, problems: &mut Problems) -> CheckedNetBackend {
        let range = 1..=u64::from(NET_QUEUES_MAX);
        let queues_at = at.key("queues");
        check_range(
            self.queues.map(u64::from),
            range.clone(),
            &queues_at,
            problems,
        );
        for (index, &fd) in self.fds.iter().enumerate() {
            if fd < FIRST_FREE_FD {
                let what = format!("{fd} is not a descriptor that can be inherited for this");
                let at = at.key("fds").index(index);
                problems.push(at, what, format!("use {FIRST_FREE_FD} or higher"));
            }
        }
        match &self.tap {
            None if self.fds.is_empty() => {
                let remedy = "give one of them: the name of an interface, or descriptors";
                problems.push(at.clone(), "says neither tap nor fds", remedy);
            }
            Some(_) if !self.fds.is_empty() => {
                problems.push(at.clone(), "says both tap and fds", "keep one of them");
            }
            Some(name) => check_interface(name, &at.key("tap"), problems),
            None => {
                let count = u64::try_from(self.fds.len()).unwrap_or(u64::MAX);
                check_range(Some(count), range, &at.key("fds"), problems);
                if self.queues.is_some_and(|queues| u64::from(queues) != count) {
                    let what = format!("does not agree with {count} descriptors");
                    problems.push(queues_at, what, "leave it out");
                }
            }
        }
        match &self.tap {
            Some(name) => CheckedNetBackend::Tap {
                name: name.clone(),
                queues: self.queues.unwrap_or(1),
            },
            None => CheckedNetBackend::Fds(self.fds.clone()),
        }
    }
}

/// The keys of one direction's limits, with their values.
struct Direction<'a> {
    bps: (&'static str, Option<&'a Size>),
    bps_burst: (&'static str, Option<&'a Size>),
    ops: (&'static str, Option<u32>),
    ops_burst: (&'static str, Option<u32>),
}

impl Direction<'_> {
    fn check(&self, at: &KeyPath, problems: &mut Problems) -> CheckedLimits {
        let size = |(key, size): (&'static str, Option<&Size>), problems: &mut Problems| {
            let bytes = size?.bytes();
            let bytes = bytes.map_err(|e| problems.push(at.key(key), e.to_string(), e.remedy()));
            Some((key, bytes.ok()?))
        };
        let rate = size(self.bps, problems);
        let burst = size(self.bps_burst, problems);
        let has_rate = self.bps.1.is_some();
        let bytes = check_rate(rate, burst, (has_rate, self.bps.0), at, problems);
        let count = |(key, count): (&'static str, Option<u32>)| Some((key, u64::from(count?)));
        let (rate, burst) = (count(self.ops), count(self.ops_burst));
        let has_rate = rate.is_some();
        let operations = check_rate(rate, burst, (has_rate, self.ops.0), at, problems);
        CheckedLimits { bytes, operations }
    }
}

/// A rate and its burst, each with its key; `wanted` is whether there is a rate's key at all.
fn check_rate(
    rate: Option<(&'static str, u64)>,
    burst: Option<(&'static str, u64)>,
    wanted: (bool, &'static str),
    at: &KeyPath,
    problems: &mut Problems,
) -> Option<CheckedRate> {
    for (key, value) in rate.into_iter().chain(burst) {
        if value == 0 {
            let remedy = "give at least 1, or leave it out for no limit";
            problems.push(at.key(key), "lets nothing pass", remedy);
        }
    }
    if let (Some((key, _)), (false, missing)) = (burst, wanted) {
        let what = format!("is of no use without {missing}");
        problems.push(at.key(key), what, format!("add {missing}, or leave it out"));
    }
    Some(CheckedRate {
        per_second: rate?.1,
        burst: burst.map(|(_, burst)| burst),
    })
}

fn check_range(
    value: Option<u64>,
    range: std::ops::RangeInclusive<u64>,
    at: &KeyPath,
    problems: &mut Problems,
) {
    if let Some(value) = value
        && !range.contains(&value)
    {
        let remedy = format!("use {} to {}", range.start(), range.end());
        problems.push(at.clone(), format!("{value} is out of range"), remedy);
    }
}

/// The name of an interface by the kernel's rule (`dev_valid_name`), and no pattern.
fn check_interface(name: &str, at: &KeyPath, problems: &mut Problems) {
    if name.len() > INTERFACE_LIMIT {
        let what = format!("is {} bytes long", name.len());
        problems.push(at.clone(), what, format!("use at most {INTERFACE_LIMIT}"));
    }
    let possible = !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', ':', '%', '\0'])
        && !name.contains(char::is_whitespace);
    if !possible {
        let what = format!("{} is not a name of an interface", quoted(name));
        problems.push(at.clone(), what, "use a name without spaces, /, : and %");
    }
}

fn check_mac(text: &str, at: &KeyPath, problems: &mut Problems) -> Option<MacAddress> {
    let mac = MacAddress::parse(text);
    match mac {
        None => {
            let what = format!("{} is not an Ethernet address", quoted(text));
            let remedy = "write six pairs of hexadecimal digits, such as 02:00:00:12:34:56";
            problems.push(at.clone(), what, remedy);
        }
        Some(mac) if mac.is_multicast() || mac.is_zero() => {
            let what = format!("{mac} is not an address that one card can have");
            let remedy = "make the first pair even and not all zero; 02 is for your own use";
            problems.push(at.clone(), what, remedy);
        }
        Some(_) => {}
    }
    mac
}
