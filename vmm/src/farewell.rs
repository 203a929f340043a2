//! Ending without making the caller wait for the kernel's clean-up.
//!
//! Closing the last descriptor of a VM that ever had an ioeventfd or an in-kernel irqchip costs a
//! grace period or two (15 ms measured), and freeing guest memory costs more the more of it was
//! used; a process that exits is not reaped before its descriptors are closed. So the last
//! references to both are given to an io_uring as registered files: a ring's files are put by a
//! kernel worker some time after the ring is closed (`io_ring_exit_work`), and whoever waits for us
//! goes on at once. No child process is left behind for anybody to reap.
//!
//! By then everything with a meaning outside has been closed in order: disks and their locks,
//! sockets, the terminal.
#![expect(
    unsafe_code,
    reason = "two io_uring system calls, for which a crate would be much"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `IORING_REGISTER_FILES` (include/uapi/linux/io_uring.h).
const REGISTER_FILES: libc::c_uint = 2;

/// Bytes of `struct io_uring_params`.
const PARAMS_BYTES: usize = 120;

/// Closes `files`, but lets the kernel finish that after this process has gone. Where io_uring is
/// switched off they are closed here and now.
///
/// # Errors
/// Why it had to be here and now.
pub fn close_later(files: Vec<OwnedFd>) -> io::Result<()> {
    let mut params = [0_u8; PARAMS_BYTES];
    // SAFETY: the kernel reads and writes exactly `struct io_uring_params` at the address; all
    // zeroes ask for a plain ring.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    let ring = i32::try_from(ring).unwrap_or(-1);
    if ring < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor and nobody else has it.
    let ring = unsafe { OwnedFd::from_raw_fd(ring) };
    let numbers: Vec<i32> = files.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: the kernel reads as many descriptor numbers as it is told are there.
    let registered = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            REGISTER_FILES,
            numbers.as_ptr(),
            numbers.len(),
        )
    };
    if registered < 0 {
        return Err(io::Error::last_os_error());
    }
    drop(files);
    drop(ring);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_file_is_closed_in_the_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        // Where io_uring is off it is closed at once, which is as well for this test.
        drop(close_later(vec![ours.into()]));
        assert_eq!(
            theirs.read(&mut [0]).unwrap(),
            0,
            "the other end hears of it"
        );
    }
}
