//! `thimble check` as a whole: its lines, its JSON, and the exit status that scripts go by.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use harness::guest::status;
use harness::{built, skip};
use serde_json::Value;

/// What it printed and how it ended, on a host on which `script` has been run first, in a mount
/// namespace of its own; `None` where that cannot be.
#[track_caller]
fn check_after(script: &str, arguments: &[&str]) -> Option<Output> {
    if skip::without_program("unshare") {
        return None;
    }
    let line = format!("{script} || exit 77; exec \"$0\" \"$@\"");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &line])
        .arg(built::thimble())
        .arg("check")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    // unshare itself ends with 1 where it may not, and then no check has said anything.
    if output.status.code() == Some(77) || output.stdout.is_empty() {
        skip::note("no mount namespace can be made; it takes root");
        return None;
    }
    Some(output)
}

/// The same on this host as it is.
#[track_caller]
fn check(arguments: &[&str]) -> Output {
    Command::new(built::thimble())
        .arg("check")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The words `PASS`, `WARN` and `FAIL` of a report, each line of which has one after the last
/// colon of the part that is padded.
#[track_caller]
fn verdicts(report: &str) -> Vec<&str> {
    let lines = report.lines();
    lines
        .map(|line| {
            let verdict = line.get(79..).unwrap_or_default();
            let word = verdict.split(' ').next().unwrap_or_default();
            assert!(["PASS", "WARN", "FAIL"].contains(&word), "{line:?}");
            // A line that does not pass says what to do.
            assert!(word == "PASS" || verdict.ends_with(')'), "{line:?}");
            word
        })
        .collect()
}

#[test]
fn a_host_that_runs_guests_has_lines_that_pass_and_status_0() {
    if skip::without_kvm() {
        return;
    }
    let output = check(&[]);
    let report = said(&output);
    let found = verdicts(&report);
    assert!(found.len() > 30 && !found.contains(&"FAIL"), "{report}");
    assert!(!report.contains('\x1b'), "colour in a pipe: {report}");
    let runs = report
        .lines()
        .find(|line| line.contains("a virtual machine runs code"));
    assert!(
        runs.is_some_and(|line| line.ends_with(": PASS")),
        "{report}"
    );
    assert_eq!(output.status.code(), Some(status::CLEAN));
    assert!(output.stderr.is_empty());
}

#[test]
fn its_json_says_what_its_lines_say() {
    let (lines, json) = (check(&[]), check(&["--json"]));
    let objects: Vec<Value> = serde_json::from_slice(&json.stdout).unwrap();
    let results: Vec<String> = objects
        .iter()
        .map(|object| object["result"].as_str().unwrap().to_uppercase())
        .collect();
    assert_eq!(results, verdicts(&said(&lines)));
    let ids: std::collections::BTreeSet<&str> = objects
        .iter()
        .map(|object| object["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), objects.len(), "an id twice");
    assert_eq!(json.status.code(), lines.status.code());
}

/// Wants the check to fail at the device, with `remedy`, and to say nothing of what needs it.
#[track_caller]
fn fails_at_the_device(script: &str, remedy: &str) {
    let Some(output) = check_after(script, &["--json"]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(status::FAILED));
    let objects: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let failed: Vec<&Value> = objects
        .iter()
        .filter(|object| object["result"] == "fail")
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    let note = failed[0]["note"].as_str().unwrap();
    assert!(note.contains(remedy), "{note}");
    assert!(!objects.iter().any(|object| object["id"] == "kvm-run"));
    let Some(output) = check_after(script, &[]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(status::FAILED));
    let report = said(&output);
    let line = report.lines().find(|line| line.contains(": FAIL ("));
    assert!(line.is_some_and(|line| line.contains(remedy)), "{report}");
}

#[test]
fn a_host_without_kvm_fails_with_what_to_do() {
    fails_at_the_device("mount -t tmpfs none /dev", "kvm_intel");
}

#[test]
fn something_else_at_its_place_fails_with_what_to_do() {
    if !Path::new("/dev/kvm").exists() {
        skip::note("no /dev/kvm to put something else over");
        return;
    }
    fails_at_the_device("mount --bind /dev/null /dev/kvm", "not KVM");
}
