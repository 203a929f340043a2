//! Writing guest memory to files.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A format of memory dumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DumpGuestMemoryFormat {
    /// An ELF core file, for crash and gdb.
    Elf,
}

/// Arguments of `dump-guest-memory`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DumpGuestMemoryArguments {
    /// Whether to add the guest's virtual mappings of vCPU 0's address space.
    pub paging: bool,
    /// Where to: `file:PATH` or `fd:NAME` with a name given to `getfd`.
    pub protocol: String,
    /// Whether to return at once and finish with DUMP_COMPLETED.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detach: Option<bool>,
    /// First guest physical address; with `length`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begin: Option<i64>,
    /// Bytes from `begin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<i64>,
    /// The format; ELF if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<DumpGuestMemoryFormat>,
}

/// How far a dump is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DumpStatus {
    /// None was ever asked for.
    None,
    /// One is being written.
    Active,
    /// The last one was written.
    Completed,
    /// The last one failed.
    Failed,
}

/// Return of `query-dump`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DumpQueryResult {
    /// How far.
    pub status: DumpStatus,
    /// Bytes written.
    pub completed: i64,
    /// Bytes to write in all.
    pub total: i64,
}

/// Return of `query-dump-guest-memory-capability`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DumpGuestMemoryCapability {
    /// The formats there are.
    pub formats: Vec<DumpGuestMemoryFormat>,
}

/// Arguments of `pmemsave`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PmemsaveArguments {
    /// First guest physical address.
    pub val: u64,
    /// Bytes.
    pub size: u64,
    /// The file to write.
    pub filename: String,
}
