//! When looking for work is worth more than sleeping until it comes. Pure.
//!
//! A sleep, and the guest's notification that ends it, cost more than a driver needs to make its next
//! request when the last has been answered at once. So after a short sleep the I/O thread tries to
//! look for a while, and goes on doing so as long as it finds something in time. A try that finds
//! nothing is followed by sleeps, ever more of them, before the next; and when work comes at long
//! intervals there is none: an idle guest costs nothing.

use std::time::Duration;

/// How long is looked; as long as QEMU looks at most.
pub const LENGTH: Duration = Duration::from_micros(32);

/// A sleep as short as this may have been shorter, had it not been one: waking up takes part of it.
const SHORT_SLEEP: Duration = Duration::from_micros(128);

/// Most short sleeps from one try to the next.
const MOST_SLEEPS: u32 = 255;

/// Whether to look, from what happened so far.
#[derive(Debug, Default)]
pub(super) struct Window {
    open: bool,
    /// Short sleeps until the next try.
    sleeps_left: u32,
    /// Short sleeps after the next miss.
    sleeps: u32,
}

impl Window {
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// The thread slept for so long.
    pub(super) fn slept(&mut self, time: Duration) {
        if time > SHORT_SLEEP {
            return;
        }
        match self.sleeps_left.checked_sub(1) {
            Some(left) => self.sleeps_left = left,
            None => self.open = true,
        }
    }

    /// It looked, and found something in time.
    pub(super) fn found(&mut self) {
        self.sleeps = 0;
    }

    /// It looked for nothing.
    pub(super) fn missed(&mut self) {
        self.open = false;
        self.sleeps_left = self.sleeps;
        self.sleeps = (self.sleeps * 2 + 1).min(MOST_SLEEPS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(60);
    const LONG: Duration = Duration::from_millis(4);

    /// Misses among `sleeps` sleeps of one length, if nothing is ever found.
    fn misses(sleeps: u32, length: Duration) -> u32 {
        let mut window = Window::default();
        let mut misses = 0;
        for _ in 0..sleeps {
            window.slept(length);
            if window.is_open() {
                window.missed();
                misses += 1;
            }
        }
        misses
    }

    #[test]
    fn an_idle_guest_is_never_looked_at_and_a_slow_disk_rarely() {
        assert_eq!(misses(100_000, LONG), 0);
        assert!(
            (9..=20).contains(&misses(2_000, SHORT)),
            "{}",
            misses(2_000, SHORT)
        );
    }

    #[test]
    fn what_is_found_keeps_it_open_and_one_miss_is_soon_forgotten() {
        let mut window = Window::default();
        window.slept(SHORT);
        for _ in 0..10 {
            assert!(window.is_open());
            window.found();
        }
        window.missed();
        assert!(!window.is_open());
        window.slept(LONG);
        assert!(!window.is_open());
        window.slept(SHORT);
        assert!(window.is_open(), "tried again at once");
        window.missed();
        window.slept(SHORT);
        assert!(!window.is_open(), "and then later");
        window.slept(SHORT);
        assert!(window.is_open());
    }
}
