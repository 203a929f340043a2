//! A JSON value against the schema: every unknown key, missing key, wrong type and unknown word.
//!
//! serde stops at the first of them, and takes forms that nobody documents (a struct as a list).
//! This walk names all of them and leaves out what is wrong, so that serde takes the rest and the
//! rules of [`super::check`] can still be tried on it. It understands the part of JSON Schema
//! that [`super::schema`] generates. With the schema's making it costs about a tenth of a
//! millisecond, and only where something is wrong.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::json::describe;
use super::problem::{KeyPath, Problems};
use super::words::one_of;

/// References followed from one schema to another before giving up.
const REFERENCE_LIMIT: usize = 8;

/// Most elements of a list; above it none is looked at. Each list has a lower limit of its own,
/// which is for [`super::check`] to hold.
const LIST_LIMIT: usize = 256;

/// A walk over a value by its schema.
pub(super) struct Walk<'a> {
    root: &'a Value,
    problems: &'a mut Problems,
    /// For each list some of whose elements were left out: the original indices of those kept.
    kept: BTreeMap<KeyPath, Vec<usize>>,
}

impl<'a> Walk<'a> {
    /// A walk by the schema `root`.
    pub(super) fn new(root: &'a Value, problems: &'a mut Problems) -> Self {
        Self {
            root,
            problems,
            kept: BTreeMap::new(),
        }
    }

    /// Reports what is wrong with `value` and returns what is right of it, with the original
    /// indices of the elements of every list that lost some.
    pub(super) fn run(mut self, value: Value) -> (Option<Value>, BTreeMap<KeyPath, Vec<usize>>) {
        let root = self.root;
        let rest = self.visit(root, value, &KeyPath::root());
        (rest, self.kept)
    }

    fn visit(&mut self, schema: &'a Value, value: Value, at: &KeyPath) -> Option<Value> {
        let schema = self.resolve(schema);
        if let Some(words) = words(schema) {
            return self.visit_word(&words, value, at);
        }
        let resolved = self.branches(schema);
        let Some(branch) = resolved.iter().find(|branch| takes(branch, &value)) else {
            let kinds: Vec<&str> = resolved
                .iter()
                .flat_map(|b| kinds(b))
                .map(article)
                .collect();
            let (what, remedy) = if is_huge(&value) && kinds.contains(&"an integer") {
                let what = format!("{} is too large a number", describe(&value));
                (what, "use fewer digits".to_owned())
            } else {
                let what = format!("{} has the wrong type", describe(&value));
                (what, format!("write {}", one_of(&kinds)))
            };
            self.problems.push(at.clone(), what, remedy);
            return None;
        };
        if words(branch).is_some() {
            return self.visit(branch, value, at);
        }
        match value {
            Value::Object(object) => self.visit_object(branch, object, at),
            Value::Array(list) => self.visit_list(branch, list, at),
            Value::Number(number) => self.visit_number(branch, Value::Number(number), at),
            Value::Null | Value::Bool(_) | Value::String(_) => Some(value),
        }
    }

    fn visit_word(&mut self, words: &[&str], value: Value, at: &KeyPath) -> Option<Value> {
        if value.as_str().is_some_and(|word| words.contains(&word)) {
            return Some(value);
        }
        let what = format!("{} is not one of its words", describe(&value));
        self.problems
            .push(at.clone(), what, format!("write {}", one_of(words)));
        None
    }

    fn visit_number(&mut self, schema: &Value, value: Value, at: &KeyPath) -> Option<Value> {
        let limit = |name: &str| schema.get(name).and_then(Value::as_i64).map(i128::from);
        let number = value
            .as_i64()
            .map(i128::from)
            .or(value.as_u64().map(i128::from))?;
        let least = limit("minimum").unwrap_or(i128::MIN);
        let most = limit("maximum").unwrap_or(i128::MAX);
        if (least..=most).contains(&number) {
            return Some(value);
        }
        let remedy = match limit("maximum") {
            Some(most) => format!("use {least} to {most}"),
            None => format!("use {least} or more"),
        };
        self.problems
            .push(at.clone(), format!("{number} is out of range"), remedy);
        None
    }

    fn visit_list(&mut self, schema: &'a Value, list: Vec<Value>, at: &KeyPath) -> Option<Value> {
        let length = list.len();
        if length > LIST_LIMIT {
            let what = format!("has {length} elements");
            self.problems
                .push(at.clone(), what, format!("use at most {LIST_LIMIT}"));
            return None;
        }
        let Some(items) = schema.get("items") else {
            return Some(Value::Array(list));
        };
        let mut values = Vec::new();
        let mut indices = Vec::new();
        for (index, value) in list.into_iter().enumerate() {
            if let Some(value) = self.visit(items, value, &at.index(index)) {
                values.push(value);
                indices.push(index);
            }
        }
        if values.len() < length {
            self.kept.insert(at.clone(), indices);
        }
        Some(Value::Array(values))
    }

    fn visit_object(
        &mut self,
        schema: &'a Value,
        object: Map<String, Value>,
        at: &KeyPath,
    ) -> Option<Value> {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return Some(Value::Object(object));
        };
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        for name in &required {
            if !object.contains_key(*name) {
                self.problems.push(at.key(name), "is missing", "add it");
            }
        }
        let mut rest = Map::new();
        for (name, value) in object {
            let at = at.key(&name);
            match properties.get(&name) {
                Some(schema) => {
                    if let Some(value) = self.visit(schema, value, &at) {
                        rest.insert(name, value);
                    }
                }
                None => {
                    let known: Vec<&str> = properties.keys().map(String::as_str).collect();
                    let remedy = match nearest(&name, &known) {
                        Some(near) => format!("did you mean {near}?"),
                        None => format!("the keys here are {}", known.join(", ")),
                    };
                    self.problems.push(at, "is not a known key", remedy);
                }
            }
        }
        // What lacks a required part, or lost it just now, is of no use.
        required
            .iter()
            .all(|name| rest.contains_key(*name))
            .then_some(Value::Object(rest))
    }

    /// The schemas of which a value must meet one, references followed. One of them may leave a
    /// choice itself: a setting of several forms that may also be left out.
    fn branches(&self, schema: &'a Value) -> Vec<&'a Value> {
        let outer = alternatives(schema).into_iter().map(|b| self.resolve(b));
        let inner = outer.flat_map(|branch| alternatives(branch).into_iter());
        inner.map(|branch| self.resolve(branch)).collect()
    }

    /// Follows `$ref`s into the root's `$defs`.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        for _ in 0..REFERENCE_LIMIT {
            let target = schema
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|reference| reference.strip_prefix('#'))
                .and_then(|pointer| self.root.pointer(pointer));
            match target {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }
}

/// The words of a schema that takes one word out of a few, in either form that is generated.
pub(super) fn words(schema: &Value) -> Option<Vec<&str>> {
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return words.iter().map(Value::as_str).collect();
    }
    let branches = schema.get("oneOf").and_then(Value::as_array)?;
    branches
        .iter()
        .map(|branch| branch.get("const").and_then(Value::as_str))
        .collect()
}

/// The schemas of which a value must meet one; the schema itself if it names no others.
fn alternatives(schema: &Value) -> Vec<&Value> {
    match schema.get("anyOf").and_then(Value::as_array) {
        Some(branches) => branches.iter().collect(),
        None => vec![schema],
    }
}

/// The JSON types a schema takes, by JSON Schema's names.
fn kinds(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ if words(schema).is_some() => vec!["string"],
        _ => Vec::new(),
    }
}

/// Whether a schema takes values of this one's type.
fn takes(schema: &Value, value: &Value) -> bool {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    kinds(schema).contains(&kind)
}

/// Whether a value is an integer beyond 64 bits, which is read as a fraction.
fn is_huge(value: &Value) -> bool {
    /// 2^63.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    matches!(value, Value::Number(number) if number.is_f64())
        && value.as_f64().is_some_and(|number| number.abs() >= LIMIT)
}

/// A JSON type as a message calls it.
fn article(kind: &str) -> &str {
    match kind {
        "null" => "null",
        "boolean" => "true or false",
        "integer" => "an integer",
        "string" => "a text",
        "array" => "a list",
        "object" => "an object",
        other => other,
    }
}

/// The known key that was probably meant: equal but for case and `_`, or one slip away.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    if name.len() > 64 {
        return None;
    }
    let name = name.to_ascii_lowercase().replace('_', "-");
    known.iter().copied().find(|key| {
        *key == name
            || key.replace('-', "") == name
            || (key.len() > 3 && is_one_slip_away(name.as_bytes(), key.as_bytes()))
    })
}

/// Whether one letter inserted, removed or replaced, or two neighbours exchanged, makes `a`
/// equal to `b`.
fn is_one_slip_away(a: &[u8], b: &[u8]) -> bool {
    let front = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let back = a
        .iter()
        .rev()
        .zip(b.iter().rev())
        .take_while(|(x, y)| x == y)
        .count();
    let longer = a.len().max(b.len());
    let one_letter = a.len().abs_diff(b.len()) <= 1 && front + back + 1 >= longer;
    let exchanged = a.len() == b.len()
        && front + back + 2 == longer
        && a.get(front) == b.get(front + 1)
        && a.get(front + 1) == b.get(front);
    one_letter || exchanged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_key_that_was_meant() {
        let known = ["id", "name", "on-reboot", "pidfile"];
        for (slip, meant) in [
            ("nmae", "name"),
            ("names", "name"),
            ("nme", "name"),
            ("Name", "name"),
            ("on_reboot", "on-reboot"),
            ("onreboot", "on-reboot"),
            ("pidFile", "pidfile"),
            ("ID", "id"),
        ] {
            assert_eq!(nearest(slip, &known), Some(meant), "{slip}");
        }
        for far in ["", "colour", "ix", "nmea", &"x".repeat(1000)] {
            assert_eq!(nearest(far, &known), None, "{far}");
        }
    }

    /// The walk reads what the generator writes today; another form must be noticed here.
    #[test]
    fn every_part_of_the_schema_is_understood() {
        fn visit(schema: &Value, seen: &mut usize) {
            *seen += 1;
            let understood = schema.get("$ref").is_some()
                || schema.get("anyOf").is_some()
                || words(schema).is_some()
                || !kinds(schema).is_empty();
            assert!(understood, "{schema:#}");
            assert!(schema.get("allOf").is_none(), "{schema:#}");
            for inner in alternatives(schema) {
                if inner != schema {
                    visit(inner, seen);
                }
            }
            let properties = schema.get("properties").and_then(Value::as_object);
            for inner in properties
                .into_iter()
                .flat_map(Map::values)
                .chain(schema.get("items"))
            {
                visit(inner, seen);
            }
        }
        let schema = super::super::schema();
        let mut seen = 0;
        visit(&schema, &mut seen);
        for inner in schema["$defs"].as_object().unwrap().values() {
            visit(inner, &mut seen);
        }
        assert!(seen > 40, "{seen}");
    }
}
