//! What the documents say about the repository: every path that ARCHITECTURE.md names exists, and
//! every promised number in SPEC.md names the bench that measures it.

use std::fs;
use std::path::Path;

use crate::failure::{Context, Failure, Outcome};
use crate::workspace::Workspace;

/// The document whose paths are followed.
const ARCHITECTURE: &str = "ARCHITECTURE.md";
/// The document whose numbers are traced.
const SPEC: &str = "SPEC.md";

/// Checks both documents.
pub(super) fn check(workspace: &Workspace) -> Outcome<()> {
    let read = |name: &str| fs::read_to_string(workspace.root.join(name)).context(name);
    let architecture = read(ARCHITECTURE)?;
    let mut problems: Vec<String> = paths(&architecture, &workspace.root)
        .into_iter()
        .filter(|path| !exists(&workspace.root, path))
        .map(|path| format!("{ARCHITECTURE} names {path}, which is not there"))
        .collect();
    problems.extend(untraced(&read(SPEC)?));
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(problems.join("\n  ")))
}

/// The paths in code spans and code blocks: words that start with a directory at the top of the
/// repository, or name a file there. `{a,b}` stands for each.
fn paths(text: &str, root: &Path) -> Vec<String> {
    code(text)
        .split(|c: char| c.is_whitespace() || "()[]\"'`;│├└─|".contains(c))
        .map(|word| word.trim_end_matches(['.', ',', ':']))
        .filter(|word| {
            let top = word.split('/').next().unwrap_or_default();
            let known = !top.is_empty() && root.join(top).is_dir() && word.contains('/');
            known || (!word.contains('/') && is_file_name(word))
        })
        .flat_map(alternatives)
        .collect()
}

/// Whether a bare word is certainly meant as a file at the top: `Cargo.toml`, not `memory.rs`.
fn is_file_name(word: &str) -> bool {
    let upper = word.starts_with(|c: char| c.is_ascii_uppercase());
    upper
        && [".md", ".toml", ".lock"]
            .iter()
            .any(|ending| word.ends_with(ending))
}

/// The text between backticks and in fenced blocks, pieces apart by spaces.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let spans = line
            .split('`')
            .enumerate()
            .filter(|(index, _)| fenced || index % 2 == 1);
        for (_, span) in spans {
            code.push_str(span);
            code.push(' ');
        }
    }
    code
}

/// `a/b.rs` and `a/c.rs` for `a/{b,c}.rs`.
fn alternatives(word: &str) -> Vec<String> {
    let braces = word.split_once('{').and_then(|(head, rest)| {
        let (choices, tail) = rest.split_once('}')?;
        Some((head, choices, tail))
    });
    match braces {
        Some((head, choices, tail)) => choices
            .split(',')
            .flat_map(|choice| alternatives(&format!("{head}{}{tail}", choice.trim())))
            .collect(),
        None => vec![word.to_owned()],
    }
}

/// Whether a path exists below the root; a `*` in its last part needs one match.
fn exists(root: &Path, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    let (folder, last) = path.rsplit_once('/').unwrap_or(("", path));
    let Some((head, tail)) = last.split_once('*') else {
        // `devices/src/bus.rs::Bus` and `devices/src/bus.rs:12` name a place in a file.
        let file = path.split(':').next().unwrap_or(path);
        return root.join(file).exists();
    };
    fs::read_dir(root.join(folder)).is_ok_and(|entries| {
        entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .any(|name| name.starts_with(head) && name.ends_with(tail))
    })
}

/// The rows of SPEC.md that promise a number and name no bench. A table promises if its header has
/// a cell "target"; the bench is a code span in the cell under "bench".
fn untraced(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut promises = 0_usize;
    let mut header: Option<Vec<String>> = None;
    for (number, line) in text.lines().enumerate() {
        let Some(row) = cells(line) else {
            header = None;
            continue;
        };
        let Some(names) = &header else {
            header = Some(row.iter().map(|cell| cell.to_lowercase()).collect());
            continue;
        };
        let rule = row
            .iter()
            .all(|cell| cell.chars().all(|c| "-: ".contains(c)));
        if rule || !names.iter().any(|name| name.starts_with("target")) {
            continue;
        }
        promises += 1;
        let bench = names.iter().position(|name| name.starts_with("bench"));
        let named = bench
            .and_then(|at| row.get(at))
            .is_some_and(|cell| cell.contains('`'));
        if !named {
            problems.push(format!("{SPEC}:{}: names no bench: {line}", number + 1));
        }
    }
    if promises == 0 {
        problems.push(format!("{SPEC} has no table with a column \"target\""));
    }
    problems
}

/// The cells of a table row.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(
        inner
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    #[test]
    fn paths_are_words_of_code_that_start_at_the_top() {
        let text = "See `src/main.rs`, `src/{deps,nothing}.rs` and src/prose.rs; `/dev/kvm`.\n\
                    ```\nsrc/check/   checks\n```\n`Cargo.toml`, `memory.rs`";
        let found = paths(text, root());
        let wanted = [
            "src/main.rs",
            "src/deps.rs",
            "src/nothing.rs",
            "src/check/",
            "Cargo.toml",
        ];
        assert_eq!(found, wanted);
        let missing: Vec<_> = found.iter().filter(|path| !exists(root(), path)).collect();
        assert_eq!(missing, ["src/nothing.rs"]);
    }

    #[test]
    fn a_star_wants_one_match() {
        assert!(exists(root(), "src/*.rs"));
        assert!(!exists(root(), "src/*.c"));
        assert!(exists(root(), "src/main.rs:12"));
    }

    #[test]
    fn a_promise_without_a_bench_is_named() {
        let good = "| what | target | bench |\n| --- | --- | --- |\n| spawn | 2 ms | `spawn` |\n";
        assert!(untraced(good).is_empty());
        let bad = good.replace("`spawn`", "");
        assert_eq!(untraced(&bad).len(), 1);
        let none = "| what | target |\n| --- | --- |\n| spawn | 2 ms |\n";
        assert_eq!(untraced(none).len(), 1);
        assert_eq!(untraced("no table").len(), 1);
    }
}
