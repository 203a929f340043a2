//! Man pages and shell completions, made from the command line's definition.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// Writes the completions for a shell.
///
/// # Errors
/// What writing to `out` gives.
pub fn completions(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    // Into memory first: the generator panics where it cannot write.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "thimble", &mut text);
    out.write_all(&text)
}

/// Writes the man page of `thimble` to `out`, or, given a directory, `thimble.1` and a page for
/// each command into it.
///
/// # Errors
/// What writing to `out` or into the directory gives; a missing directory is created.
pub fn man(dir: Option<&Path>, out: &mut dyn Write) -> io::Result<()> {
    let Some(dir) = dir else {
        return Man::new(Cli::command()).render(out);
    };
    fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)
}
