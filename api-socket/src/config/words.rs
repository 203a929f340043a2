//! Settings that take one word out of a few.
//!
//! The words are needed three times: in the JSON (through serde), in `--flag` values with their
//! completions, and in the messages that list them. This trait is the list; a test holds it
//! equal to what serde reads and writes.

/// A setting whose value is one of a fixed set of words.
pub trait Word: Copy + Sized + 'static {
    /// Every value, in the order in which help lists them.
    const ALL: &'static [Self];

    /// The word for this value, as it stands in the JSON and on the command line.
    fn word(self) -> &'static str;

    /// The value of `word`, if it is one of them. Case matters.
    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|value| value.word() == word)
    }

    /// Every word, for messages: `a, b or c`.
    fn choices() -> String {
        one_of(
            &Self::ALL
                .iter()
                .map(|value| value.word())
                .collect::<Vec<_>>(),
        )
    }
}

/// Joins choices for a message: `a, b or c`.
pub(super) fn one_of(choices: &[&str]) -> String {
    match choices {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use super::super::*;
    use super::*;
    use crate::qmp::types::{PanicAction, RebootAction, ShutdownAction};

    /// Asserts that the words of `T` are exactly those that serde and the schema know.
    fn assert_words_match<T>()
    where
        T: Word + Serialize + DeserializeOwned + PartialEq + Debug + JsonSchema,
    {
        for value in T::ALL {
            let json = serde_json::to_value(value).unwrap();
            assert_eq!(json, value.word());
            assert_eq!(&serde_json::from_value::<T>(json).unwrap(), value);
            assert_eq!(T::from_word(value.word()).as_ref(), Some(value));
        }
        assert!(T::from_word("no-such-word").is_none());
        let schema = serde_json::to_value(schemars::schema_for!(T)).unwrap();
        let in_schema = shape::words(&schema).unwrap_or_default();
        assert_eq!(
            in_schema,
            T::ALL.iter().map(|v| v.word()).collect::<Vec<_>>()
        );
    }

    #[test]
    fn the_words_are_those_of_the_json_and_the_schema() {
        assert_words_match::<Cache>();
        assert_words_match::<Discard>();
        assert_words_match::<DiskFormat>();
        assert_words_match::<LogLevel>();
        assert_words_match::<MachineVersion>();
        assert_words_match::<PanicAction>();
        assert_words_match::<ShutdownAction>();
        assert_words_match::<ReadErrorAction>();
        assert_words_match::<RebootAction>();
        assert_words_match::<SerialBackend>();
        assert_words_match::<WriteErrorAction>();
    }

    #[test]
    fn choices_read_as_a_sentence() {
        assert_eq!(one_of(&["a"]), "a");
        assert_eq!(one_of(&["a", "b", "c"]), "a, b or c");
    }
}
