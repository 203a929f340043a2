//! File descriptors that clients hand over.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Arguments of `getfd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetfdArguments {
    /// The name to keep it under; a descriptor already there is closed.
    pub fdname: String,
}

/// Arguments of `closefd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClosefdArguments {
    /// The name.
    pub fdname: String,
}

/// Arguments of `add-fd`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AddFdArguments {
    /// The set to add to; a new one if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fdset_id: Option<i64>,
    /// A note to find it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opaque: Option<String>,
}

/// Return of `add-fd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AddfdInfo {
    /// The set.
    pub fdset_id: i64,
    /// The descriptor's number in this process.
    pub fd: i64,
}

/// Arguments of `remove-fd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RemoveFdArguments {
    /// The set.
    pub fdset_id: i64,
    /// The one descriptor; all of the set if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd: Option<i64>,
}

/// One descriptor of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FdsetFdInfo {
    /// Its number in this process.
    pub fd: i64,
    /// The note it came with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opaque: Option<String>,
}

/// One set, of `query-fdsets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FdsetInfo {
    /// Its number.
    pub fdset_id: i64,
    /// Its descriptors.
    pub fds: Vec<FdsetFdInfo>,
}
