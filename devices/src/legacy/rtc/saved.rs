//! The saved form of the clock.

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RtcState {
    /// The register the data port names, 0 to 127.
    pub index: u8,
    /// The guest's clock less the host's, in seconds.
    pub offset: i64,
    /// All 128 bytes of CMOS memory. Those of the time count only while the clock is stopped.
    pub cmos: Vec<u8>,
}
