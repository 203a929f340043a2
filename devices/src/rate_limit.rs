//! Token buckets for devices that move data: bytes and operations a second, each with a burst.
//!
//! Pure: the caller passes the time. Used by device workers on the I/O thread. An operation is
//! admitted while the bucket holds anything and is charged afterwards, so that its size need not be
//! known before; a large one leaves the bucket in debt, and what follows waits until that is paid.
//! Over any time the average is thus the rate, and at most one operation goes beyond the burst.

use std::time::{Duration, Instant};

/// Tokens are counted in thousand-millionths, so that a nanosecond at one a second is one.
const SCALE: i128 = 1_000_000_000;

/// How much a second, and how much at once after a quiet time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens earned a second, at least 1.
    pub per_second: u64,
    /// Most tokens saved up, at least 1.
    pub burst: u64,
}

impl Rate {
    /// A rate with the usual burst: what is earned in a tenth of a second.
    #[must_use]
    pub fn new(per_second: u64) -> Self {
        Self {
            per_second: per_second.max(1),
            burst: (per_second / 10).max(1),
        }
    }

    /// The same rate with another burst.
    #[must_use]
    pub fn with_burst(self, burst: u64) -> Self {
        Self {
            burst: burst.max(1),
            ..self
        }
    }
}

/// What one direction of a device is limited to; `None` is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes.
    pub bytes: Option<Rate>,
    /// Operations: frames of a network card, requests of a disk.
    pub operations: Option<Rate>,
}

/// One bucket.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: Rate,
    /// Scaled tokens; negative while in debt.
    level: i128,
    /// When `level` was right.
    at: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            level: i128::from(rate.burst) * SCALE,
            at: now,
        }
    }

    /// A clock that steps back earns nothing.
    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        let elapsed = i128::try_from(elapsed).unwrap_or(i128::MAX);
        let earned = elapsed.saturating_mul(i128::from(self.rate.per_second));
        let full = i128::from(self.rate.burst) * SCALE;
        self.level = self.level.saturating_add(earned).min(full);
        self.at = self.at.max(now);
    }

    /// How long until there is anything in it, if there is nothing.
    fn wait(&self) -> Option<Duration> {
        if self.level > 0 {
            return None;
        }
        let nanoseconds = (1 - self.level).div_euclid(i128::from(self.rate.per_second)) + 1;
        Some(Duration::from_nanos(
            u64::try_from(nanoseconds).unwrap_or(u64::MAX),
        ))
    }

    fn charge(&mut self, tokens: u64) {
        self.level -= i128::from(tokens) * SCALE;
    }
}

/// The limiter of one direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct RateLimiter {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

impl RateLimiter {
    /// Full buckets.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::new(rate, now));
        Self {
            bytes: bucket(limits.bytes),
            operations: bucket(limits.operations),
        }
    }

    /// Changes the limits. A debt stays; what was saved up stays as far as it fits.
    pub fn set(&mut self, limits: Limits, now: Instant) {
        let change = |bucket: &mut Option<Bucket>, rate: Option<Rate>| {
            *bucket = match (rate, bucket.take()) {
                (None, _) => None,
                (Some(rate), None) => Some(Bucket::new(rate, now)),
                (Some(rate), Some(mut old)) => {
                    old.refill(now);
                    old.rate = rate;
                    old.refill(now);
                    Some(old)
                }
            };
        };
        change(&mut self.bytes, limits.bytes);
        change(&mut self.operations, limits.operations);
    }

    /// Whether anything is limited; if not, nobody need ask for the time.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.bytes.is_some() || self.operations.is_some()
    }

    /// Asks for one operation. `Some` is how long to wait before asking again.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        let buckets = [&mut self.bytes, &mut self.operations];
        let waits = buckets.into_iter().flatten().filter_map(|bucket| {
            bucket.refill(now);
            bucket.wait()
        });
        waits.max()
    }

    /// Charges one operation of `bytes`.
    pub fn charge(&mut self, bytes: u64) {
        if let Some(bucket) = &mut self.bytes {
            bucket.charge(bytes);
        }
        if let Some(bucket) = &mut self.operations {
            bucket.charge(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(bytes: Option<(u64, u64)>, operations: Option<(u64, u64)>) -> Limits {
        let rate = |(per_second, burst)| Rate { per_second, burst };
        Limits {
            bytes: bytes.map(rate),
            operations: operations.map(rate),
        }
    }

    #[test]
    fn a_burst_passes_then_the_rate() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(limits(None, Some((10, 3))), start);
        for _ in 0..3 {
            assert_eq!(limiter.wait(start), None);
            limiter.charge(1_000_000);
        }
        let wait = limiter.wait(start).unwrap();
        assert!(wait <= Duration::from_millis(1), "{wait:?}");
        assert_eq!(limiter.wait(start + wait), None);
        limiter.charge(1);
        // The last one was admitted on hardly anything and is paid for now.
        let wait = limiter.wait(start + wait).unwrap();
        assert!((Duration::from_millis(99)..=Duration::from_millis(101)).contains(&wait));
    }

    #[test]
    fn a_large_operation_is_paid_for_afterwards() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(limits(Some((1000, 10)), None), start);
        assert_eq!(limiter.wait(start), None);
        limiter.charge(5010);
        let wait = limiter.wait(start).unwrap();
        assert!(wait > Duration::from_secs(5) && wait < Duration::from_millis(5001));
        assert!(limiter.wait(start + Duration::from_secs(5)).is_some());
        assert_eq!(limiter.wait(start + wait), None);
    }

    #[test]
    fn limits_change_while_in_use_and_debts_stay() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(limits(Some((1000, 1000)), None), start);
        limiter.charge(3000);
        limiter.set(limits(Some((2000, 1)), None), start);
        let wait = limiter.wait(start).unwrap();
        assert!(wait > Duration::from_secs(1) && wait < Duration::from_millis(1001));
        limiter.set(Limits::default(), start);
        assert!(!limiter.is_limited());
        assert_eq!(limiter.wait(start), None);
        // Saved-up tokens beyond a new, smaller burst are lost.
        limiter.set(limits(Some((1, 1000)), None), start);
        limiter.set(limits(Some((1, 1)), None), start);
        limiter.charge(1);
        assert!(limiter.wait(start).is_some());
    }

    #[test]
    fn a_clock_that_steps_back_and_the_largest_numbers_are_harmless() {
        let start = Instant::now() + Duration::from_secs(1000);
        let largest = limits(Some((u64::MAX, u64::MAX)), Some((1, 1)));
        let mut limiter = RateLimiter::new(largest, start);
        limiter.charge(u64::MAX);
        limiter.charge(u64::MAX);
        assert!(limiter.wait(start - Duration::from_secs(900)).is_some());
        assert!(limiter.wait(start + Duration::from_secs(1 << 40)).is_none());
    }

    proptest! {
        /// Against the rule in plain words: whoever asks as soon as he may is served, over any
        /// time, no more than burst plus rate times time plus one operation, and no less than
        /// rate times time less one operation.
        #[test]
        fn the_average_is_the_rate(
            per_second in 1_u64..10_000,
            burst in 1_u64..10_000,
            sizes in prop::collection::vec(1_u64..5000, 1..200),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut limiter = RateLimiter::new(limits(Some((per_second, burst)), None), start);
            let mut served = 0;
            for &size in &sizes {
                while let Some(wait) = limiter.wait(now) {
                    prop_assert!(!wait.is_zero());
                    now += wait;
                }
                let earned = (now - start).as_nanos() * u128::from(per_second);
                let allowed = u128::from(burst) * 1_000_000_000 + earned;
                // Everything before this one was within what had been earned.
                prop_assert!(u128::from(served) * 1_000_000_000 < allowed);
                limiter.charge(size);
                served += size;
            }
            // And no time was wasted: the last but one would not have been admitted earlier.
            let before_last = served - sizes[sizes.len() - 1];
            let needed = before_last.saturating_sub(burst);
            let earned = (now - start).as_nanos() * u128::from(per_second) / 1_000_000_000;
            prop_assert!(earned <= u128::from(needed) + u128::from(per_second) / 1000 + 2);
        }
    }
}
