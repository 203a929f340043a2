//! Network cards.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Arguments of `set_link`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetLinkArguments {
    /// The network card's id.
    pub name: String,
    /// Whether there is to be a carrier.
    pub up: bool,
}

/// Arguments of `query-rx-filter`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueryRxFilterArguments {
    /// The network card's id; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// How much of a kind of frames passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RxState {
    /// What is in the table.
    Normal,
    /// Nothing.
    None,
    /// Everything.
    All,
}

/// What a network card receives, of `query-rx-filter`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RxFilterInfo {
    /// The network card's id.
    pub name: String,
    /// Whether it receives everything, whatever the rest says.
    pub promiscuous: bool,
    /// Frames for groups.
    pub multicast: RxState,
    /// Frames for one station.
    pub unicast: RxState,
    /// Frames with a VLAN tag.
    pub vlan: RxState,
    /// Whether frames for all stations pass.
    pub broadcast_allowed: bool,
    /// Whether the driver gave more groups than are kept, so that all pass.
    pub multicast_overflow: bool,
    /// Whether the driver gave more stations than are kept, so that all pass.
    pub unicast_overflow: bool,
    /// The card's own address.
    pub main_mac: String,
    /// VLANs that pass.
    pub vlan_table: Vec<i64>,
    /// Further stations whose frames pass.
    pub unicast_table: Vec<String>,
    /// Groups whose frames pass.
    pub multicast_table: Vec<String>,
}

/// Arguments of `announce-self`. How often and how fast is the guest's to say: the times are
/// taken and not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnnounceSelfArguments {
    /// Milliseconds before the first repetition.
    pub initial: i64,
    /// Most milliseconds between two.
    pub max: i64,
    /// How many.
    pub rounds: i64,
    /// Milliseconds by which each waits longer than the one before.
    pub step: i64,
    /// Ids of the network cards; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<String>>,
    /// A name for the announcement, of no use here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Arguments of `x-thimble-set-limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetLimitsArguments {
    /// The device's id.
    pub id: String,
    /// Limits into the guest; they stay as they are if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx: Option<Box<LimitSettings>>,
    /// Limits out of the guest; they stay as they are if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx: Option<Box<LimitSettings>>,
}

/// The limits of one direction. What is absent, or 0, is without limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LimitSettings {
    /// Bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps: Option<u64>,
    /// Bytes at once after a quiet time; a tenth of a second's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_burst: Option<u64>,
    /// Operations a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<u64>,
    /// Operations at once after a quiet time; a tenth of a second's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops_burst: Option<u64>,
}
