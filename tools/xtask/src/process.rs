//! Running other programs: visibly, or for their output. A failure names the command line.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Context, Failure, Outcome};
use crate::report;

/// `program arg arg`, as a reader would type it.
pub(crate) fn line_of(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .map(|word| {
            if word.contains(' ') {
                format!("'{word}'")
            } else {
                word.into_owned()
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Shows the command line, runs it with our own stdout and stderr, and wants success.
pub(crate) fn run(command: &mut Command) -> Outcome<()> {
    let line = line_of(command);
    report::note(&format!("+ {line}"));
    let status = command.stdin(Stdio::null()).status().context(&line)?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("{line}: {status}")))
    }
}

/// Runs silently and returns stdout; on failure the text holds stderr too.
pub(crate) fn capture(command: &mut Command) -> Outcome<String> {
    String::from_utf8(capture_bytes(command)?).context(line_of(command))
}

/// [`capture`] of what need not be text.
pub(crate) fn capture_bytes(command: &mut Command) -> Outcome<Vec<u8>> {
    let line = line_of(command);
    let output = command.stdin(Stdio::null()).output().context(&line)?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!(
            "{line}: {}\n{}",
            output.status,
            stderr.trim_end()
        )));
    }
    Ok(output.stdout)
}

/// Runs with `input` on stdin and stdout into `output`.
pub(crate) fn filter(command: &mut Command, input: &[u8], output: &Path) -> Outcome<()> {
    let line = line_of(command);
    let file = std::fs::File::create(output).context(output.display())?;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .context(&line)?;
    // A filter that stops reading early says why by its status, so a broken pipe is not the error.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(input));
    let status = child.wait().context(&line)?;
    if !status.success() {
        return Err(Failure::new(format!("{line}: {status}")));
    }
    written.unwrap_or(Ok(())).context(&line)
}

/// Where a program is: `PATH`, then the administrator's directories that a user's `PATH` lacks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}
