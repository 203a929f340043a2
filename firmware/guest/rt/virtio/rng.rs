//! Driver of a virtio entropy source (virtio 1.2, section 5.4).

use super::queue::Segment;
use super::{DEVICE_RNG, Error, NEEDS_RESET, Transport};
use crate::clock::Deadline;
use crate::memory::Region;

const TIMEOUT_MS: u64 = 5000;

/// Sets the device up, fills `bytes` with random bytes, at most a page, and resets it. Returns how
/// many the device gave.
pub fn read(transport: Transport, bytes: &mut [u8]) -> Result<usize, Error> {
    assert_eq!(transport.device_id(), DEVICE_RNG);
    transport.negotiate(0)?;
    let mut queue = transport.set_up_queue(0)?;
    queue.want_interrupts(false);
    transport.driver_ok();
    let buffer = Region::allocate(bytes.len() as u64);
    let segment = Segment {
        address: buffer.address(),
        length: bytes.len() as u32,
        device_writes: true,
    };
    queue.submit(&[segment]);
    transport.notify(0);
    let deadline = Deadline::after_ms(TIMEOUT_MS);
    let used = loop {
        if let Some(used) = queue.pop() {
            break used;
        }
        if transport.status() & NEEDS_RESET != 0 {
            return Err(Error::NeedsReset);
        }
        if deadline.passed() {
            return Err(Error::Timeout);
        }
        core::hint::spin_loop();
    };
    transport.reset();
    buffer.copy_to(0, bytes);
    Ok(bytes.len().min(used.written as usize))
}
