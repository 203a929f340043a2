//! Guest memory.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{KeyPath, Problems};
use super::size::{Size, display};

/// Least guest memory, in bytes: below it neither Linux nor the boot layout has room.
pub const MEMORY_MIN: u64 = 16 << 20;

/// Most guest memory, in bytes. A 40-bit guest physical address space ends there; the host's
/// CPU may allow less, which only building the machine can tell.
pub const MEMORY_MAX: u64 = 1 << 40;

/// Guest memory comes in whole pages of this many bytes.
pub const MEMORY_STEP: u64 = 4096;

/// What QEMU gives a guest when told nothing, in bytes.
const MEMORY_DEFAULT: u64 = 128 << 20;

/// Guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Memory {
    /// How much: 16 MiB to 1 TiB in steps of 4 KiB. **An integer is bytes**; a text has a
    /// suffix, as in `"512M"` or `"1GiB"`.
    pub size: Size,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            size: Size::Text(format!("{}M", MEMORY_DEFAULT >> 20)),
        }
    }
}

impl Memory {
    /// Its rules; the size in bytes.
    pub(super) fn check(&self, at: &KeyPath, problems: &mut Problems) -> u64 {
        let at = at.key("size");
        let size = match self.size.bytes() {
            Ok(size) => size,
            Err(error) => {
                problems.push(at, error.to_string(), error.remedy());
                return 0;
            }
        };
        if size < MEMORY_MIN {
            let what = format!("{} is too little for a guest", display(size));
            problems.push(at, what, format!("give at least {}", display(MEMORY_MIN)));
        } else if size > MEMORY_MAX {
            let what = format!("{} is more than a machine can have", display(size));
            problems.push(at, what, format!("give at most {}", display(MEMORY_MAX)));
        } else if !size.is_multiple_of(MEMORY_STEP) {
            let what = format!("{} is not a whole number of pages", display(size));
            problems.push(at, what, format!("use a multiple of {MEMORY_STEP} bytes"));
        }
        size
    }
}
