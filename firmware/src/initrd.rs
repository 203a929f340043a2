//! Where the initial RAM disk goes: at the top of low RAM, on a page, below the kernel's limit,
//! above everything the kernel uses while it unpacks itself.
//!
//! Pure, apart from asking the file for its length. Called on the main thread.

use crate::image::{Image, ImageError};
use crate::layout::AddressRange;

/// Linux frees the initrd by pages.
const PAGE: u64 = 4096;

/// Why the initrd was refused. The texts speak of the file as "it".
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// Nothing in it.
    #[error("it is empty: leave it out, or name an archive that holds something")]
    Empty,
    /// It does not fit between the kernel and the end of memory.
    #[error(
        "it has {len} bytes, and {room} are free beside the kernel: give the guest more memory, \
         or make it smaller"
    )]
    TooLarge {
        /// Its length.
        len: u64,
        /// What there is.
        room: u64,
    },
    /// Reading failed.
    #[error("it cannot be read")]
    Image(#[from] ImageError),
}

/// Places the initrd in `image` between `start` and `end`, the kernel's end and limit.
pub(crate) fn plan(image: &Image<'_>, start: u64, end: u64) -> Result<AddressRange, InitrdError> {
    let len = image.len()?;
    if len == 0 {
        return Err(InitrdError::Empty);
    }
    place(len, start, end)
        .map(|start| AddressRange { start, len })
        .ok_or(InitrdError::TooLarge {
            len,
            room: end.saturating_sub(start),
        })
}

/// The highest page-aligned address for `len` bytes below `end`, if it is at least `start`.
fn place(len: u64, start: u64, end: u64) -> Option<u64> {
    let address = end.checked_sub(len)? & !(PAGE - 1);
    (address >= start).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn at_the_top_on_a_page() {
        assert_eq!(place(1, 0x10_0000, 0x100_0000), Some(0xFF_F000));
        assert_eq!(place(0x1000, 0x10_0000, 0x100_0000), Some(0xFF_F000));
        assert_eq!(place(0x1001, 0x10_0000, 0x100_0000), Some(0xFF_E000));
        assert_eq!(place(0xF0_0000, 0x10_0000, 0x100_0000), Some(0x10_0000));
        assert_eq!(place(0xF0_0001, 0x10_0000, 0x100_0000), None);
        assert_eq!(place(1, 0x10_0001, 0x10_0FFF), None);
    }

    #[test]
    fn empty_and_too_large_are_told_apart() {
        let error = plan(&Image::Bytes(&[]), 0, 4096).unwrap_err();
        assert!(matches!(error, InitrdError::Empty), "{error}");
        let error = plan(&Image::Bytes(&[0; 4097]), 0x1000, 0x2000).unwrap_err();
        assert!(
            matches!(
                error,
                InitrdError::TooLarge {
                    len: 4097,
                    room: 4096
                }
            ),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn always_between(len in 1_u64.., start: u64, end: u64) {
            if let Some(address) = place(len, start, end) {
                prop_assert!(address >= start && address % PAGE == 0);
                prop_assert!(address.checked_add(len).is_some_and(|last| last <= end));
            }
        }
    }
}
