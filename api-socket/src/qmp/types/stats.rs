//! Statistics: KVM's own, and our counters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StatsProvider {
    /// KVM's binary statistics.
    Kvm,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StatsTarget {
    /// The guest as a whole.
    Vm,
    /// Each vCPU.
    Vcpu,
}

/// What is wanted of one provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatsRequest {
    /// The provider.
    pub provider: StatsProvider,
    /// The counters' names; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
}

/// Arguments of `query-stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "target", rename_all = "kebab-case")]
pub enum QueryStatsArguments {
    /// The guest as a whole.
    Vm {
        /// The providers; all if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        providers: Option<Vec<StatsRequest>>,
    },
    /// Each vCPU.
    Vcpu {
        /// The providers; all if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        providers: Option<Vec<StatsRequest>>,
        /// The vCPUs' paths; all if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        vcpus: Option<Vec<String>>,
    },
}
/// A counter's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum StatsValue {
    /// A number.
    Scalar(u64),
    /// Yes or no.
    Boolean(bool),
    /// The buckets of a histogram.
    List(Vec<u64>),
}
/// One counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: StatsValue,
}

/// The counters of one provider and one object, of `query-stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StatsResult {
    /// The provider.
    pub provider: StatsProvider,
    /// The vCPU's path; absent for the guest as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qom_path: Option<String>,
    /// The counters.
    pub stats: Vec<Stats>,
}

/// How a counter behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StatsType {
    /// Only grows.
    Cumulative,
    /// Goes up and down.
    Instant,
    /// The highest value seen.
    Peak,
    /// Buckets of equal width.
    LinearHistogram,
    /// Buckets that double in width.
    Log2Histogram,
}

/// What a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StatsUnit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Clock cycles.
    Cycles,
    /// Yes or no.
    Boolean,
}

/// One counter's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StatsSchemaValue {
    /// Its name.
    pub name: String,
    /// How it behaves.
    #[serde(rename = "type")]
    pub kind: StatsType,
    /// What it counts; a plain number if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<StatsUnit>,
    /// The base of `exponent`: 2 or 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<i64>,
    /// The value is in units times `base` to this power.
    pub exponent: i64,
    /// Width of a bucket of a linear histogram.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket_size: Option<u32>,
}

/// What one provider counts of one kind of object, of `query-stats-schemas`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatsSchema {
    /// The provider.
    pub provider: StatsProvider,
    /// The kind of object.
    pub target: StatsTarget,
    /// The counters.
    pub stats: Vec<StatsSchemaValue>,
}

/// Arguments of `query-stats-schemas`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueryStatsSchemasArguments {
    /// The one provider; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<StatsProvider>,
}

/// One of our counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counter {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// The counters of one object, of `x-thimble-query-counters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CounterGroup {
    /// The object: a vCPU's path, a device's id.
    pub id: String,
    /// The counters, in a fixed order.
    pub counters: Vec<Counter>,
}
