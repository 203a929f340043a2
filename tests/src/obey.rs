//! The other end of the test guest `obey` (tests/guest/obey.rs): one line to the guest, one line
//! back.

use std::str::FromStr;

use crate::guest::{Guest, Launch};
use crate::guests;

/// What the guest answered: words of the form `name=value`.
#[derive(Debug)]
pub struct Answer(String);

impl Answer {
    /// The value called `name`.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn text(&self, name: &str) -> &str {
        let mut words = self.0.split_ascii_whitespace();
        let found = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        match found {
            Some(value) => value,
            None => panic!("no {name} in {:?}", self.0),
        }
    }

    /// The number called `name`.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn number<T: FromStr>(&self, name: &str) -> T {
        match self.text(name).parse() {
            Ok(number) => number,
            Err(_) => panic!("{name} is no number in {:?}", self.0),
        }
    }

    /// The whole line.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.0
    }
}

/// A guest that obeys, not started yet.
#[must_use]
#[track_caller]
pub fn launch() -> Launch {
    Launch::new().kernel(guests::OBEY, "")
}

/// Waits until the guest takes lines: after a start, and after each reset.
#[track_caller]
pub fn ready(guest: &mut Guest) {
    guest.expect("OBEY ready\r");
}

/// Types a line, and does not wait for the answer.
#[track_caller]
pub fn tell(guest: &mut Guest, line: &str) {
    guest.type_line(line);
}

/// The next answer.
#[must_use]
#[track_caller]
pub fn answer(guest: &mut Guest) -> Answer {
    guest.expect("OBEY ");
    // A terminal may have made the line's end longer.
    Answer(guest.expect("\r"))
}

/// Types a line and waits for the answer.
#[must_use]
#[track_caller]
pub fn ask(guest: &mut Guest, line: &str) -> Answer {
    tell(guest, line);
    answer(guest)
}
