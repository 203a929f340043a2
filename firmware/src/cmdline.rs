//! The kernel command line: what it is when the user gives none, and what it may hold.
//!
//! Pure. The configuration check calls [`check`] with the machine's limit before anything is
//! started; the loader calls it again with the limit of the kernel at hand.

/// Command line of a kernel whose user gave none. A given one replaces it whole.
///
/// The console is the serial port. Nothing else serves everybody: Linux finds out how to reset and
/// power off without `reboot=`; and a kernel that panics stays where it is, its last
/// words on the console, until the user's action for a panic says otherwise.
pub const DEFAULT: &str = "console=ttyS0";

/// Why a command line was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CmdlineError {
    /// Longer than the kernel reads.
    #[error(
        "the kernel takes a command line of at most {max} bytes, this one has {len}: shorten it"
    )]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit, without the terminating NUL.
        max: usize,
    },
    /// A NUL would end it early, a line break splits log lines, and what is beyond ASCII depends on
    /// who reads it.
    #[error("byte {value:#04x} at position {position} is not printable ASCII: remove it")]
    Unprintable {
        /// Offset of the byte.
        position: usize,
        /// The byte.
        value: u8,
    },
}

/// Checks that `cmdline` is printable ASCII (tabs allowed) of at most `max` bytes.
pub fn check(cmdline: &str, max: usize) -> Result<(), CmdlineError> {
    if cmdline.len() > max {
        return Err(CmdlineError::TooLong {
            len: cmdline.len(),
            max,
        });
    }
    let bad = |byte: &u8| !matches!(byte, b'\t' | b' '..=b'~');
    match cmdline.bytes().enumerate().find(|(_, byte)| bad(byte)) {
        Some((position, value)) => Err(CmdlineError::Unprintable { position, value }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::CMDLINE_MAX;

    #[test]
    fn limits_and_characters() {
        assert_eq!(check(DEFAULT, CMDLINE_MAX - 1), Ok(()));
        assert_eq!(check("", 0), Ok(()));
        assert_eq!(check("init=/bin/sh -- a\t~", 64), Ok(()));
        assert_eq!(
            check("abcd", 3),
            Err(CmdlineError::TooLong { len: 4, max: 3 })
        );
        let unprintable = |position, value| Err(CmdlineError::Unprintable { position, value });
        assert_eq!(check("a\0b", 9), unprintable(1, 0));
        assert_eq!(check("quiet\n", 9), unprintable(5, b'\n'));
        assert_eq!(check("é", 9), unprintable(0, 0xC3));
        assert_eq!(check("\x7f", 9), unprintable(0, 0x7F));
    }
}
