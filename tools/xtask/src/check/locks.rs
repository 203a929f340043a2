//! The two lock files agree: what the workspace of the fuzz targets builds is what ships, so its
//! lock file knows all that our crates depend on, and a package that both hold is in the same
//! version in both.

use std::collections::BTreeSet;
use std::fs;

use crate::failure::{Context, Failure, Outcome};
use crate::workspace::{Workspace, metadata};

/// The lock file of what ships, and the other.
const LOCKS: [&str; 2] = ["Cargo.lock", "tests/fuzz/Cargo.lock"];

/// What makes the second anew from the first.
const REMEDY: &str = "cp Cargo.lock tests/fuzz/ && \
                      cargo update --workspace --manifest-path tests/fuzz/Cargo.toml";

/// Compares them.
pub(super) fn check(workspace: &Workspace) -> Outcome<()> {
    let [shipped, fuzzed] = LOCKS;
    let read = |name: &str| fs::read_to_string(workspace.root.join(name)).context(name);
    let strays = strays(&read(shipped)?, &read(fuzzed)?);
    if !strays.is_empty() {
        let strays = strays.join(", ");
        return Err(Failure::new(format!(
            "{fuzzed} has other versions than {shipped}: {strays}; {REMEDY}"
        )));
    }
    // Refuses a lock file that lacks something.
    let answer = metadata(&workspace.root.join("tests/fuzz"), &[]);
    answer.map(drop).map_err(|failure| {
        Failure::new(format!("{failure}\n{fuzzed} may lack something: {REMEDY}"))
    })
}

/// The packages of `fuzzed` that `shipped` has in other versions only.
fn strays(shipped: &str, fuzzed: &str) -> Vec<String> {
    let shipped = packages(shipped);
    let names: BTreeSet<&str> = shipped.iter().map(|(name, _)| *name).collect();
    packages(fuzzed)
        .into_iter()
        .filter(|package| names.contains(package.0) && !shipped.contains(package))
        .map(|(name, version)| format!("{name} {version}"))
        .collect()
}

/// Names and versions in a lock file.
fn packages(lock: &str) -> BTreeSet<(&str, &str)> {
    lock.split("[[package]]")
        .filter_map(|package| {
            let field = |key: &str| {
                let line = package.lines().find_map(|line| line.strip_prefix(key));
                line.map(|value| value.trim_matches('"'))
            };
            field("name = ").zip(field("version = "))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(packages: &[(&str, &str)]) -> String {
        let text = |(name, version): &(&str, &str)| {
            format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n\n")
        };
        packages.iter().map(text).collect()
    }

    #[test]
    fn only_what_both_have_in_different_versions_is_named() {
        let shipped = lock(&[("libc", "0.2.1"), ("rand", "0.8.0"), ("rand", "0.9.0")]);
        let fuzzed = lock(&[("libc", "0.2.2"), ("rand", "0.8.0"), ("cc", "1.0.0")]);
        assert_eq!(strays(&shipped, &fuzzed), ["libc 0.2.2"]);
    }
}
