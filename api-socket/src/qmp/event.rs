//! The events: the one list that `query-events`, `query-qmp-schema` and docs/control-socket.md
//! read, and how an event is written.
//!
//! Raised by the VMM's main thread and sent to every client that has finished its handshake. Names
//! and data are QEMU's.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::json;
use super::schema::{TypeId, TypeTableBuilder};
use super::types::*;

/// What is known of an event besides its occurring.
#[derive(Debug)]
pub struct EventSpec {
    /// The name on the wire.
    pub name: &'static str,
    /// One sentence or more for people, in Markdown.
    pub doc: &'static str,
    /// Whether it carries data at all.
    pub has_data: bool,
    /// Adds the type of its data to a table.
    pub(super) data: fn(&mut TypeTableBuilder) -> TypeId,
    /// Reads data into its type and writes it again.
    #[cfg(test)]
    pub(super) data_round_trip: fn(serde_json::Value) -> serde_json::Result<serde_json::Value>,
}

macro_rules! data_type {
    () => {
        Empty
    };
    ($data:ty) => {
        $data
    };
}

macro_rules! events {
    ($(
        $(#[doc = $doc:literal])+
        $name:literal $variant:ident $(($data:ty))?;
    )+) => {
        /// Something that happened to the guest or the VMM.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "event", content = "data")]
        pub enum Event {
            $( $(#[doc = $doc])+ #[serde(rename = $name)] $variant $(($data))?, )+
        }

        /// Every event, in the order of the documentation.
        pub static EVENTS: &[EventSpec] = &[$(
            EventSpec {
                name: $name,
                doc: concat!($($doc),+),
                has_data: !<[&str]>::is_empty(&[$(stringify!($data))?]),
                data: TypeTableBuilder::add::<data_type!($($data)?)>,
                #[cfg(test)]
                data_round_trip: super::command::round_trip::<data_type!($($data)?)>,
            },
        )+];

        impl Event {
            /// The name on the wire.
            pub fn name(&self) -> &'static str {
                match self {
                    $( Self::$variant { .. } => $name, )+
                }
            }
        }
    };
}

events! {
    /// The vCPUs have stopped.
    "STOP" Stop;
    /// The vCPUs run again.
    "RESUME" Resume;
    /// The machine was reset.
    "RESET" Reset(ResetData);
    /// The guest is shut down; the process ends unless told to stay.
    "SHUTDOWN" Shutdown(ShutdownData);
    /// The power button was pressed.
    "POWERDOWN" Powerdown;
    /// The guest has gone to sleep.
    "SUSPEND" Suspend;
    /// The guest has woken up.
    "WAKEUP" Wakeup;
    /// The guest's kernel has panicked.
    "GUEST_PANICKED" GuestPanicked(GuestPanickedData);
    /// The guest's kernel has panicked and runs its crash kernel.
    "GUEST_CRASHLOADED" GuestCrashloaded(GuestCrashloadedData);
    /// The guest asks to be shut down, by the panic device.
    "GUEST_PVSHUTDOWN" GuestPvshutdown;
    /// The watchdog fired.
    "WATCHDOG" Watchdog(WatchdogData);
    /// A disk request failed. At most one a second for each disk, except with action `stop`.
    "BLOCK_IO_ERROR" BlockIoError(BlockIoErrorData);
    /// A write went past a node's threshold, which is then cleared.
    "BLOCK_WRITE_THRESHOLD" BlockWriteThreshold(BlockWriteThresholdData);
    /// A memory dump is over, detached or not.
    "DUMP_COMPLETED" DumpCompleted(DumpCompletedData);
    /// A job has gone from one state to another.
    "JOB_STATUS_CHANGE" JobStatusChange(JobStatusChangeData);
    /// A guest's driver has changed what its network card receives. Sent once; again after
    /// `query-rx-filter` has been asked for that card.
    "NIC_RX_FILTER_CHANGED" NicRxFilterChanged(NicRxFilterChangedData);
    /// The guest has set its clock. At most one a second.
    "RTC_CHANGE" RtcChange(RtcChangeData);
}

/// Wall-clock time of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970 UTC; -1 if the clock cannot be read.
    pub seconds: i64,
    /// Microseconds of the second; -1 if the clock cannot be read.
    pub microseconds: i64,
}

impl Timestamp {
    /// What QMP writes when it does not know the time.
    pub const UNKNOWN: Timestamp = Timestamp {
        seconds: -1,
        microseconds: -1,
    };
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let Ok(since) = time.duration_since(UNIX_EPOCH) else {
            return Self::UNKNOWN;
        };
        let Ok(seconds) = i64::try_from(since.as_secs()) else {
            return Self::UNKNOWN;
        };
        Self {
            seconds,
            microseconds: i64::from(since.subsec_micros()),
        }
    }
}

/// An event as it goes on the wire: written once, sent to every client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLine(Vec<u8>);

impl EventLine {
    /// Writes `event`, which happened at `timestamp`.
    pub fn new(event: &Event, timestamp: Timestamp) -> Self {
        #[derive(Serialize)]
        struct Stamped<'a> {
            timestamp: Timestamp,
            #[serde(flatten)]
            event: &'a Event,
        }
        // An event is structs of numbers, strings and enumerations: writing it cannot fail.
        let mut line = json::to_json(&Stamped { timestamp, event }).unwrap_or_default();
        line.extend_from_slice(b"\r\n");
        Self(line)
    }

    /// The line, with its end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_without_data_has_no_data_member() {
        let line = EventLine::new(
            &Event::Stop,
            Timestamp {
                seconds: 17,
                microseconds: 5,
            },
        );
        assert_eq!(
            line.as_bytes(),
            b"{\"timestamp\":{\"seconds\":17,\"microseconds\":5},\"event\":\"STOP\"}\r\n"
        );
    }

    #[test]
    fn data_follows_the_name() {
        let event = Event::Reset(ResetData {
            guest: false,
            reason: ShutdownCause::HostQmpSystemReset,
        });
        let line = EventLine::new(&event, Timestamp::UNKNOWN);
        assert_eq!(
            std::str::from_utf8(line.as_bytes()).unwrap(),
            "{\"timestamp\":{\"seconds\":-1,\"microseconds\":-1},\"event\":\"RESET\",\
             \"data\":{\"guest\":false,\"reason\":\"host-qmp-system-reset\"}}\r\n"
        );
    }

    #[test]
    fn a_clock_before_1970_is_unknown() {
        let early = UNIX_EPOCH - std::time::Duration::from_secs(1);
        assert_eq!(Timestamp::from(early), Timestamp::UNKNOWN);
    }
}
