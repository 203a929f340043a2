//! How a test guest reports: `TEST name ok`, `TEST name FAIL detail`, and a last line with counts.

use core::fmt::Arguments;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::println;

static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

/// Reports one outcome; called by `test!`. The detail is shown either way: it is what a reader of
/// a failed run compares with.
pub fn report(name: &str, passed: bool, detail: Arguments<'_>) {
    let (counter, verdict) = if passed {
        (&PASSED, "ok")
    } else {
        (&FAILED, "FAIL")
    };
    counter.fetch_add(1, Relaxed);
    println!("TEST {name} {verdict} {detail}");
}

/// The last line: `TESTS DONE passed=N failed=N`.
pub fn done() {
    println!(
        "TESTS DONE passed={} failed={}",
        PASSED.load(Relaxed),
        FAILED.load(Relaxed)
    );
}

/// `test!(name, condition)`, or with a detail: `test!(name, condition, "{n} of 4")`.
#[macro_export]
macro_rules! test {
    ($name:expr, $passed:expr) => {
        $crate::test_report::report($name, $passed, core::format_args!(""))
    };
    ($name:expr, $passed:expr, $($detail:tt)+) => {
        $crate::test_report::report($name, $passed, core::format_args!($($detail)+))
    };
}
