//! Where the developer commands speak: data on stdout, talk on stderr, both from here only.

use std::io::Write;

/// One line of result, on stdout.
#[expect(
    clippy::print_stdout,
    reason = "this is the one place that writes to stdout"
)]
pub(crate) fn data(line: &str) {
    println!("{line}");
}

/// One line of talk, on stderr.
#[expect(
    clippy::print_stderr,
    reason = "this is the one place that writes to stderr"
)]
pub(crate) fn note(line: &str) {
    // Data before talk: both often end up in one log.
    let _ = std::io::stdout().flush();
    eprintln!("{line}");
}
