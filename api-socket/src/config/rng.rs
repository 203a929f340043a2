//! The random number generator: a virtio-rng device fed from the host's kernel.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::check_id;
use super::problem::{KeyPath, Problems};

/// The id of the device unless another is given.
const DEFAULT_ID: &str = "rng0";

/// Whether there is a random number generator: `true`, `false`, or an object that says more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RngSetting {
    /// Present with its defaults, or absent.
    Switch(bool),
    /// Present.
    Device(Rng),
}

impl Default for RngSetting {
    fn default() -> Self {
        Self::Switch(false)
    }
}

/// A random number generator. The guest sees a virtio-rng device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rng {
    /// The device's id in control commands, by default `rng0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^[A-Za-z][A-Za-z0-9._-]*$"), length(max = 127))]
    pub id: Option<String>,
}

/// A random number generator, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckedRng {
    /// The device's id, unlike that of any other device.
    pub id: String,
}

impl RngSetting {
    /// Its rules; `None` is no device.
    pub(super) fn check(&self, at: &KeyPath, problems: &mut Problems) -> Option<CheckedRng> {
        let id = match self {
            Self::Switch(false) => return None,
            Self::Switch(true) | Self::Device(Rng { id: None }) => DEFAULT_ID,
            Self::Device(Rng { id: Some(id) }) => {
                check_id(id, &at.key("id"), problems);
                id
            }
        };
        Some(CheckedRng { id: id.to_owned() })
    }
}
