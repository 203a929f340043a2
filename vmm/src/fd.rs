//! Borrowing the descriptor of an `EventFd`, which does not lend it itself.
#![expect(
    unsafe_code,
    reason = "vmm-sys-util's EventFd implements AsRawFd but not AsFd"
)]

use std::os::fd::{AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

/// The descriptor, for as long as `event` is borrowed.
#[must_use]
pub fn event_fd(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `event` lives, and the result borrows it.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
