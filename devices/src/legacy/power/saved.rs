//! The saved form of the power block.

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerState {
    /// Events the guest has not read yet: bits of the event selector.
    pub pending: u32,
}
