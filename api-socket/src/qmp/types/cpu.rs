//! vCPUs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SysEmuTarget;
/// Where a vCPU sits in the machine; members the machine does not have are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CpuInstanceProperties {
    /// NUMA node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<i64>,
    /// Socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_id: Option<i64>,
    /// Die in the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub die_id: Option<i64>,
    /// Cluster in the die.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<i64>,
    /// Module in the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module_id: Option<i64>,
    /// Core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core_id: Option<i64>,
    /// Thread in the core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<i64>,
}

/// One vCPU, of `query-cpus-fast`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CpuInfoFast {
    /// Its number, from 0.
    pub cpu_index: i64,
    /// Its path.
    pub qom_path: String,
    /// The host thread that runs it, for pinning.
    pub thread_id: i64,
    /// Where it sits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub props: Option<CpuInstanceProperties>,
    /// Its architecture.
    pub target: SysEmuTarget,
}

/// One place for vCPUs, of `query-hotpluggable-cpus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HotpluggableCPU {
    /// The type a vCPU there has.
    #[serde(rename = "type")]
    pub kind: String,
    /// vCPUs in the place.
    pub vcpus_count: i64,
    /// Where it is.
    pub props: CpuInstanceProperties,
    /// The path of the vCPU that is there; absent if none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qom_path: Option<String>,
}
