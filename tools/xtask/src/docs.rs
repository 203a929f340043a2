//! `cargo xtask docs`: man pages and shell completions, written by the launcher itself from the
//! definition of its command line, so that they cannot say anything else than `--help` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Context, Failure, Outcome};
use crate::process;
use crate::report;
use crate::workspace::Workspace;

/// Shell names as `thimble completions` takes them, and the file each shell looks for.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "thimble.bash"),
    ("zsh", "_thimble"),
    ("fish", "thimble.fish"),
];

/// Regenerates resources/man and resources/completions.
pub(crate) fn run(workspace: &Workspace) -> Outcome<()> {
    let resources = workspace.root.join("resources");
    for kind in ["man", "completions"] {
        let directory = resources.join(kind);
        if directory.exists() {
            std::fs::remove_dir_all(&directory).context(directory.display())?;
        }
    }
    generate(workspace, &resources)?;
    for name in contents(&resources)?.keys() {
        report::data(&format!("resources/{}", name.display()));
    }
    Ok(())
}

/// Wants resources/man and resources/completions to be what the launcher writes now.
pub(crate) fn check(workspace: &Workspace) -> Outcome<()> {
    let scratch = workspace.target.join("xtask/docs");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).context(scratch.display())?;
    }
    generate(workspace, &scratch)?;
    let fresh = contents(&scratch)?;
    let kept = contents(&workspace.root.join("resources"))?;
    let stale: Vec<String> = fresh
        .keys()
        .chain(kept.keys())
        .filter(|name| fresh.get(*name) != kept.get(*name))
        .map(|name| format!("resources/{}", name.display()))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    if stale.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "not what the launcher writes now: {}; run `cargo xtask docs`",
        stale.join(", ")
    )))
}

/// Has the launcher write `into/man` and `into/completions`.
fn generate(workspace: &Workspace, into: &Path) -> Outcome<()> {
    let thimble = workspace.build_thimble()?;
    let (man, completions) = (into.join("man"), into.join("completions"));
    for directory in [&man, &completions] {
        std::fs::create_dir_all(directory).context(directory.display())?;
    }
    process::capture(Command::new(&thimble).arg("man").arg(&man))?;
    for (shell, file) in COMPLETIONS {
        let script = process::capture(Command::new(&thimble).args(["completions", shell]))?;
        let path = completions.join(file);
        std::fs::write(&path, script).context(path.display())?;
    }
    Ok(())
}

/// Every file of `directory/man` and `directory/completions` by its path below `directory`.
fn contents(directory: &Path) -> Outcome<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for kind in ["man", "completions"] {
        let folder = directory.join(kind);
        if !folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&folder).context(folder.display())? {
            let path = entry.context(folder.display())?.path();
            let bytes = std::fs::read(&path).context(path.display())?;
            let name = path.strip_prefix(directory).context(path.display())?;
            files.insert(name.to_path_buf(), bytes);
        }
    }
    Ok(files)
}
