//! JSON text to a value, strictly: bounded in length and depth, and no key twice.
//!
//! serde_json alone keeps the last of two equal keys, so that one of two settings a user wrote
//! would be lost without a word.

use std::cell::RefCell;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::problem::{KeyPath, Problems, Step, quoted};

/// Longest text taken, in bytes. A configuration with every device has less than 20 KiB.
pub const TEXT_LIMIT: usize = 1 << 20;

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Deepest nesting taken. A configuration's own is 3.
const DEPTH_LIMIT: usize = 16;

/// Reads `text`. Repeated keys are reported, and the first of them is kept; a text that is not
/// JSON is reported and gives `None`.
pub(super) fn read(text: &[u8], problems: &mut Problems) -> Option<Value> {
    if text.len() > TEXT_LIMIT {
        let what = format!("the text is longer than {} KiB", TEXT_LIMIT >> 10);
        problems.push(
            KeyPath::root(),
            what,
            "give the configuration of one machine",
        );
        return None;
    }
    if text.trim_ascii().is_empty() {
        problems.push(KeyPath::root(), "the text is empty", "write at least {}");
        return None;
    }
    // Some editors write one, and RFC 8259, section 8.1, lets a reader pass over it.
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let place = Place {
        steps: RefCell::default(),
        problems: RefCell::new(problems),
    };
    let mut source = serde_json::Deserializer::from_slice(text);
    let result = StrictValue(&place).deserialize(&mut source);
    match result.and_then(|value| source.end().map(|()| value)) {
        Ok(value) => Some(value),
        Err(error) => {
            let what = format!("the text is not valid JSON: {error}");
            let remedy = if is_comment(text, &error) {
                "remove the comment: JSON has none"
            } else {
                "correct it at that place"
            };
            problems.push(KeyPath::root(), what, remedy);
            None
        }
    }
}

/// Whether the reader stumbled over the start of a comment.
fn is_comment(text: &[u8], error: &serde_json::Error) -> bool {
    let line = text
        .split(|byte| *byte == b'\n')
        .nth(error.line().saturating_sub(1));
    let at = line.and_then(|line| line.get(error.column().saturating_sub(1)));
    matches!(at, Some(b'/' | b'#'))
}

/// Where in the text the reader is, and what it found.
struct Place<'a> {
    steps: RefCell<Vec<Step>>,
    problems: RefCell<&'a mut Problems>,
}

impl Place<'_> {
    /// Runs `read` one step further in.
    fn within<T>(&self, step: Step, read: impl FnOnce() -> T) -> T {
        self.steps.borrow_mut().push(step);
        let result = read();
        self.steps.borrow_mut().pop();
        result
    }

    fn report_repeated(&self, name: &str) {
        let path = KeyPath::from_steps(self.steps.borrow().clone()).key(name);
        self.problems
            .borrow_mut()
            .push(path, "appears twice", "keep one of the two");
    }

    fn check_depth<E: Error>(&self) -> Result<(), E> {
        if self.steps.borrow().len() >= DEPTH_LIMIT {
            return Err(E::custom(format_args!(
                "nested more than {DEPTH_LIMIT} deep"
            )));
        }
        Ok(())
    }
}

/// Reads one value at a place.
struct StrictValue<'a, 'p>(&'a Place<'p>);

impl<'de> DeserializeSeed<'de> for StrictValue<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictValue<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number too large"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.0.check_depth()?;
        let mut values = Vec::new();
        while let Some(value) = self.0.within(Step::Index(values.len()), || {
            list.next_element_seed(StrictValue(self.0))
        })? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        self.0.check_depth()?;
        let mut values = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            let value = self.0.within(Step::Key(name.clone()), || {
                object.next_value_seed(StrictValue(self.0))
            })?;
            if values.contains_key(&name) {
                self.0.report_repeated(&name);
            } else {
                values.insert(name, value);
            }
        }
        Ok(Value::Object(values))
    }
}

/// A value for a message: its kind, and what it is where that is short.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Option<Value>, Vec<String>) {
        let mut problems = Problems::new();
        let value = read(text.as_bytes(), &mut problems);
        (
            value,
            problems
                .into_vec()
                .iter()
                .map(ToString::to_string)
                .collect(),
        )
    }

    #[test]
    fn values_are_those_of_serde_json() {
        let text = r#" {"a": [1, -2, 3.5, true, null, "x\u00e9\n"], "b": {"c": {}}, "a2": 18446744073709551615} "#;
        let (value, problems) = read_text(text);
        assert_eq!(value, serde_json::from_str(text).ok());
        assert_eq!(problems, Vec::<String>::new());
    }

    #[test]
    fn every_repeated_key_is_reported_with_its_path() {
        let (value, problems) = read_text(r#"{"a": 1, "l": [{"b": 1, "b": 2}], "a": 3, "a": 4}"#);
        assert_eq!(value, Some(serde_json::json!({"a": 1, "l": [{"b": 1}]})));
        assert_eq!(problems.len(), 3);
        assert!(
            problems[0].starts_with("l[0].b: appears twice"),
            "{problems:?}"
        );
        assert!(problems[1].starts_with("a: appears twice"), "{problems:?}");
    }

    #[test]
    fn what_is_not_json_is_refused_at_its_place() {
        for text in [
            "",
            "  \n",
            "{",
            "{\"a\": 1,}",
            "{} x",
            "{'a': 1}",
            "nul",
            "[1e999]",
            "{a: 1}",
        ] {
            let (value, problems) = read_text(text);
            assert_eq!((value, problems.len()), (None, 1), "{text}");
        }
        let (_, problems) = read_text("{\n  \"a\" 1\n}");
        assert!(problems[0].contains("line 2 column"), "{problems:?}");
        let mut problems = Problems::new();
        assert_eq!(read(b"{\"a\": \"\xff\"}", &mut problems), None);
        assert!(!problems.is_empty());
    }

    #[test]
    fn a_comment_is_called_one() {
        for text in [
            "// a machine\n{}",
            "{\n  \"a\": 1, # one\n  \"b\": 2\n}",
            "{\"a\": /* one */ 1}",
            "{} // end",
        ] {
            let (value, problems) = read_text(text);
            assert_eq!(value, None, "{text}");
            assert!(problems[0].ends_with("JSON has none"), "{problems:?}");
        }
        let (_, problems) = read_text("{\"a\": 1,}");
        assert!(problems[0].ends_with("at that place"), "{problems:?}");
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        let (value, problems) = read_text("\u{feff}{\"a\": 1}");
        assert_eq!(value, Some(serde_json::json!({"a": 1})));
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(read_text("\u{feff}\u{feff}{}").0, None);
    }

    #[test]
    fn length_and_depth_are_bounded() {
        let deep = format!("{}{}", "[".repeat(DEPTH_LIMIT), "]".repeat(DEPTH_LIMIT));
        assert!(read_text(&deep).0.is_some());
        let (value, problems) = read_text(&format!("[{deep}]"));
        assert_eq!((value, problems.len()), (None, 1));
        assert_eq!(read_text(&"[".repeat(100_000)).0, None);
        let long = format!("\"{}\"", "a".repeat(TEXT_LIMIT));
        assert_eq!(read_text(&long).0, None);
    }
}
