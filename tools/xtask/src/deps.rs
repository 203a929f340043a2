//! `cargo xtask deps`: who may import whom, what licences come along, and how many crates of
//! others the shipped binary holds. The rules are ARCHITECTURE.md's; this is where they are
//! enforced.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::report;
use crate::workspace::{Workspace, metadata};

/// Each crate of ours and the crates of ours it may name in any table of its Cargo.toml.
const RULES: [(&str, &[&str]); 7] = [
    ("api-socket", &[]),
    ("devices", &[]),
    ("firmware", &[]),
    ("jailer", &[]),
    ("vmm", &["api-socket", "devices", "firmware", "jailer"]),
    ("xtask", &["api-socket"]),
    ("tests", &["api-socket"]),
];

/// The package whose binary ships.
const SHIPPED: &str = "vmm";

/// Checks the rules and prints the counts.
pub(crate) fn run(workspace: &Workspace) -> Outcome<()> {
    let metadata = metadata(&workspace.root, &[])?;
    let packages = items(&metadata["packages"]);
    let mut problems = import_problems(packages);
    problems.extend(packages.iter().filter_map(licence_problem));
    let crates = shipped_crates(&metadata)?;
    report::data(&format!(
        "{} crates of others in {SHIPPED}'s binary",
        crates.len()
    ));
    report::data(&format!(
        "{} packages in Cargo.lock's graph",
        packages.len()
    ));
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "dependency rules:\n  {}",
        problems.join("\n  ")
    )))
}

/// The elements of a JSON array, none for anything else.
fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A string field, empty when it is missing.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Imports among our own crates that no rule allows.
fn import_problems(packages: &[Value]) -> Vec<String> {
    let ours: BTreeMap<&str, &Value> = packages
        .iter()
        .filter(|package| package["source"].is_null())
        .map(|package| (text(package, "name"), package))
        .collect();
    let mut problems = Vec::new();
    for (name, package) in &ours {
        let Some((_, allowed)) = RULES.iter().find(|(rule, _)| rule == name) else {
            problems.push(format!(
                "{name}: no rule says what it may import (xtask's deps.rs)"
            ));
            continue;
        };
        let imports: BTreeSet<&str> = items(&package["dependencies"])
            .iter()
            .map(|dependency| text(dependency, "name"))
            .filter(|import| ours.contains_key(import) && import != name)
            .collect();
        for import in imports.iter().filter(|import| !allowed.contains(import)) {
            problems.push(format!("{name} imports {import}, which it may not"));
        }
    }
    problems
}

/// What is wrong with a package's licence, if anything is.
fn licence_problem(package: &Value) -> Option<String> {
    let name = text(package, "name");
    match package["license"].as_str() {
        Some(expression) if acceptable(expression) => None,
        Some(expression) => Some(format!("{name}: licence {expression}")),
        None if package["license_file"].is_string() => None,
        None => Some(format!("{name}: names no licence")),
    }
}

/// Whether an SPDX expression can be met without a licence of the GPL family.
fn acceptable(expression: &str) -> bool {
    expression
        .split(" OR ")
        .flat_map(|part| part.split('/'))
        .any(|part| !part.contains("GPL"))
}

/// The packages of others that are linked into the shipped binary: normal dependencies on its
/// target, without procedural macros and what only those need.
fn shipped_crates(metadata: &Value) -> Outcome<BTreeSet<String>> {
    let packages: BTreeMap<&str, &Value> = items(&metadata["packages"])
        .iter()
        .map(|package| (text(package, "id"), package))
        .collect();
    let nodes: BTreeMap<&str, &Value> = items(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| (text(node, "id"), node))
        .collect();
    let start = packages
        .iter()
        .find(|(_, package)| text(package, "name") == SHIPPED && package["source"].is_null())
        .map(|(id, _)| *id)
        .ok_or_else(|| Failure::new(format!("no package {SHIPPED} in this workspace")))?;
    let mut seen = BTreeSet::from([start]);
    let mut queue = vec![start];
    while let Some(node) = queue.pop().and_then(|id| nodes.get(id)) {
        for dependency in items(&node["deps"]) {
            let id = text(dependency, "pkg");
            let normal = items(&dependency["dep_kinds"])
                .iter()
                .any(|kind| kind["kind"].is_null());
            let linked = packages.get(id).is_some_and(|package| !is_macro(package));
            if normal && linked && seen.insert(id) {
                queue.push(id);
            }
        }
    }
    Ok(seen
        .iter()
        .filter_map(|id| packages.get(id))
        .filter(|package| package["source"].is_string())
        .map(|package| format!("{} {}", text(package, "name"), text(package, "version")))
        .collect())
}

/// Whether a package is a procedural macro: it runs in the compiler, not in the binary.
fn is_macro(package: &Value) -> bool {
    items(&package["targets"])
        .iter()
        .flat_map(|target| items(&target["kind"]))
        .any(|kind| kind == "proc-macro")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_choice_without_gpl_is_enough() {
        assert!(acceptable("MIT OR Apache-2.0 OR LGPL-2.1-or-later"));
        assert!(acceptable("MIT/Apache-2.0"));
        assert!(acceptable("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!acceptable("GPL-2.0-only"));
        assert!(!acceptable("LGPL-3.0 OR AGPL-3.0"));
        assert!(!acceptable("MIT AND GPL-2.0-only"));
    }

    fn ours(name: &str, imports: &[&str]) -> Value {
        let dependencies: Vec<Value> = imports.iter().map(|name| json!({"name": name})).collect();
        json!({"name": name, "source": null, "dependencies": dependencies})
    }

    #[test]
    fn an_import_outside_the_rules_is_named() {
        let packages = [
            ours("devices", &["jailer", "libc"]),
            ours("jailer", &[]),
            ours("vmm", &["devices"]),
        ];
        assert_eq!(
            import_problems(&packages),
            ["devices imports jailer, which it may not"]
        );
    }

    #[test]
    fn a_crate_without_a_rule_is_named() {
        assert_eq!(import_problems(&[ours("novel", &[])]).len(), 1);
    }

    #[test]
    fn macros_build_dependencies_and_our_own_crates_do_not_count() {
        let node = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                {"id": "v", "name": "vmm", "version": "1", "source": null, "targets": []},
                {"id": "a", "name": "a", "version": "1", "source": "r", "targets": []},
                {"id": "m", "name": "m", "version": "1", "source": "r",
                 "targets": [{"kind": ["proc-macro"]}]},
                {"id": "b", "name": "b", "version": "1", "source": "r", "targets": []}],
            "resolve": {"nodes": [
                {"id": "v", "deps": [node("a", Value::Null), node("m", Value::Null),
                                     node("b", json!("build"))]},
                {"id": "a", "deps": []}]}});
        let crates = shipped_crates(&metadata).unwrap();
        assert_eq!(crates.into_iter().collect::<Vec<_>>(), ["a 1"]);
    }
}
