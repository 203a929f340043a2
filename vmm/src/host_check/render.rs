//! The report as lines and as JSON.
//!
//! Pure. A line has virt-host-validate's shape: group, what is checked padded to 69 columns,
//! verdict, note in parentheses.

use std::fmt::Write as _;

use super::{Check, Group, Verdict};

/// Columns of the text before the verdict.
const WIDTH: usize = 69;
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// One line a check.
#[must_use]
pub fn text(checks: &[Check], colour: bool) -> String {
    let mut report = String::new();
    for check in checks {
        let Check {
            id: _,
            group,
            what,
            verdict,
            note,
        } = check;
        let (word, code) = match verdict {
            Verdict::Pass => ("PASS", GREEN),
            Verdict::Warn => ("WARN", YELLOW),
            Verdict::Fail => ("FAIL", RED),
        };
        let what = format!("Checking {what}");
        let (on, off) = if colour { (code, PLAIN) } else { ("", "") };
        let group = group_name(*group);
        let _infallible = write!(report, "{group:>6}: {what:<WIDTH$}: {on}{word}{off}");
        if !note.is_empty() {
            let _infallible = write!(report, " ({note})");
        }
        report.push('\n');
    }
    report
}

/// An array of objects with `id`, `group`, `check`, `result` (`pass`, `warn`, `fail`) and, where
/// there is one, `note`; ends with a newline.
#[must_use]
pub fn json(checks: &[Check]) -> String {
    let array = checks
        .iter()
        .map(
            |Check {
                 id,
                 group,
                 what,
                 verdict,
                 note,
             }| {
                let result = match verdict {
                    Verdict::Pass => "pass",
                    Verdict::Warn => "warn",
                    Verdict::Fail => "fail",
                };
                let mut object = serde_json::json!({
                    "id": id,
                    "group": group_name(*group).to_ascii_lowercase(),
                    "check": what,
                    "result": result,
                });
                if let Some(object) = object.as_object_mut().filter(|_| !note.is_empty()) {
                    object.insert("note".into(), note.as_str().into());
                }
                object
            },
        )
        .collect();
    format!("{:#}\n", serde_json::Value::Array(array))
}

fn group_name(group: Group) -> &'static str {
    match group {
        Group::Kvm => "KVM",
        Group::Memory => "MEMORY",
        Group::Net => "NET",
        Group::Io => "IO",
        Group::Sandbox => "BOX",
    }
}
