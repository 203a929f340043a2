//! Yank: cutting off a peer that has stopped answering.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something that can be yanked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
pub enum YankInstance {
    /// A network disk.
    BlockNode {
        /// The node's name.
        node_name: String,
    },
    /// A character device with a peer.
    Chardev {
        /// Its id.
        id: String,
    },
    /// The migration.
    Migration {},
}
/// Arguments of `yank`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct YankArguments {
    /// What to cut off.
    pub instances: Vec<YankInstance>,
}
