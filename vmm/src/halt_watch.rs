//! Noticing that a guest has halted for good: every processor halted with interrupts off.
//!
//! With the interrupt controllers in the kernel KVM tells nobody: a halted vCPU just does not come
//! back from `KVM_RUN`. So the main loop looks now and then whether the vCPU threads have used any
//! processor time since it last looked, which costs a system call for each; only if they have not
//! does it hold the machine and read the registers. Looks get rarer the longer the guest runs, so
//! that an idle guest hardly wakes its host: one that halts `t` after its start is noticed by about
//! 2 `t`, and never more than 20 seconds late.

use std::time::{Duration, Instant};

/// After a start and after a reset.
const SHORTEST: Duration = Duration::from_millis(100);

/// From then on.
const LONGEST: Duration = Duration::from_secs(10);

/// When to look, and what was seen.
#[derive(Debug)]
pub struct HaltWatch {
    due: Instant,
    period: Duration,
    /// The processor time of all vCPU threads at the last look.
    used: Option<Duration>,
}

impl HaltWatch {
    /// A guest begins at `now`.
    #[must_use]
    pub fn begin(now: Instant) -> Self {
        Self {
            due: now + SHORTEST,
            period: SHORTEST,
            used: None,
        }
    }

    /// How long nothing is to be looked at.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    /// Looks, if it is time to: at `used`, the processor time of all vCPU threads. Returns whether
    /// they have done nothing for a whole period.
    pub fn look(&mut self, now: Instant, used: impl FnOnce() -> Duration) -> bool {
        if now < self.due {
            return false;
        }
        self.period = (self.period * 2).min(LONGEST);
        self.due = now + self.period;
        let used = used();
        self.used.replace(used) == Some(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_get_rarer_and_only_idleness_counts() {
        let start = Instant::now();
        let mut watch = HaltWatch::begin(start);
        assert!(!watch.look(start, || panic!("too early")));
        let (mut now, mut looks) = (start, 0);
        while now < start + Duration::from_secs(60) {
            now += watch.next_deadline(now);
            looks += 1;
            let busy = Duration::from_millis(looks);
            assert!(!watch.look(now, || busy), "it has done something");
        }
        assert!(looks < 15, "{looks}");
        let last = Duration::from_millis(looks);
        now += watch.next_deadline(now);
        assert!(watch.look(now, || last), "nothing since");
        assert!(watch.next_deadline(now) <= LONGEST);
    }
}
