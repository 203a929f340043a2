//! `cargo xtask size`: the ten longest functions and files, test code apart, and the median file.
//!
//! Works on formatted source: a function ends at the first closing brace that stands alone at the
//! indentation of its `fn` line.

use std::path::{Path, PathBuf};

use crate::failure::{Context, Outcome};
use crate::report;
use crate::workspace::Workspace;

/// How many of each are listed.
const LISTED: usize = 10;

/// A function and how many lines it takes, from its signature to its closing brace.
#[derive(Debug, PartialEq, Eq)]
struct Function {
    lines: usize,
    first: usize,
    name: String,
}

/// Prints both lists and the median.
pub(crate) fn run(workspace: &Workspace) -> Outcome<()> {
    let mut files: Vec<(usize, PathBuf)> = Vec::new();
    let mut functions: Vec<(usize, String)> = Vec::new();
    for path in workspace
        .files()?
        .into_iter()
        .filter(|path| is_shipped_source(path))
    {
        let text = std::fs::read_to_string(workspace.root.join(&path)).context(path.display())?;
        let shipped = without_tests(&text);
        functions.extend(functions_of(&shipped).into_iter().map(|function| {
            (
                function.lines,
                format!("{}:{} {}", path.display(), function.first, function.name),
            )
        }));
        files.push((shipped.len(), path));
    }
    files.sort_by(|a, b| b.cmp(a));
    functions.sort_by(|a, b| b.cmp(a));
    report::data("longest functions (lines)");
    for (lines, place) in functions.iter().take(LISTED) {
        report::data(&format!("{lines:6}  {place}"));
    }
    report::data("longest files without their tests (lines)");
    for (lines, path) in files.iter().take(LISTED) {
        report::data(&format!("{lines:6}  {}", path.display()));
    }
    if let Some((median, _)) = files.get(files.len() / 2) {
        report::data(&format!("{} files, median {median} lines", files.len()));
    }
    Ok(())
}

/// Whether a file is Rust and not by its name a module of unit tests.
fn is_shipped_source(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let tests = stem == "tests" || stem.ends_with("_tests");
    path.extension().is_some_and(|extension| extension == "rs") && !tests
}

/// The lines of a file up to its unit tests, which come last by custom.
fn without_tests(text: &str) -> Vec<&str> {
    text.lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .collect()
}

/// Every function with a body in formatted source.
fn functions_of(lines: &[&str]) -> Vec<Function> {
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indent}}}");
        let rest = lines.get(index..).unwrap_or_default();
        // One line, or a declaration without a body: nothing to measure.
        if line.ends_with('}') || line.ends_with(';') {
            continue;
        }
        if let Some(end) = rest.iter().position(|line| *line == closing) {
            found.push(Function {
                lines: end + 1,
                first: index + 1,
                name,
            });
        }
    }
    found
}

/// The name, if the line opens a function.
fn function_name(line: &str) -> Option<String> {
    const QUALIFIERS: [&str; 5] = ["const", "unsafe", "extern", "async", "\"C\""];
    let mut words = line.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if word == "fn" {
            let rest = words.next()?;
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            return rest.get(..end).map(str::to_owned);
        }
        if !word.starts_with("pub") && !QUALIFIERS.contains(&word) {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured_to_their_closing_brace() {
        let source = "impl A {\n    pub(crate) fn long(\n        a: u8,\n    ) -> u8 {\n        if a {\n        }\n    }\n    fn short() {}\n}\nfn top() {\n}\n";
        let lines: Vec<&str> = source.lines().collect();
        let found = functions_of(&lines);
        assert_eq!(
            found,
            [
                Function {
                    lines: 6,
                    first: 2,
                    name: "long".into()
                },
                Function {
                    lines: 2,
                    first: 10,
                    name: "top".into()
                },
            ]
        );
    }

    #[test]
    fn a_comment_or_a_call_is_no_function() {
        assert_eq!(function_name("// fn talk() {"), None);
        assert_eq!(function_name("let f = fn_name();"), None);
        assert_eq!(
            function_name("pub unsafe extern \"C\" fn entry() {"),
            Some("entry".into())
        );
    }
}
