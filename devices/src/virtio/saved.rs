//! The saved form of what each device knows beside its transport's registers and its queues.
//!
//! Plain data, part of the transport's section in a snapshot (`transport::saved`), whose version
//! covers it.

use serde::{Deserialize, Serialize};

use super::blk::saved::BlkState;
use super::net::saved::NetState;

/// A device's own state, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum DeviceState {
    /// A block device.
    Blk(BlkState),
    /// A network card.
    Net(NetState),
    /// An entropy source; it remembers nothing.
    Rng,
    /// A socket device; its connections end with the machine that had them.
    Vsock,
}
