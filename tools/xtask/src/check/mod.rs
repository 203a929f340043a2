//! `cargo xtask check`: everything that CI wants of the source besides its tests. Runs every step
//! even after one has failed, and says at the end which did.

mod documents;
mod locks;
mod places;

use crate::deps;
use crate::docs;
use crate::failure::{Failure, Outcome};
use crate::fuzz;
use crate::process;
use crate::report;
use crate::schema;
use crate::workspace::Workspace;

/// A step's name, as it is reported, and what it does.
type Step = (&'static str, fn(&Workspace) -> Outcome<()>);

/// Cheap ones first.
const STEPS: [Step; 10] = [
    ("format", format),
    ("places", places::check),
    ("documents", documents::check),
    ("lock files", locks::check),
    ("dependencies", deps::run),
    ("lints", lints),
    ("lints of the fuzz targets", fuzz_lints),
    ("rustdoc", rustdoc),
    ("schema", schema::check),
    ("man pages and completions", docs::check),
];

/// Runs the steps.
pub(crate) fn run(workspace: &Workspace) -> Outcome<()> {
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        report::note(&format!("== {name}"));
        if let Err(failure) = step(workspace) {
            report::note(&format!("{name}: {failure}"));
            failed.push(name);
        }
    }
    if failed.is_empty() {
        report::data(&format!("{} checks passed", STEPS.len()));
        return Ok(());
    }
    Err(Failure::new(format!("failed: {}", failed.join(", "))))
}

fn format(workspace: &Workspace) -> Outcome<()> {
    // `cargo fmt` knows no --locked.
    let mut command = std::process::Command::new("cargo");
    process::run(
        command
            .current_dir(&workspace.root)
            .args(["fmt", "--all", "--check"]),
    )?;
    let mut command = std::process::Command::new("cargo");
    process::run(command.current_dir(&workspace.root).args([
        "fmt",
        "--check",
        "--manifest-path",
        fuzz::MANIFEST,
    ]))
}

fn lints(workspace: &Workspace) -> Outcome<()> {
    let mut command = workspace.cargo(["clippy", "--workspace", "--all-targets", "--quiet"]);
    process::run(command.args(["--", "-D", "warnings"]))
}

/// The workspace of the fuzz targets. Without libFuzzer itself no C++ compiler is needed, and what
/// both workspaces depend on has been built by the step before.
fn fuzz_lints(workspace: &Workspace) -> Outcome<()> {
    let mut command = workspace.cargo(["clippy", "--no-default-features", "--quiet"]);
    command
        .args(["--all-targets", "--manifest-path", fuzz::MANIFEST])
        .env("CARGO_TARGET_DIR", &workspace.target);
    process::run(command.args(["--", "-D", "warnings"]))
}

fn rustdoc(workspace: &Workspace) -> Outcome<()> {
    let mut command = workspace.cargo(["doc", "--workspace", "--no-deps", "--quiet"]);
    process::run(command.env("RUSTDOCFLAGS", "-D warnings"))
}
