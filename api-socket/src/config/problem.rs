//! What is wrong with a configuration: a key's path, what is the matter, and what to do.
//!
//! Filled by every module here and by the command line's merge, on the caller's thread.

use std::fmt;

/// Problems kept of one configuration; the rest is counted. A hostile file cannot make more.
const PROBLEM_LIMIT: usize = 100;

/// Characters of a quoted piece of input that a message repeats.
const QUOTE_LIMIT: usize = 64;

/// One step of a [`KeyPath`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A key of an object.
    Key(String),
    /// A position in a list, from 0.
    Index(usize),
}

/// Where in the configuration a value stands, printed as `disks[1].serial`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPath(Vec<Step>);

impl KeyPath {
    /// The whole configuration.
    pub fn root() -> Self {
        Self::default()
    }

    /// The path of a value by its steps from the root.
    pub fn from_steps(steps: Vec<Step>) -> Self {
        Self(steps)
    }

    /// The path of `name` inside this object.
    #[must_use]
    pub fn key(&self, name: &str) -> Self {
        self.with(Step::Key(name.to_owned()))
    }

    /// The path of element `index`, from 0, of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    /// The steps from the root.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether this path is `outer` or lies inside it.
    pub fn is_within(&self, outer: &Self) -> bool {
        self.0.starts_with(&outer.0)
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl From<&str> for KeyPath {
    /// The path of a key at the top level.
    fn from(name: &str) -> Self {
        Self::root().key(name)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("(top level)");
        }
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(name) => {
                    if position > 0 {
                        f.write_str(".")?;
                    }
                    if is_plain(name) {
                        f.write_str(name)?;
                    } else {
                        f.write_str(&quoted(name))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether a key can be printed as it is: no control character, no quote, not endless.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= QUOTE_LIMIT
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A piece of input as a message repeats it: in quotes, control characters escaped, cut short.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTE_LIMIT) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// One thing wrong with a configuration, printed as `disks[1].serial: what; remedy`, with
/// ` as disks[0].serial` before the semicolon where it is at odds with another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The value concerned.
    pub path: KeyPath,
    /// What is wrong with it.
    pub what: String,
    /// Another value that it is at odds with.
    pub other: Option<KeyPath>,
    /// What to do about it, in the imperative.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            what,
            other,
            remedy,
        } = self;
        match other {
            Some(other) => write!(f, "{path}: {what} as {other}; {remedy}"),
            None => write!(f, "{path}: {what}; {remedy}"),
        }
    }
}

/// The problems found so far. At most 100 are kept, the others only counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    kept: Vec<Problem>,
    left_out: usize,
}

impl Problems {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, path: KeyPath, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Problem {
            path,
            what: what.into(),
            other: None,
            remedy: remedy.into(),
        });
    }

    /// Adds that a value `is` something (`names the same file`) as another, earlier one.
    pub(super) fn push_same(&mut self, path: KeyPath, is: String, other: &KeyPath, remedy: &str) {
        let (other, remedy) = (Some(other.clone()), remedy.to_owned());
        self.add(Problem {
            path,
            what: is,
            other,
            remedy,
        });
    }

    /// Adds one that exists already.
    pub fn add(&mut self, problem: Problem) {
        if self.kept.len() < PROBLEM_LIMIT {
            self.kept.push(problem);
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    /// Adds those of another list, with the number of those it left out.
    pub fn append(&mut self, others: Self) {
        let Self { kept, left_out } = others;
        kept.into_iter().for_each(|problem| self.add(problem));
        self.left_out = self.left_out.saturating_add(left_out);
    }

    /// The same problems under other paths.
    #[must_use]
    pub fn renamed(mut self, rename: impl Fn(Problem) -> Problem) -> Self {
        self.kept = self.kept.into_iter().map(rename).collect();
        self
    }

    /// Those kept so far.
    pub fn kept(&self) -> &[Problem] {
        &self.kept
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many were found, with those left out.
    #[must_use]
    pub fn found(&self) -> usize {
        self.kept.len().saturating_add(self.left_out)
    }

    /// All of them; where some were left out, a last one says how many.
    pub fn into_vec(mut self) -> Vec<Problem> {
        if self.left_out > 0 {
            let what = match self.left_out {
                1 => "1 more problem is not shown".to_owned(),
                more => format!("{more} more problems are not shown"),
            };
            self.kept.push(Problem {
                path: KeyPath::root(),
                what,
                other: None,
                remedy: "correct the ones above first".to_owned(),
            });
        }
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_prints_as_one_would_write_it() {
        let path = KeyPath::from("disks").index(1).key("serial");
        assert_eq!(path.to_string(), "disks[1].serial");
        assert_eq!(KeyPath::root().to_string(), "(top level)");
    }

    #[test]
    fn a_hostile_key_cannot_reach_the_terminal() {
        let path = KeyPath::from("a\u{1b}[2Jb").to_string();
        assert!(!path.contains('\u{1b}'), "{path}");
        let long = KeyPath::from("x".repeat(100_000).as_str()).to_string();
        assert!(long.len() < 100, "{}", long.len());
        assert!(quoted(&"\u{e9}".repeat(1000)).len() < 300);
    }

    #[test]
    fn a_path_is_within_itself_and_its_parents() {
        let path = KeyPath::from("disks").index(1).key("serial");
        assert!(path.is_within(&KeyPath::from("disks")));
        assert!(path.is_within(&path));
        assert!(!path.is_within(&KeyPath::from("disks").index(0)));
        assert!(!KeyPath::from("disks").is_within(&path));
    }

    #[test]
    fn problems_beyond_the_limit_are_counted() {
        let mut problems = Problems::new();
        for _ in 0..PROBLEM_LIMIT + 7 {
            problems.push(KeyPath::from("a"), "is wrong", "mend it");
        }
        let mut twice = problems.clone();
        assert_eq!(problems.found(), PROBLEM_LIMIT + 7);
        let list = problems.into_vec();
        assert_eq!(list.len(), PROBLEM_LIMIT + 1);
        assert!(list.last().is_some_and(|p| p.what.starts_with("7 more")));
        twice.append(twice.clone().renamed(|problem| problem));
        let list = twice.into_vec();
        assert!(list.last().is_some_and(|p| p.what.starts_with("114 more")));
    }
}
