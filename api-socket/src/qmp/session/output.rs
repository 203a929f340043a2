//! Lines that wait to be sent.

use serde_json::Value;

use super::super::error::QmpError;
use super::super::event::EventLine;
use super::super::json;
use super::{MAX_OUTPUT_FOR_EVENTS, MAX_REPLY, Reply};

/// Output of which this much has been sent is moved to the front of its buffer.
const COMPACT: usize = 64 << 10;

/// Bytes to be sent, in order.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    sent: usize,
    dropped_events: u64,
}

impl Output {
    pub(super) fn pending(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    pub(super) fn over(&self, limit: usize) -> bool {
        self.pending().len() > limit
    }

    pub(super) fn dropped_events(&self) -> u64 {
        self.dropped_events
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count).min(self.bytes.len());
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
            self.bytes.shrink_to(COMPACT);
        } else if self.sent >= COMPACT {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    pub(super) fn line(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(super) fn event(&mut self, event: &EventLine) {
        if self.over(MAX_OUTPUT_FOR_EVENTS) {
            self.dropped_events = self.dropped_events.saturating_add(1);
            return;
        }
        self.bytes.extend_from_slice(event.as_bytes());
    }

    /// `{"return": …}` or `{"error": …}`, with the id if the command had one.
    pub(super) fn reply(&mut self, id: Option<&Value>, result: &Result<Reply, QmpError>) {
        let too_long;
        let result = match result {
            Ok(value) if value.as_bytes().len() > MAX_REPLY => {
                too_long = QmpError::generic("The return value is too long to be sent");
                Err(&too_long)
            }
            other => other.as_ref(),
        };
        let (member, value) = match result {
            Ok(value) => (&b"{\"return\":"[..], value),
            Err(error) => (&b"{\"error\":"[..], &Reply::of(error)),
        };
        self.bytes.extend_from_slice(member);
        self.bytes.extend_from_slice(value.as_bytes());
        if let Some(id) = id {
            self.bytes.extend_from_slice(b",\"id\":");
            // A value read from JSON can be written as JSON.
            let _ = json::write_json(&mut self.bytes, id);
        }
        self.bytes.extend_from_slice(b"}\r\n");
    }
}
