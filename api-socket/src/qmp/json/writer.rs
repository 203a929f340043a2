//! Values to bytes: one line, ASCII only, as QEMU writes it.
//!
//! Non-ASCII characters and DEL become `\uXXXX` with upper-case digits, characters beyond the
//! basic plane surrogate pairs; a double that is a whole number is written as an integer. Called by
//! sessions and clients.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter};

/// Doubles up to this magnitude hold every integer exactly (2^53).
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

#[derive(Debug)]
struct AsciiLine;

impl Formatter for AsciiLine {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        if value.fract() == 0.0 && value.abs() < EXACT_INTEGERS {
            // `+ 0.0` turns minus zero into zero.
            return write!(writer, "{:.0}", value + 0.0);
        }
        write!(writer, "{value:?}")
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.bytes().all(|byte| (0x20..0x7F).contains(&byte)) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut units = [0; 2];
        for character in fragment.chars() {
            if matches!(character, ' '..='~') {
                write!(writer, "{character}")?;
                continue;
            }
            for unit in character.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04X}")?;
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Quote => writer.write_all(b"\\\""),
            CharEscape::ReverseSolidus => writer.write_all(b"\\\\"),
            CharEscape::Solidus => writer.write_all(b"/"),
            CharEscape::Backspace => writer.write_all(b"\\b"),
            CharEscape::FormFeed => writer.write_all(b"\\f"),
            CharEscape::LineFeed => writer.write_all(b"\\n"),
            CharEscape::CarriageReturn => writer.write_all(b"\\r"),
            CharEscape::Tab => writer.write_all(b"\\t"),
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04X}"),
        }
    }
}

/// Appends `value` to `out`, without a line end.
///
/// # Errors
/// When `value` cannot be JSON (a map whose keys are no strings). `out` may then hold a part of it.
pub fn write_json<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    value: &T,
) -> Result<(), serde_json::Error> {
    value.serialize(&mut serde_json::Serializer::with_formatter(out, AsciiLine))
}

/// `value` as one line of JSON text, without a line end.
///
/// # Errors
/// As [`write_json`].
pub fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(128);
    write_json(&mut out, value)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn line(value: &Value) -> String {
        String::from_utf8(to_json(value).unwrap()).unwrap()
    }

    #[test]
    fn everything_outside_ascii_is_escaped() {
        let text = json!("\u{1F600} \u{E9} \u{7F} \u{0} \u{1b} \"\\/\n\r\t");
        assert_eq!(
            line(&text),
            r#""\uD83D\uDE00 \u00E9 \u007F \u0000 \u001B \"\\/\n\r\t""#
        );
        assert_eq!(line(&json!({"\u{E9}": 1})), r#"{"\u00E9":1}"#);
    }

    #[test]
    fn numbers_read_back_as_what_they_were() {
        assert_eq!(line(&json!(1e3)), "1000");
        assert_eq!(line(&json!(-0.0)), "0");
        assert_eq!(line(&json!(0.1)), "0.1");
        assert_eq!(line(&json!(u64::MAX)), "18446744073709551615");
        assert_eq!(line(&json!(i64::MIN)), "-9223372036854775808");
        let beyond = line(&json!(18_446_744_073_709_551_616.0));
        assert_eq!(beyond.parse::<f64>().unwrap(), 18_446_744_073_709_551_616.0);
        assert!(beyond.contains('e'));
    }
}
