//! The escape key of a terminal: Ctrl-A and a key are for the VMM, everything else is for the
//! guest. Pure. The keys are those of QEMU's `-nographic` as far as there is something to do.

/// Ctrl-A.
const ESCAPE: u8 = 0x01;

/// What Ctrl-A h prints. Lines end as a terminal in raw mode needs it.
pub const HELP: &[u8] = b"\r\n\
    Ctrl-A h    this help\r\n\
    Ctrl-A x    quit\r\n\
    Ctrl-A a    send Ctrl-A (or Ctrl-A Ctrl-A)\r\n";

/// What one byte from the terminal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// For the guest.
    Guest(u8),
    /// Nothing yet, or nothing at all.
    Swallowed,
    /// The user wants to quit.
    Quit,
    /// The user wants [`HELP`].
    Help,
}

/// The state machine.
#[derive(Debug, Default)]
pub struct EscapeFilter {
    escaped: bool,
}

impl EscapeFilter {
    /// A filter that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next byte the user typed.
    pub fn key(&mut self, byte: u8) -> Key {
        if !std::mem::take(&mut self.escaped) {
            self.escaped = byte == ESCAPE;
            return if self.escaped {
                Key::Swallowed
            } else {
                Key::Guest(byte)
            };
        }
        match byte {
            ESCAPE | b'a' => Key::Guest(ESCAPE),
            b'x' => Key::Quit,
            b'h' | b'?' => Key::Help,
            _ => Key::Swallowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(typed: &[u8]) -> Vec<Key> {
        let mut filter = EscapeFilter::new();
        typed
            .iter()
            .map(|byte| filter.key(*byte))
            .filter(|key| *key != Key::Swallowed)
            .collect()
    }

    #[test]
    fn every_byte_but_the_escape_is_the_guests() {
        for byte in (0..=255).filter(|byte| *byte != ESCAPE) {
            assert_eq!(keys(&[byte]), [Key::Guest(byte)]);
        }
    }

    #[test]
    fn escapes() {
        use Key::{Guest, Help, Quit};
        assert_eq!(keys(b"\x01x"), [Quit]);
        assert_eq!(keys(b"\x01h"), [Help]);
        assert_eq!(keys(b"\x01\x01"), [Guest(1)]);
        assert_eq!(keys(b"\x01a"), [Guest(1)]);
        // An escaped escape does not escape.
        assert_eq!(keys(b"\x01\x01x"), [Guest(1), Guest(b'x')]);
        // Unknown keys are swallowed with the escape.
        assert_eq!(keys(b"\x01zx"), [Guest(b'x')]);
        assert_eq!(keys(b"\x01"), []);
        assert_eq!(keys(b"x\x01xx"), [Guest(b'x'), Quit, Guest(b'x')]);
    }
}
