//! A configuration's text to its types, with every problem of the text.
//!
//! Pure, and safe on any bytes: this is what the fuzzer calls through [`super::parse`].

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::check::{Checked, check, check_into};
use super::problem::{KeyPath, Problem, Problems, Step};
use super::shape::Walk;
use super::{Config, json, schema};

/// What was read of a text. Where it held problems, what is wrong has been left out of the
/// configuration, so that the rest can still be checked.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The configuration as far as it could be read.
    pub config: Config,
    /// What was wrong with the text.
    pub problems: Problems,
    /// Whether the text could be read at all; if not, the configuration says nothing.
    pub readable: bool,
    /// For each list that lost elements: the indices in the text of those kept.
    kept: BTreeMap<KeyPath, Vec<usize>>,
}

impl Reading {
    /// The defaults, where there is no text.
    pub fn nothing() -> Self {
        Self {
            readable: true,
            ..Self::default()
        }
    }

    /// Reads a text of at most [`super::TEXT_LIMIT`] bytes.
    pub fn of(text: &[u8]) -> Self {
        let mut problems = Problems::new();
        let Some(value) = json::read(text, &mut problems) else {
            return Self {
                problems,
                ..Self::default()
            };
        };
        // Making the schema costs more than all the rest, and only somebody's mistake needs it.
        match sound(&value) {
            Some(config) => Self {
                config,
                problems,
                readable: true,
                kept: BTreeMap::new(),
            },
            None => Self::by_schema(value, problems),
        }
    }

    /// What is right of a value, with what is wrong of it added to `problems`.
    pub(super) fn by_schema(value: Value, mut problems: Problems) -> Self {
        let before = problems.kept().len();
        let schema = schema();
        let (rest, kept) = Walk::new(&schema, &mut problems).run(value);
        let Some(rest) = rest else {
            return Self {
                problems,
                ..Self::default()
            };
        };
        match serde_json::from_value(rest) {
            Ok(config) => Self {
                config,
                problems,
                readable: true,
                kept,
            },
            Err(refusal) => {
                // The walk knew less than serde, which a property test holds to be impossible.
                if problems.kept().len() == before {
                    let what = format!("the configuration cannot be read: {refusal}");
                    problems.push(KeyPath::root(), what, "compare it with the JSON schema");
                }
                Self {
                    problems,
                    ..Self::default()
                }
            }
        }
    }

    /// The problems of a check of [`Self::config`] (or of one made from it by appending to its
    /// lists) that are not explained by the text's own, with the indices of the text.
    pub fn locate(&self, found: Vec<Problem>) -> Vec<Problem> {
        let located = found.into_iter().map(|problem| Problem {
            path: self.in_text(&problem.path),
            other: problem.other.as_ref().map(|other| self.in_text(other)),
            ..problem
        });
        located
            .filter(|problem| !self.explains(&problem.path))
            .collect()
    }

    /// Whether a problem of the text itself lies at a path, around it, or in a key just inside or
    /// an element of the list that is there.
    fn explains(&self, path: &KeyPath) -> bool {
        self.problems.kept().iter().any(|known| {
            let inside = match known.path.steps() {
                [outer @ .., Step::Key(_)] | [outer @ .., Step::Key(_), Step::Index(_)] => {
                    outer == path.steps()
                }
                _ => false,
            };
            path.is_within(&known.path) || inside
        })
    }

    /// A path in the configuration as a path in the text.
    fn in_text(&self, path: &KeyPath) -> KeyPath {
        let [Step::Key(list), Step::Index(index), rest @ ..] = path.steps() else {
            return path.clone();
        };
        let original = self
            .kept
            .get(&list.as_str().into())
            .and_then(|kept| kept.get(*index));
        let Some(original) = original else {
            return path.clone();
        };
        let mut steps = vec![Step::Key(list.clone()), Step::Index(*original)];
        steps.extend_from_slice(rest);
        KeyPath::from_steps(steps)
    }
}

/// The configuration that a value without any fault makes, as the schema and the rules have it.
fn sound(value: &Value) -> Option<Config> {
    let config = Config::deserialize(value).ok()?;
    let written = serde_json::to_value(&config).ok()?;
    (says(&written, value) && check(&config).is_ok()).then_some(config)
}

/// Whether `written` has all that `read` has, in the same form. serde takes forms that nobody
/// documents, such as a list for an object; they would not be written so.
fn says(written: &Value, read: &Value) -> bool {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => read
            .iter()
            .all(|(key, value)| written.get(key).is_some_and(|written| says(written, value))),
        (Value::Array(written), Value::Array(read)) => {
            written.len() == read.len() && written.iter().zip(read).all(|(w, r)| says(w, r))
        }
        _ => written == read,
    }
}

/// Reads and checks a configuration's text: JSON of at most 1 MiB. Never panics.
///
/// # Errors
/// Everything that is wrong with it: the text's problems first, then the rules it breaks.
pub fn parse(text: &[u8]) -> Result<Checked, Vec<Problem>> {
    let reading = Reading::of(text);
    if !reading.readable {
        return Err(reading.problems.into_vec());
    }
    let mut found = Problems::new();
    let checked = check_into(&reading.config, &mut found);
    let found = reading.locate(found.into_vec());
    let mut problems = reading.problems;
    for problem in found {
        problems.add(problem);
    }
    if problems.is_empty() {
        Ok(checked)
    } else {
        Err(problems.into_vec())
    }
}
