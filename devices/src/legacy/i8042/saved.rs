//! The saved form of the keyboard controller.

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct I8042State {
    /// Command 0xD1 was given and its data byte has not come yet.
    pub output_port_next: bool,
}
