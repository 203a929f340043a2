//! Character devices: what is behind serial ports and consoles.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One character device, of `query-chardev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ChardevInfo {
    /// Its id.
    pub label: String,
    /// What it is: `stdio`, `file`, `null`, `pty:/dev/pts/0`, `unix:PATH,server=on`.
    pub filename: String,
    /// Whether a device of the guest uses it.
    pub frontend_open: bool,
}
