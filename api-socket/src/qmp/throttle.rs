//! QEMU's limit on the rate of events a guest can cause at will.
//!
//! The main thread passes every event through one [`EventThrottle`] before it goes to the clients.
//! Pure: the clock comes in with each call. At most one event per second for each key goes out at
//! once; of those that come sooner the last is kept and goes out when the second is over, with the
//! time it happened at.

use std::time::{Duration, Instant};

use super::event::{Event, Timestamp};
use super::types::BlockErrorAction;

/// Shortest time between two events of one key (QEMU's `monitor_qapi_event_conf`: 1,000 ms).
pub const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// One key's present second.
#[derive(Debug)]
struct Window {
    name: &'static str,
    /// What tells apart events of one name; empty if nothing does.
    subject: String,
    ends: Instant,
    held_back: Option<(Event, Timestamp)>,
}

/// Which events went out lately, and what is held back.
#[derive(Debug, Default)]
pub struct EventThrottle {
    /// One entry for each key that was seen in the last second: as many as there are disks, plus
    /// two.
    windows: Vec<Window>,
}

/// The key's second part, or `None` for events that are never held back.
fn subject(event: &Event) -> Option<&str> {
    match event {
        Event::BlockIoError(data) if data.action != BlockErrorAction::Stop => Some(&data.qom_path),
        Event::RtcChange(_) | Event::Watchdog(_) => Some(""),
        _ => None,
    }
}

impl EventThrottle {
    /// Takes an event that happened now. Returns it if it may go out at once; otherwise it waits
    /// for [`EventThrottle::due`], in place of an earlier one with its key.
    pub fn offer(
        &mut self,
        event: Event,
        timestamp: Timestamp,
        now: Instant,
    ) -> Option<(Event, Timestamp)> {
        let Some(subject) = subject(&event) else {
            return Some((event, timestamp));
        };
        let name = event.name();
        let found = self
            .windows
            .iter()
            .position(|w| w.name == name && w.subject == subject);
        if let Some(window) = found.and_then(|index| self.windows.get_mut(index)) {
            window.held_back = Some((event, timestamp));
            return None;
        }
        let (subject, ends) = (subject.to_owned(), now + MIN_INTERVAL);
        self.windows.push(Window {
            name,
            subject,
            ends,
            held_back: None,
        });
        Some((event, timestamp))
    }

    /// When [`EventThrottle::due`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.windows.iter().map(|window| window.ends).min()
    }

    /// The events whose second is over. Each begins another second for its key.
    pub fn due(&mut self, now: Instant) -> Vec<(Event, Timestamp)> {
        let mut out = Vec::new();
        self.windows.retain_mut(|window| {
            if window.ends > now {
                return true;
            }
            let Some(held_back) = window.held_back.take() else {
                return false;
            };
            out.push(held_back);
            window.ends = now + MIN_INTERVAL;
            true
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{BlockIoErrorData, IoOperationType, RtcChangeData};
    use super::*;

    fn rtc(offset: i64) -> Event {
        Event::RtcChange(RtcChangeData {
            offset,
            qom_path: "/machine/rtc".into(),
        })
    }

    fn io_error(disk: &str, action: BlockErrorAction) -> Event {
        Event::BlockIoError(BlockIoErrorData {
            qom_path: format!("/machine/peripheral/{disk}/virtio-backend"),
            device: String::new(),
            node_name: None,
            operation: IoOperationType::Write,
            action,
            nospace: None,
            reason: "Input/output error".into(),
        })
    }

    const AT: Timestamp = Timestamp {
        seconds: 1,
        microseconds: 0,
    };

    #[test]
    fn the_first_goes_out_and_the_last_follows_a_second_later() {
        let start = Instant::now();
        let mut throttle = EventThrottle::default();
        assert_eq!(throttle.offer(rtc(1), AT, start), Some((rtc(1), AT)));
        assert_eq!(throttle.offer(rtc(2), AT, start), None);
        assert_eq!(throttle.offer(rtc(3), AT, start), None);
        assert_eq!(throttle.next_deadline(), Some(start + MIN_INTERVAL));
        assert_eq!(throttle.due(start + MIN_INTERVAL / 2), vec![]);
        assert_eq!(throttle.due(start + MIN_INTERVAL), vec![(rtc(3), AT)]);
        // That one began a second of its own.
        assert_eq!(throttle.offer(rtc(4), AT, start + MIN_INTERVAL), None);
        assert_eq!(throttle.due(start + MIN_INTERVAL * 2), vec![(rtc(4), AT)]);
        assert_eq!(throttle.due(start + MIN_INTERVAL * 3), vec![]);
        assert_eq!(throttle.next_deadline(), None);
        assert!(
            throttle
                .offer(rtc(5), AT, start + MIN_INTERVAL * 3)
                .is_some()
        );
    }

    #[test]
    fn disks_do_not_silence_each_other() {
        let now = Instant::now();
        let mut throttle = EventThrottle::default();
        assert!(
            throttle
                .offer(io_error("a", BlockErrorAction::Report), AT, now)
                .is_some()
        );
        assert!(
            throttle
                .offer(io_error("b", BlockErrorAction::Report), AT, now)
                .is_some()
        );
        assert!(
            throttle
                .offer(io_error("a", BlockErrorAction::Report), AT, now)
                .is_none()
        );
    }

    #[test]
    fn what_stops_the_guest_is_never_held_back() {
        let now = Instant::now();
        let mut throttle = EventThrottle::default();
        for _ in 0..5 {
            assert!(throttle.offer(Event::Stop, AT, now).is_some());
            let error = io_error("a", BlockErrorAction::Stop);
            assert!(throttle.offer(error, AT, now).is_some());
        }
    }
}
