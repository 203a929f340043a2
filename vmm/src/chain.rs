//! An error and everything behind it, as one line.

use std::error::Error;
use std::io;

/// What to do about what can befall any step.
const REMEDIES: [(i32, &str); 2] = [
    (
        libc::EMFILE,
        "raise thimble's limit on open files, as by ulimit -n 1024 before it is started",
    ),
    (
        libc::ENFILE,
        "the whole host has too many files open; end other programs, or raise fs.file-max",
    ),
];

/// `error: its cause: the cause of that…`; a level that repeats the one above word for word is
/// left out. Ends with a remedy where the last cause has one that no level above could know.
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
    for (errno, remedy) in REMEDIES {
        if text.ends_with(&io::Error::from_raw_os_error(errno).to_string()) {
            text.push_str("; ");
            text.push_str(remedy);
        }
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

    #[test]
    fn too_many_open_files_have_a_remedy() {
        let said = text(&io::Error::from_raw_os_error(libc::EMFILE));
        assert!(said.starts_with("Too many open files"), "{said}");
        assert!(said.contains("ulimit -n 1024"), "{said}");
    }
}
