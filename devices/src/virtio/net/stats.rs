//! What a network card has done.
//!
//! Written by the worker on the I/O thread, read by anybody at any time; the fields are not
//! consistent with each other to the last frame.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A network card's counters. Bytes are without the virtio header.
#[derive(Debug, Default)]
pub struct NetStats {
    /// Frames given to the guest.
    pub rx_frames: AtomicU64,
    /// Bytes of those.
    pub rx_bytes: AtomicU64,
    /// Frames that the driver's filter kept out.
    pub rx_filtered: AtomicU64,
    /// Frames lost for being longer than the guest's buffers, or while its link was down.
    pub rx_dropped: AtomicU64,
    /// Times that frames had to wait for the driver to give buffers.
    pub rx_starved: AtomicU64,
    /// Times that frames had to wait for the rate limit.
    pub rx_throttled: AtomicU64,
    /// Frames sent.
    pub tx_frames: AtomicU64,
    /// Bytes of those.
    pub tx_bytes: AtomicU64,
    /// Frames whose header made no sense.
    pub tx_invalid: AtomicU64,
    /// Frames that the host did not take, or that were sent while the link was down.
    pub tx_dropped: AtomicU64,
    /// Times that frames had to wait for the host.
    pub tx_blocked: AtomicU64,
    /// Times that frames had to wait for the rate limit.
    pub tx_throttled: AtomicU64,
    /// Commands of the control queue that were carried out.
    pub control_done: AtomicU64,
    /// Commands of the control queue that were refused.
    pub control_refused: AtomicU64,
}

impl NetStats {
    /// Every counter with its name.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let Self {
            rx_frames,
            rx_bytes,
            rx_filtered,
            rx_dropped,
            rx_starved,
            rx_throttled,
            tx_frames,
            tx_bytes,
            tx_invalid,
            tx_dropped,
            tx_blocked,
            tx_throttled,
            control_done,
            control_refused,
        } = self;
        [
            ("rx-frames", rx_frames),
            ("rx-bytes", rx_bytes),
            ("rx-filtered", rx_filtered),
            ("rx-dropped", rx_dropped),
            ("rx-starved", rx_starved),
            ("rx-throttled", rx_throttled),
            ("tx-frames", tx_frames),
            ("tx-bytes", tx_bytes),
            ("tx-invalid", tx_invalid),
            ("tx-dropped", tx_dropped),
            ("tx-blocked", tx_blocked),
            ("tx-throttled", tx_throttled),
            ("control-done", control_done),
            ("control-refused", control_refused),
        ]
        .into_iter()
        .map(|(name, counter)| (name, counter.load(Relaxed)))
    }
}

/// Counts one, or `bytes`.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Relaxed);
}
