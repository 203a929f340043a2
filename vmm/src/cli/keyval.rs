//! QEMU's `key=value,key=value` lists.
//!
//! A comma in a value is written twice. The first item may be the value of an implied key. A key
//! without `=` further on stands for `key=on`. Flags come from the user's own shell, yet the
//! lists are bounded all the same.

use std::str::FromStr;

use api_socket::config::{KeyPath, Problems, Word, quoted};

/// Longest list taken, in bytes: room for a path of `PATH_MAX` with every comma doubled.
const TEXT_LIMIT: usize = 16 << 10;

/// Most items of a list.
const ITEM_LIMIT: usize = 64;

/// A list as it was split, to be taken apart key by key. Whatever [`Self::finish`] finds left
/// over is unknown.
pub(super) struct KeyVal<'p> {
    /// Keys and values not taken yet; `None` for a key without `=`.
    items: Vec<(String, Option<String>)>,
    known: Vec<&'static str>,
    at: KeyPath,
    problems: &'p mut Problems,
}

impl<'p> KeyVal<'p> {
    /// Splits a list. `implied` is the key of a first item without one; `at` is where the list
    /// stands, for messages.
    pub(super) fn split(
        text: &str,
        implied: &str,
        at: &KeyPath,
        problems: &'p mut Problems,
    ) -> Self {
        let mut list = Self {
            items: Vec::new(),
            known: Vec::new(),
            at: at.clone(),
            problems,
        };
        if text.len() > TEXT_LIMIT {
            let what = format!("is {} bytes long", text.len());
            list.problems
                .push(at.clone(), what, format!("use at most {TEXT_LIMIT}"));
            return list;
        }
        let items = split_at_commas(text);
        if items.len() > ITEM_LIMIT {
            let what = format!("has {} items", items.len());
            list.problems
                .push(at.clone(), what, format!("use at most {ITEM_LIMIT}"));
            return list;
        }
        for (position, item) in items.into_iter().enumerate() {
            let (key, value) = match item.split_once('=') {
                Some((key, value)) if is_key(key) => (key.to_owned(), Some(value.to_owned())),
                _ if position == 0 => (implied.to_owned(), Some(item)),
                _ => (item, None),
            };
            list.add(key, value);
        }
        list
    }

    fn add(&mut self, key: String, value: Option<String>) {
        if self.items.iter().any(|(earlier, _)| *earlier == key) {
            self.problems
                .push(self.at.key(&key), "appears twice", "keep one of the two");
        } else {
            self.items.push((key, value));
        }
    }

    /// The text of a key, if the list has it.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let value = self.take(key)?;
        if value.is_none() {
            let remedy = format!("write {key}=..., and double a comma that belongs to a value");
            self.problems.push(self.at.key(key), "has no value", remedy);
        }
        value
    }

    /// The text of a key that the list must have.
    pub(super) fn required(&mut self, key: &'static str) -> Option<String> {
        if !self.items.iter().any(|(name, _)| name == key) {
            self.known.push(key);
            self.problems
                .push(self.at.key(key), "is missing", format!("add {key}=..."));
            return None;
        }
        self.text(key)
    }

    /// The number of a key, if the list has it.
    pub(super) fn number<T: FromStr>(&mut self, key: &'static str) -> Option<T> {
        let value = self.text(key)?;
        self.parsed(key, &value)
    }

    /// The numbers of a key with colons between them; none if the list lacks it.
    pub(super) fn numbers<T: FromStr>(&mut self, key: &'static str) -> Vec<T> {
        let Some(value) = self.text(key) else {
            return Vec::new();
        };
        let each = value.split(':');
        each.filter_map(|number| self.parsed(key, number)).collect()
    }

    fn parsed<T: FromStr>(&mut self, key: &str, value: &str) -> Option<T> {
        // The types' own parsers take a sign.
        let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| value.parse().ok()).flatten();
        if number.is_none() {
            let what = format!("{} is not a number that fits", quoted(value));
            self.problems.push(
                self.at.key(key),
                what,
                "write digits only, of a smaller number",
            );
        }
        number
    }

    /// The switch of a key, off if the list lacks it: `on`, `yes`, `true`, no value at all, or
    /// `off`, `no`, `false`.
    pub(super) fn switch(&mut self, key: &'static str) -> bool {
        match self.take(key) {
            None => false,
            Some(None) => true,
            Some(Some(value)) => match value.as_str() {
                "on" | "yes" | "true" => true,
                "off" | "no" | "false" => false,
                _ => {
                    let what = format!("{} is not a switch", quoted(&value));
                    self.problems
                        .push(self.at.key(key), what, "write on or off");
                    false
                }
            },
        }
    }

    /// The word of a key, its default if the list lacks it.
    pub(super) fn word<T: Word + Default>(&mut self, key: &'static str) -> T {
        let Some(value) = self.text(key) else {
            return T::default();
        };
        T::from_word(&value).unwrap_or_else(|| {
            let what = format!("{} is not one of its words", quoted(&value));
            self.problems
                .push(self.at.key(key), what, format!("write {}", T::choices()));
            T::default()
        })
    }

    /// Reports what nobody asked for.
    pub(super) fn finish(self) {
        for (key, _) in &self.items {
            let remedy = format!(
                "the keys here are {}; double a comma that belongs to a value",
                self.known.join(", ")
            );
            self.problems
                .push(self.at.key(key), "is not a known key", remedy);
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Option<String>> {
        self.known.push(key);
        let position = self.items.iter().position(|(name, _)| name == key)?;
        Some(self.items.remove(position).1)
    }
}

/// Splits at single commas; two stand for one. A comma at the very end ends the last item.
fn split_at_commas(text: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut item = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != ',' {
            item.push(letter);
        } else if letters.next_if_eq(&',').is_some() {
            item.push(',');
        } else {
            items.push(std::mem::take(&mut item));
        }
    }
    if !item.is_empty() || items.is_empty() {
        items.push(item);
    }
    items
}

/// Whether a text before `=` is a key, and not the start of a path with `=` in it.
fn is_key(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(text: &str) -> Vec<(String, Option<String>)> {
        KeyVal::split(text, "path", &"--disk".into(), &mut Problems::new()).items
    }

    fn pair(key: &str, value: &str) -> (String, Option<String>) {
        (key.to_owned(), Some(value.to_owned()))
    }

    #[test]
    fn lists_split_as_qemus_do() {
        assert_eq!(split("path=a,id=b"), [pair("path", "a"), pair("id", "b")]);
        assert_eq!(split("/a/b.img"), [pair("path", "/a/b.img")]);
        assert_eq!(
            split("/a/b.img,id=b"),
            [pair("path", "/a/b.img"), pair("id", "b")]
        );
        assert_eq!(split("/a=b.img"), [pair("path", "/a=b.img")]);
        assert_eq!(split("path=a=b"), [pair("path", "a=b")]);
        assert_eq!(
            split("path=a,,b,,,id=c"),
            [pair("path", "a,b,"), pair("id", "c")]
        );
        assert_eq!(split("path=,id=c,"), [pair("path", ""), pair("id", "c")]);
        assert_eq!(
            split("a.img,readonly"),
            [pair("path", "a.img"), ("readonly".into(), None)]
        );
        assert_eq!(split(""), [pair("path", "")]);
    }

    #[test]
    fn every_fault_of_a_list_is_a_problem() {
        let mut problems = Problems::new();
        let at = KeyPath::from("--disk").index(0);
        let mut list = KeyVal::split("id=x,id=y,cash=none,serial", "path", &at, &mut problems);
        assert_eq!(list.required("path"), None);
        assert_eq!(list.text("id").as_deref(), Some("x"));
        assert_eq!(list.text("serial"), None);
        list.finish();
        let found: Vec<String> = problems
            .into_vec()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(
            found[0].starts_with("--disk[0].id: appears twice"),
            "{found:?}"
        );
        assert!(
            found[1].starts_with("--disk[0].path: is missing"),
            "{found:?}"
        );
        assert!(
            found[2].starts_with("--disk[0].serial: has no value"),
            "{found:?}"
        );
        assert!(found[3].starts_with("--disk[0].cash: is not a known key; the keys here are path"));
    }

    #[test]
    fn switches_have_qemus_spellings() {
        for (text, want) in [
            ("a,r", true),
            ("a,r=on", true),
            ("a,r=no", false),
            ("a", false),
        ] {
            let mut problems = Problems::new();
            assert_eq!(
                KeyVal::split(text, "p", &"k".into(), &mut problems).switch("r"),
                want
            );
            assert!(problems.is_empty());
        }
        let mut problems = Problems::new();
        KeyVal::split("a,r=1", "p", &"k".into(), &mut problems).switch("r");
        assert_eq!(problems.into_vec().len(), 1);
    }

    #[test]
    fn lists_are_bounded() {
        for text in ["a".repeat(TEXT_LIMIT + 1), "a=b,".repeat(ITEM_LIMIT + 1)] {
            let mut problems = Problems::new();
            assert!(
                KeyVal::split(&text, "p", &"k".into(), &mut problems)
                    .items
                    .is_empty()
            );
            assert_eq!(problems.into_vec().len(), 1);
        }
    }

    proptest! {
        /// Any value survives with its commas doubled.
        #[test]
        fn a_value_survives_escaping(value in "[a-z,=/]{0,20}") {
            let text = format!("path={},id=x", value.replace(',', ",,"));
            prop_assert_eq!(split(&text), [pair("path", &value), pair("id", "x")]);
        }
    }
}
