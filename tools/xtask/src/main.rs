//! `cargo xtask`: the developer's commands. One file per verb; what several of them need (running
//! a program, finding the workspace, Debian packages) has a file of its own.
//!
//! Nothing here ships. A verb either does all of its work or says what failed and what to do, and
//! the process ends with status 1.

mod apt;
mod bench;
mod check;
mod deps;
mod docs;
mod failure;
mod fetch_guest;
mod fuzz;
mod guest;
mod kernel;
mod process;
mod report;
mod schema;
mod size;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Outcome;
use workspace::Workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "thimble's developer commands",
    after_help = "Example: cargo xtask check && cargo xtask test --floor unit"
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Format, lints, dependency rules, documents, schema and man page freshness
    Check,
    /// Who may import whom, licences, and how many crates the shipped binary holds
    Deps,
    /// Regenerate the golden schema files in resources/schema
    Schema,
    /// Regenerate man pages and shell completions in resources/
    Docs,
    /// Run the three floors of tests, and the fuzz targets briefly
    Test(test::Arguments),
    /// Build the fuzz targets and run each for a bounded time
    Fuzz(fuzz::Arguments),
    /// Get Debian's kernels and make an initramfs to boot them with
    FetchGuest(fetch_guest::Arguments),
    /// Build the microVM kernel of resources/kernel from Debian's linux-source
    Kernel(kernel::Arguments),
    /// Measure thimble beside its peers
    Bench(bench::Arguments),
    /// The longest functions and files
    Size,
}

fn run(verb: Verb) -> Outcome<()> {
    let workspace = Workspace::find()?;
    match verb {
        Verb::Check => check::run(&workspace),
        Verb::Deps => deps::run(&workspace),
        Verb::Schema => schema::run(&workspace),
        Verb::Docs => docs::run(&workspace),
        Verb::Test(arguments) => test::run(&workspace, &arguments),
        Verb::Fuzz(arguments) => fuzz::run(&workspace, &arguments),
        Verb::FetchGuest(arguments) => fetch_guest::run(&workspace, &arguments),
        Verb::Kernel(arguments) => kernel::run(&workspace, &arguments),
        Verb::Bench(arguments) => bench::run(&workspace, &arguments),
        Verb::Size => size::run(&workspace),
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                report::note(&format!("error: {failure}"));
            }
            ExitCode::FAILURE
        }
    }
}
