//! The one error of the developer commands: a text that says what failed and what to do about it.
//! These programs have no caller that could act on a kind of error, only a reader.

use std::fmt;

/// What every verb and helper returns.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// A reason to stop, as it is shown.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    /// A failure that reads `text`.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A failure that has been shown already.
    pub(crate) fn silent() -> Self {
        Self(String::new())
    }

    /// Whether there is nothing left to say.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Names the thing an error is about: `what: error`.
pub(crate) trait Context<T> {
    /// The value, or a failure that opens with `what`.
    fn context(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure(format!("{what}: {error}")))
    }
}
