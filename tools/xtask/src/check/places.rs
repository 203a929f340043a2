//! Names of places that exist on one developer's machine only: this checkout's own directory, and
//! papers beside the repository. A reader elsewhere can follow neither.

use std::fs;
use std::path::{Component, Path};

use crate::failure::{Context, Failure, Outcome};
use crate::workspace::Workspace;

/// Directories every machine may have at its root; a path below one is not by itself somebody's.
const COMMON: [&str; 18] = [
    "bin", "boot", "builds", "dev", "etc", "home", "lib", "media", "mnt", "opt", "proc", "root",
    "run", "srv", "sys", "tmp", "usr", "var",
];

/// A directory of papers that a checkout may have beside it. In two parts, or this file would
/// name it.
const PAPERS: &str = concat!("shared", "/");

/// Looks through every text file of the repository.
pub(super) fn check(workspace: &Workspace) -> Outcome<()> {
    let forbidden = forbidden(&workspace.root);
    let mut found = Vec::new();
    for path in workspace.files()? {
        let bytes = fs::read(workspace.root.join(&path)).context(path.display())?;
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            for place in forbidden.iter().filter(|place| names(line, place)) {
                found.push(format!("{}:{}: {place}", path.display(), number + 1));
            }
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "places of one machine only:\n  {}",
        found.join("\n  ")
    )))
}

/// What may not be named: the checkout itself, the directory at the root of the file system that
/// it lies in unless every machine has one, and [`PAPERS`].
fn forbidden(root: &Path) -> Vec<String> {
    let mut places = vec![root.display().to_string(), PAPERS.to_owned()];
    if let Some(Component::Normal(top)) = root.components().nth(1) {
        let top = top.to_string_lossy();
        if !COMMON.contains(&top.as_ref()) {
            places.push(format!("/{top}/"));
        }
    }
    places
}

/// Whether `line` has `place` other than as the tail of a longer path or word.
fn names(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line.get(..at).and_then(|head| head.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || "/_-.}".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkouts_own_directory_is_forbidden_and_its_odd_parent_too() {
        let places = forbidden(Path::new("/odd/place/thimble"));
        assert!(places.contains(&"/odd/place/thimble".to_owned()));
        assert!(places.contains(&"/odd/".to_owned()));
        assert_eq!(forbidden(Path::new("/home/me/thimble")).len(), 2);
    }

    #[test]
    fn the_tail_of_a_longer_path_is_no_mention() {
        assert!(names("see /odd/thing", "/odd/"));
        assert!(names("`/odd/thing`", "/odd/"));
        assert!(!names("target/odd/thing", "/odd/"));
    }
}
