//! Virtual CPUs: how many, and what their CPUID shows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{KeyPath, Problems, quoted};

/// Most virtual CPUs of a machine.
pub const CPUS_MAX: u8 = 32;

/// Longest feature list, in bytes.
const FEATURES_LIMIT: usize = 4096;

/// Longest name of a CPU feature, in bytes; the longest of Linux's and QEMU's have 24.
const FEATURE_NAME_LIMIT: usize = 32;

/// Virtual CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cpus {
    /// How many, 1 to 32.
    #[schemars(range(min = 1, max = 32))]
    pub count: u32,
    /// The CPU model and changes to its features, separated by commas: `host`, then `+feature`
    /// to add and `-feature` to hide. `host` may be left out.
    #[schemars(length(min = 1, max = 4096))]
    pub features: String,
}

impl Default for Cpus {
    fn default() -> Self {
        Self {
            count: 1,
            features: "host".to_owned(),
        }
    }
}

/// The CPU a guest's features start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuModel {
    /// Everything of the host's CPU that KVM can give a guest.
    Host,
}

/// One change to the model's features. The name is in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeatureChange {
    /// `+name`: the guest must see the feature; starting fails where KVM cannot give it.
    Add(String),
    /// `-name`: the guest must not see the feature.
    Remove(String),
}

impl FeatureChange {
    /// The feature's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Add(name) | Self::Remove(name) => name,
        }
    }
}

/// Virtual CPUs, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckedCpus {
    /// How many, 1 to [`CPUS_MAX`].
    pub count: u8,
    /// Where the features start from.
    pub model: CpuModel,
    /// Changes to them, in the order given; no feature is named twice. Whether such a feature
    /// exists is for the CPU model's own table to say.
    pub features: Vec<FeatureChange>,
}

impl Cpus {
    /// The changes that [`Self::features`] asks for, without what is wrong with the text.
    pub fn changes(&self) -> Vec<FeatureChange> {
        check_features(&self.features, &KeyPath::root(), &mut Problems::new())
    }

    /// Its rules.
    pub(super) fn check(&self, at: &KeyPath, problems: &mut Problems) -> CheckedCpus {
        let count = u8::try_from(self.count).unwrap_or(u8::MAX);
        if count == 0 || count > CPUS_MAX {
            let what = format!("{} CPUs cannot be given", self.count);
            problems.push(at.key("count"), what, format!("use 1 to {CPUS_MAX}"));
        }
        let features = check_features(&self.features, &at.key("features"), problems);
        CheckedCpus {
            count,
            model: CpuModel::Host,
            features,
        }
    }
}

fn check_features(text: &str, at: &KeyPath, problems: &mut Problems) -> Vec<FeatureChange> {
    let mut changes: Vec<FeatureChange> = Vec::new();
    if text.len() > FEATURES_LIMIT {
        let what = format!("is {} bytes long", text.len());
        problems.push(at.clone(), what, format!("use at most {FEATURES_LIMIT}"));
        return changes;
    }
    for (position, item) in text.split(',').enumerate() {
        let change = match (item.strip_prefix('+'), item.strip_prefix('-')) {
            (Some(name), _) if is_feature_name(name) => FeatureChange::Add(name.to_owned()),
            (_, Some(name)) if is_feature_name(name) => FeatureChange::Remove(name.to_owned()),
            _ if position == 0 && item == "host" => continue,
            _ => {
                problems.push(
                    at.clone(),
                    format!("{} is neither a CPU model nor a feature", quoted(item)),
                    "write host, then +feature or -feature in lower case, separated by commas",
                );
                continue;
            }
        };
        if changes
            .iter()
            .any(|earlier| earlier.name() == change.name())
        {
            let what = format!("names {} twice", quoted(change.name()));
            problems.push(at.clone(), what, "keep one of the two");
        } else {
            changes.push(change);
        }
    }
    changes
}

/// Feature names as Linux and QEMU write them: `avx512f`, `sse4.1`, `sse4_2`, `kvm-asyncpf`.
fn is_feature_name(name: &str) -> bool {
    name.len() <= FEATURE_NAME_LIMIT
        && name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(text: &str) -> Result<Vec<FeatureChange>, usize> {
        let mut problems = Problems::new();
        let changes = check_features(text, &KeyPath::root(), &mut problems);
        if problems.is_empty() {
            Ok(changes)
        } else {
            Err(problems.into_vec().len())
        }
    }

    #[test]
    fn a_feature_list_is_a_model_and_changes() {
        let add = |name: &str| FeatureChange::Add(name.to_owned());
        let remove = |name: &str| FeatureChange::Remove(name.to_owned());
        assert_eq!(features("host"), Ok(vec![]));
        assert_eq!(
            features("host,+avx2,-sse4.1"),
            Ok(vec![add("avx2"), remove("sse4.1")])
        );
        assert_eq!(
            features("-3dnow,+kvm-asyncpf"),
            Ok(vec![remove("3dnow"), add("kvm-asyncpf")])
        );
    }

    #[test]
    fn every_bad_item_is_a_problem() {
        for (text, count) in [
            ("", 1),
            ("host,", 1),
            ("Skylake-Client", 1),
            ("+avx2,host", 1),
            ("host,avx2=on,+,-,+AVX", 4),
            ("+avx2,-avx2", 1),
            ("host,+a b", 1),
        ] {
            assert_eq!(features(text), Err(count), "{text}");
        }
        assert_eq!(features(&format!("+{}", "a".repeat(33))), Err(1));
        assert_eq!(features(&"a,".repeat(4096)), Err(1));
    }
}
