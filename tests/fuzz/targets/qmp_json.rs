//! The control protocol's JSON reader, reached by every client of a control socket.
//!
//! However the bytes are cut, the same values and errors come out of them, within the limits; a
//! value is written as one line of ASCII that reads back as the same value.
#![no_main]

use api_socket::qmp::json::{Limits, Parser, to_json};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use thimble_fuzz::json;
use thimble_fuzz::source::Source;

/// A stream of values, nearly valid; some with QEMU's single quotes.
fn stream(source: &mut Source<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !source.is_empty() && stream.len() < 4096 {
        let value = json::any(source, &["id", "execute", "a\"b", "\\", "\u{10ffff}"], 4);
        let mut text = serde_json::to_vec(&value).expect("a value is JSON");
        if source.rarely(8) {
            text.iter_mut()
                .filter(|c| **c == b'"')
                .for_each(|c| *c = b'\'');
        }
        source.damage(&mut text);
        stream.extend(text);
        stream.extend(source.pick(&[&b" "[..], b"\n", b"", b"\0", b"\xff", b"\r\n", b","]));
    }
    stream
}

fn read(limits: Limits, pieces: &mut dyn Iterator<Item = &[u8]>) -> Vec<Result<Value, String>> {
    let mut parser = Parser::new(limits);
    let mut outcomes = Vec::new();
    for mut piece in pieces {
        while let Some(outcome) = parser.next(&mut piece) {
            outcomes.push(outcome.map_err(|error| error.to_string()));
        }
        assert!(piece.is_empty(), "input is left and nothing came of it");
    }
    outcomes
}

fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Array(elements) => elements.iter().map(depth).max(),
        Value::Object(members) => members.values().map(depth).max(),
        _ => return 0,
    };
    1 + inner.unwrap_or(0)
}

/// Equal, where a whole number may have been written with or without a fraction, and serde_json's
/// reader, which is one of those compared, may be off by a last digit.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => {
            let (x, y) = (a.as_f64().unwrap_or(0.0), b.as_f64().unwrap_or(1.0));
            a == b || (x - y).abs() <= x.abs() * 1e-14
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && same(a, b))
        }
        _ => one == other,
    }
}

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let limits = match source.u8() % 4 {
        0 => Limits {
            message_bytes: source.below(256),
            tokens: source.below(64),
            depth: source.below(8),
        },
        _ => Limits::default(),
    };
    let cut = source.below(64) + 2;
    let stream = if source.rarely(4) {
        source.rest().to_vec()
    } else {
        stream(&mut source)
    };
    let whole = read(limits, &mut std::iter::once(stream.as_slice()));
    assert_eq!(whole, read(limits, &mut stream.chunks(1)));
    assert_eq!(whole, read(limits, &mut stream.chunks(cut)));
    for outcome in whole {
        match outcome {
            Ok(value) => {
                assert!(depth(&value) <= limits.depth);
                let line = to_json(&value).expect("a value is JSON");
                assert!(line.iter().all(|byte| (b' '..=b'~').contains(byte)));
                let other: Value = serde_json::from_slice(&line).expect("a line is JSON");
                assert!(same(&other, &value), "{other} is not {value}");
                let mut spaced = line;
                spaced.push(b' ');
                let again = read(Limits::default(), &mut std::iter::once(spaced.as_slice()));
                assert!(
                    matches!(&again[..], [Ok(again)] if same(again, &value)),
                    "{again:?}"
                );
            }
            Err(text) => {
                assert!(
                    text.starts_with("JSON ") && text.len() < limits.message_bytes.max(256) * 8
                );
            }
        }
    }
});
