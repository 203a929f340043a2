//! What a socket device has done: counters that the worker writes and anybody reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A socket device's counters. They are not consistent with each other to the last packet.
#[derive(Debug, Default)]
pub struct VsockStats {
    /// Not a count: connections there are now, those being made and closed included.
    pub connections: AtomicU64,
    /// Connections that the guest began and the host accepted.
    pub accepted_by_host: AtomicU64,
    /// Connections that the host began and the guest accepted.
    pub accepted_by_guest: AtomicU64,
    /// Connections that one side began and that did not come about.
    pub refused: AtomicU64,
    /// Connections that were reset because the guest broke the protocol.
    pub violations: AtomicU64,
    /// Packets of the guest's that were dropped: of a wrong sender, or when too many wanted to be
    /// answered with a reset.
    pub dropped: AtomicU64,
    /// Bytes of data taken from the guest.
    pub bytes_from_guest: AtomicU64,
    /// Bytes of data given to the guest.
    pub bytes_to_guest: AtomicU64,
    /// Packets taken from the guest.
    pub packets_from_guest: AtomicU64,
    /// Packets given to the guest.
    pub packets_to_guest: AtomicU64,
}

impl VsockStats {
    /// Each with its name, in a fixed order.
    pub fn each(&self) -> [(&'static str, u64); 10] {
        let Self {
            connections,
            accepted_by_host,
            accepted_by_guest,
            refused,
            violations,
            dropped,
            bytes_from_guest,
            bytes_to_guest,
            packets_from_guest,
            packets_to_guest,
        } = self;
        [
            ("connections", connections),
            ("accepted-by-host", accepted_by_host),
            ("accepted-by-guest", accepted_by_guest),
            ("refused", refused),
            ("violations", violations),
            ("dropped", dropped),
            ("bytes-from-guest", bytes_from_guest),
            ("bytes-to-guest", bytes_to_guest),
            ("packets-from-guest", packets_from_guest),
            ("packets-to-guest", packets_to_guest),
        ]
        .map(|(name, counter)| (name, counter.load(Relaxed)))
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Relaxed);
}
