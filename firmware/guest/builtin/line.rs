//! Line editing on a terminal in raw mode: echo, backspace, Ctrl-U, Ctrl-C, Ctrl-D.

use rt::{console, print, println};

const PROMPT: &str = "thimble> ";

/// Longest line; what is typed beyond it is not taken.
const LENGTH_MAX: usize = 200;

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const CTRL_U: u8 = 0x15;
const ESCAPE: u8 = 0x1b;
const DELETE: u8 = 0x7f;

/// How far into an escape sequence (a cursor key, say) the input is.
enum Escape {
    None,
    Started,
    Inside,
}

/// The line being typed.
pub(crate) struct Editor {
    bytes: [u8; LENGTH_MAX],
    length: usize,
    escape: Escape,
    /// A line feed right after a carriage return belongs to it.
    after_return: bool,
}

impl Editor {
    /// An empty line.
    pub(crate) fn new() -> Self {
        Self {
            bytes: [0; LENGTH_MAX],
            length: 0,
            escape: Escape::None,
            after_return: false,
        }
    }

    /// Starts a new line.
    pub(crate) fn prompt(&mut self) {
        self.length = 0;
        self.show();
    }

    /// Prints the prompt and what has been typed.
    pub(crate) fn show(&self) {
        print!("{PROMPT}{}", self.text());
    }

    /// What has been typed.
    pub(crate) fn text(&self) -> &str {
        core::str::from_utf8(self.bytes.get(..self.length).unwrap_or_default()).unwrap_or("?")
    }

    /// Takes a byte; says whether it ended the line.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        match (&self.escape, byte) {
            (Escape::Started, b'[' | b'O') => self.escape = Escape::Inside,
            (Escape::Inside, 0x20..0x40) => {}
            (Escape::Started | Escape::Inside, _) => self.escape = Escape::None,
            (_, ESCAPE) => self.escape = Escape::Started,
            (_, b'\n') if after_return => {}
            (_, b'\r' | b'\n') => {
                println!();
                return true;
            }
            (_, BACKSPACE | DELETE) => self.erase(1),
            (_, CTRL_U) => self.erase(self.length),
            (_, CTRL_C) => {
                println!("^C");
                self.prompt();
            }
            (_, CTRL_D) if self.length == 0 => return self.type_text("poweroff"),
            (_, 0x20..0x7f) => self.append(byte),
            _ => {}
        }
        false
    }

    fn type_text(&mut self, text: &str) -> bool {
        text.bytes().for_each(|byte| self.append(byte));
        println!();
        true
    }

    fn append(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
            console::write_byte(byte);
        }
    }

    fn erase(&mut self, count: usize) {
        for _ in 0..count.min(self.length) {
            self.length -= 1;
            console::write_str("\x08 \x08");
        }
    }
}
