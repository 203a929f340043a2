//! Sizes in bytes, as people write them.
//!
//! Suffixes are powers of 1024, as QEMU's are: `M`, `Mi` and `MiB` all mean 2^20 bytes. `MB` is
//! refused, because to half of its users it means 10^6.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::quoted;

/// Longest text taken for a size: the 20 digits of 2^64 and a suffix, with room to spare.
const MAX_TEXT: usize = 32;

/// A size. In JSON an **integer is bytes** and a text is a whole number with a suffix: `K`, `M`,
/// `G` or `T` (any case), also written `Ki` or `KiB` and so on; all are powers of 1024. A text
/// without a suffix is refused, because on the command line a bare number is MiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// A number with a suffix, such as `512M`, `1G` or `16MiB`.
    Text(#[schemars(extend("pattern" = "^[0-9]+([KMGT]|[kmgt]|[KMGT]i|[KMGT]iB)$"))] String),
}

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No number, an unknown suffix, a fraction or a sign.
    #[error("{} is not a size", quoted(.0))]
    Syntax(String),
    /// A number that does not say of what.
    #[error("{} has no unit", quoted(.0))]
    NoUnit(String),
    /// More than 2^64 - 1 bytes: the number and its unit, which need not be as they were typed.
    #[error("{0} is more than 64 bits of bytes")]
    TooLarge(String),
}

impl SizeError {
    /// What to write instead.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Syntax(_) => "write a whole number and K, M, G or T, such as 512M",
            Self::NoUnit(_) => "add M for MiB, or write bytes as a JSON integer",
            Self::TooLarge(_) => "use a smaller size",
        }
    }
}

impl Size {
    /// The size meant by a command-line value, where, as with QEMU's `-m`, a bare number is MiB.
    pub fn from_flag(text: &str) -> Self {
        let number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if number && text.len() < MAX_TEXT {
            Self::Text(format!("{text}M"))
        } else {
            Self::Text(text.to_owned())
        }
    }

    /// The size in bytes.
    ///
    /// # Errors
    /// A text that is not a number with a known suffix, or does not fit 64 bits.
    pub fn bytes(&self) -> Result<u64, SizeError> {
        match self {
            Self::Bytes(bytes) => Ok(*bytes),
            Self::Text(text) => parse(text),
        }
    }
}

fn parse(text: &str) -> Result<u64, SizeError> {
    let syntax = || SizeError::Syntax(text.to_owned());
    if text.len() > MAX_TEXT {
        return Err(syntax());
    }
    let end = text
        .bytes()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at_checked(end).ok_or_else(syntax)?;
    if digits.is_empty() {
        return Err(syntax());
    }
    let (shift, unit) = match suffix {
        "" => return Err(SizeError::NoUnit(text.to_owned())),
        "k" | "K" | "Ki" | "KiB" => (10, "KiB"),
        "m" | "M" | "Mi" | "MiB" => (20, "MiB"),
        "g" | "G" | "Gi" | "GiB" => (30, "GiB"),
        "t" | "T" | "Ti" | "TiB" => (40, "TiB"),
        _ => return Err(syntax()),
    };
    let too_large = || SizeError::TooLarge(format!("{digits} {unit}"));
    let number: u64 = digits.parse().map_err(|_| too_large())?;
    number.checked_mul(1_u64 << shift).ok_or_else(too_large)
}

/// A size for a message: in the largest unit that divides it.
pub(super) fn display(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Result<u64, SizeError> {
        Size::Text(text.to_owned()).bytes()
    }

    #[test]
    fn suffixes_are_powers_of_1024() {
        for (text, want) in [
            ("1k", 1 << 10),
            ("1K", 1 << 10),
            ("3KiB", 3 << 10),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("16Mi", 16 << 20),
            ("16MiB", 16 << 20),
            ("1G", 1 << 30),
            ("2g", 2 << 30),
            ("1GiB", 1 << 30),
            ("1T", 1 << 40),
            ("0M", 0),
            ("007M", 7 << 20),
        ] {
            assert_eq!(bytes(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in [
            "", "M", "-1M", "+1M", "1.5G", "1MB", "1mib", "1 M", "0x10M", "1P", "\u{662}M",
        ] {
            assert!(matches!(bytes(text), Err(SizeError::Syntax(_))), "{text}");
        }
        assert!(matches!(bytes("512"), Err(SizeError::NoUnit(_))));
        assert!(matches!(
            bytes("99999999999999999999M"),
            Err(SizeError::TooLarge(_))
        ));
        assert!(matches!(bytes("16777216T"), Err(SizeError::TooLarge(_))));
        assert!(matches!(
            bytes(&"1".repeat(1000)),
            Err(SizeError::Syntax(_))
        ));
    }

    #[test]
    fn a_bare_number_is_mib_on_the_command_line_and_bytes_in_json() {
        assert_eq!(Size::from_flag("512").bytes(), Ok(512 << 20));
        assert_eq!(Size::from_flag("1G").bytes(), Ok(1 << 30));
        assert_eq!(
            serde_json::from_str::<Size>("4096").unwrap().bytes(),
            Ok(4096)
        );
        assert!(Size::from_flag("").bytes().is_err());
    }

    #[test]
    fn sizes_print_in_their_largest_whole_unit() {
        assert_eq!(display(16 << 20), "16 MiB");
        assert_eq!(display(1 << 40), "1 TiB");
        assert_eq!(display((1 << 20) + 1), "1048577 bytes");
        assert_eq!(display(0), "0 bytes");
    }
}
