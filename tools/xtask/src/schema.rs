//! `cargo xtask schema`: writes the golden files of resources/schema anew, by api-socket's own
//! golden tests. They are the one definition of what a golden holds.

use crate::failure::{Failure, Outcome};
use crate::process;
use crate::report;
use crate::workspace::Workspace;

/// Where the goldens are, from the root.
const DIRECTORY: &str = "resources/schema";

/// Regenerates and lists the files.
pub(crate) fn run(workspace: &Workspace) -> Outcome<()> {
    process::run(
        workspace
            .cargo(["test", "--quiet", "-p", "api-socket"])
            .env("UPDATE_GOLDENS", "1"),
    )?;
    for file in goldens(workspace)? {
        report::data(&file.to_string_lossy());
    }
    Ok(())
}

/// Wants the goldens there and equal to what the types say.
pub(crate) fn check(workspace: &Workspace) -> Outcome<()> {
    goldens(workspace)?;
    process::run(
        workspace
            .cargo(["test", "--quiet", "-p", "api-socket"])
            .env_remove("UPDATE_GOLDENS"),
    )
    .map_err(|failure| {
        Failure::new(format!(
            "{failure}; `cargo xtask schema` rewrites {DIRECTORY}"
        ))
    })
}

/// The golden files; having none is a failure, or deleting them would pass.
fn goldens(workspace: &Workspace) -> Outcome<Vec<std::path::PathBuf>> {
    let mut files = workspace.files()?;
    files.retain(|file| {
        file.starts_with(DIRECTORY) && file.extension().is_some_and(|e| e == "json")
    });
    if files.is_empty() {
        return Err(Failure::new(format!(
            "{DIRECTORY} holds no schema; run `cargo xtask schema`"
        )));
    }
    Ok(files)
}
