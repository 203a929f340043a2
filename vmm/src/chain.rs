//! An error and everything behind it, as one line.

use std::error::Error;

/// `error: its cause: the cause of that…`; a level that repeats the one above word for word is
/// left out.
#[must_use]
pub fn text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let level = cause.to_string();
        if !text.ends_with(&level) {
            text.push_str(": ");
            text.push_str(&level);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Level(&'static str, #[source] Option<Box<Level>>);

    #[test]
    fn levels_are_joined_and_repetitions_dropped() {
        let bottom = Level("no such file", None);
        let same = Level("no such file", Some(Box::new(bottom)));
        let top = Level("cannot open the disk", Some(Box::new(same)));
        assert_eq!(text(&top), "cannot open the disk: no such file");
    }
}
