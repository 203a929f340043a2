//! The log: where it goes, what of it is told, and the form of its lines.

use std::fs;

use harness::guest::{Launch, status};
use harness::skip;
use rustix::process::Signal;

use crate::boot::PROMPT;

/// What is logged as a warning: bytes of this image that no sector has room for.
const WARNING: &str = "disk0: ";
/// What is logged as information.
const INFORMATION: &str = "ended by signal 15";

/// A guest with an image that deserves a warning, run until its end by SIGTERM with these words,
/// and what was then in the log file, if any, and on standard error.
#[track_caller]
fn logged(words: &[&str]) -> (Option<String>, String) {
    let launch = Launch::new().disk("disk.img", &[0; 700], "").args(words);
    let file = launch.path("thimble.log");
    // The first line of an earlier run, which must stay.
    fs::write(&file, "earlier\n").unwrap();
    let mut guest = launch.start();
    guest.expect(PROMPT);
    guest.signal(Signal::TERM);
    guest.expect_exit(status::CLEAN);
    let log = fs::read_to_string(&file).unwrap();
    let log = log.strip_prefix("earlier\n").map(str::to_owned);
    (log, guest.stderr())
}

/// Wants a line to be `SECONDS.MICROSECONDS LEVEL text`.
#[track_caller]
fn is_a_line(line: &str, level: &str, text: &str) {
    let (time, rest) = line.split_once(' ').unwrap_or_default();
    let (seconds, micros) = time.split_once('.').unwrap_or_default();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    assert!(digits(seconds) && digits(micros), "{line:?}");
    assert_eq!(micros.len(), 6, "{line:?}");
    assert!(rest.starts_with(&format!("{level:5} ")), "{line:?}");
    assert!(rest.contains(text), "{line:?}");
}

#[test]
fn by_default_warnings_go_to_standard_error() {
    if skip::without_kvm() {
        return;
    }
    let (file, stderr) = logged(&[]);
    assert_eq!(file.as_deref(), Some(""));
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    is_a_line(lines[0], "WARN", WARNING);
}

#[test]
fn with_a_file_they_are_appended_there_and_standard_error_stays_empty() {
    if skip::without_kvm() {
        return;
    }
    let (file, stderr) = logged(&["--log-file", "thimble.log"]);
    let file = file.unwrap();
    let lines: Vec<&str> = file.lines().collect();
    assert_eq!(lines.len(), 1, "{file}");
    is_a_line(lines[0], "WARN", WARNING);
    assert_eq!(stderr, "");
}

#[test]
fn the_level_decides_what_is_told() {
    if skip::without_kvm() {
        return;
    }
    for level in ["off", "error"] {
        let (file, stderr) = logged(&["--log-file", "thimble.log", "--log-level", level]);
        assert_eq!((file.as_deref(), stderr.as_str()), (Some(""), ""));
    }
    for level in ["info", "debug", "trace"] {
        let (file, _) = logged(&["--log-file", "thimble.log", "--log-level", level]);
        let file = file.unwrap();
        let lines: Vec<&str> = file.lines().collect();
        is_a_line(lines.first().unwrap(), "WARN", WARNING);
        let told = lines.iter().find(|line| line.contains(INFORMATION));
        is_a_line(told.unwrap(), "INFO", INFORMATION);
    }
}
