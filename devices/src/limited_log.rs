//! Rate-limited `warn!` and `error!` for messages a guest or a client can cause at will.
//!
//! Every call site of [`limited_warn!`](crate::limited_warn) and
//! [`limited_error!`](crate::limited_error) owns one token bucket, so a flood at one place never
//! silences another. Called on any thread, vCPU threads included: a suppressed message costs one
//! uncontended lock and one read of the monotonic clock, and no formatting.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Messages a call site may write at once after a quiet time.
pub const BURST: u32 = 10;

/// Time in which a call site earns one more message.
pub const REFILL: Duration = Duration::from_secs(6);

/// The token rule of one call site. Pure: the caller passes the time.
#[derive(Debug)]
pub struct TokenBucket {
    tokens: u32,
    /// When the last whole token was earned; `None` before the first message.
    refilled: Option<Instant>,
    suppressed: u64,
}

impl TokenBucket {
    /// A full bucket: [`BURST`] messages are free.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            tokens: BURST,
            refilled: None,
            suppressed: 0,
        }
    }

    /// Asks for one message at `now`. `Some(n)`: write it, and say that `n` messages were left out
    /// since the last one. `None`: leave it out. A clock that steps back earns nothing.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        let since = *self.refilled.get_or_insert(now);
        let earned = now.saturating_duration_since(since).as_nanos() / REFILL.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned >= BURST - self.tokens {
            self.tokens = BURST;
            self.refilled = Some(now.max(since));
        } else {
            self.tokens += earned;
            self.refilled = since.checked_add(REFILL * earned);
        }
        if self.tokens == 0 {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Default for TokenBucket {
    fn default() -> Self {
        Self::new()
    }
}

/// One call site. The macros keep it in a `static`.
#[derive(Debug)]
pub struct CallSite {
    bucket: Mutex<TokenBucket>,
}

impl CallSite {
    /// A call site that has written nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bucket: Mutex::new(TokenBucket::new()),
        }
    }

    /// Logs `message` if the rule admits it now, followed by the number of messages left out.
    pub fn log(&self, level: log::Level, target: &str, message: fmt::Arguments<'_>) {
        if level > log::max_level() {
            return;
        }
        let admitted = self
            .bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(Instant::now());
        match admitted {
            None => {}
            Some(0) => log::log!(target: target, level, "{message}"),
            Some(n) => {
                log::log!(target: target, level, "{message} ({n} such messages left out)");
            }
        }
    }
}

impl Default for CallSite {
    fn default() -> Self {
        Self::new()
    }
}

/// `log::warn!`, at most [`BURST`] at once and one per [`REFILL`] after that, per call site.
#[macro_export]
macro_rules! limited_warn {
    ($($arg:tt)+) => {{
        static SITE: $crate::limited_log::CallSite = $crate::limited_log::CallSite::new();
        SITE.log($crate::limited_log::WARN, module_path!(), format_args!($($arg)+));
    }};
}

/// `log::error!`, at most [`BURST`] at once and one per [`REFILL`] after that, per call site.
#[macro_export]
macro_rules! limited_error {
    ($($arg:tt)+) => {{
        static SITE: $crate::limited_log::CallSite = $crate::limited_log::CallSite::new();
        SITE.log($crate::limited_log::ERROR, module_path!(), format_args!($($arg)+));
    }};
}

/// The level of [`limited_warn!`](crate::limited_warn), named here so that a crate that uses the
/// macro need not depend on `log`.
pub const WARN: log::Level = log::Level::Warn;

/// The level of [`limited_error!`](crate::limited_error).
pub const ERROR: log::Level = log::Level::Error;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_admitted_then_one_per_refill_with_the_count_left_out() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new();
        for _ in 0..BURST {
            assert_eq!(bucket.admit(start), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(bucket.admit(start), None);
        }
        assert_eq!(bucket.admit(start + REFILL - Duration::from_nanos(1)), None);
        assert_eq!(bucket.admit(start + REFILL), Some(1001));
        assert_eq!(bucket.admit(start + REFILL), None);
        // Two periods later two are earned; the fraction is kept.
        let later = start + REFILL * 3 + REFILL / 2;
        assert_eq!(bucket.admit(later), Some(1));
        assert_eq!(bucket.admit(later), Some(0));
        assert_eq!(bucket.admit(later), None);
        assert_eq!(bucket.admit(start + REFILL * 4), Some(1));
    }

    #[test]
    fn a_long_quiet_time_earns_no_more_than_a_burst() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new();
        assert_eq!(bucket.admit(start), Some(0));
        let later = start + REFILL * 100_000;
        let admitted = (0..100).filter(|_| bucket.admit(later).is_some()).count();
        assert_eq!(admitted, BURST as usize);
    }

    #[test]
    fn a_clock_that_steps_back_is_harmless() {
        let start = Instant::now() + REFILL * 10;
        let mut bucket = TokenBucket::new();
        for _ in 0..BURST {
            bucket.admit(start);
        }
        assert_eq!(bucket.admit(start - REFILL * 5), None);
        assert_eq!(bucket.admit(start + REFILL), Some(1));
    }

    #[test]
    fn the_macros_take_format_arguments() {
        let port = 0x3f8;
        limited_warn!("port {port:#x}");
        limited_error!("port {:#x}", port);
    }
}
