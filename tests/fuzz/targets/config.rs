//! The configuration's JSON (`--config`), reached by whoever writes a machine's definition.
//!
//! Refused or taken, never a panic; a refusal names at least one problem, each on a line; what was
//! taken is taken again, and means the same, after it was written out.
#![no_main]

use api_socket::config::{Reading, parse};
use libfuzzer_sys::fuzz_target;
use thimble_fuzz::json;
use thimble_fuzz::source::Source;

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let text = if source.rarely(4) {
        source.rest().to_vec()
    } else {
        json::config(&mut source)
    };
    match parse(&text) {
        Ok(checked) => {
            let reading = Reading::of(&text);
            assert!(reading.readable && reading.problems.is_empty());
            let again = reading.config.to_json().expect("JSON has no other paths");
            assert_eq!(parse(again.as_bytes()).as_ref(), Ok(&checked), "{again}");
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                let line = problem.to_string();
                assert!(!line.contains(['\n', '\r', '\0']), "{line:?}");
            }
        }
    }
});
