//! Random bytes of the host's kernel. Called on any thread.

use std::io;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Fills `bytes`, all of them. Blocks only in a host that has just booted and has no entropy yet.
///
/// # Errors
/// What getrandom(2) answered; ENOSYS, or a seccomp filter's, are all there can be.
pub(crate) fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match getrandom(rest, GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_filled() {
        // A request beyond 256 bytes may be answered in parts (getrandom(2)). That a given 8 bytes
        // stay zero by chance is not to be expected in this universe.
        let mut bytes = [0; 4096];
        fill(&mut bytes).unwrap();
        assert!(bytes.chunks(8).all(|part| part != [0; 8]));
        fill(&mut []).unwrap();
    }
}
