//! The lexer of QMP's JSON dialect: bytes to lexemes, one byte at a time, resumable anywhere.
//!
//! RFC 8259 with QEMU's extensions: strings may be single-quoted, and `\'` is an escape. Called by
//! the parser only.

use serde_json::Number;

/// One token, or what stood where a token should be.
#[derive(Debug, PartialEq)]
pub(super) enum Lexeme {
    /// One of `{ } [ ] : ,`.
    Punctuation(u8),
    /// A string, decoded.
    String(String),
    /// A number; an integer is kept exact from `i64::MIN` to `u64::MAX`, others are doubles.
    Number(Number),
    /// A run of lower-case letters: `true`, `false`, `null`, or a mistake.
    Word(String),
    /// A complete token whose content is wrong; the text says how.
    Malformed(String),
    /// Characters that begin no token, printable.
    Stray(String),
    /// A control character or a byte no UTF-8 text has. Clients send one on purpose to make the
    /// reader forget a half-sent message.
    Reset(char),
    /// The message has more bytes than its limit.
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// Inside a string; the byte is the quote that ends it.
    String(u8),
    /// After a backslash in a string.
    Escape(u8),
    /// In the four digits of `\u`: quote, digits seen, value so far.
    Unicode(u8, u8, u16),
    Number(NumberState),
    Word,
    /// After stray characters outside any value: wait for something structural.
    Recovery,
}

/// Where in RFC 8259's `number` production the text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NumberState {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl NumberState {
    /// The state after `byte`, or `None` when `byte` cannot continue the number.
    fn after(self, byte: u8) -> Option<NumberState> {
        match (self, byte) {
            (Self::Minus, b'0') => Some(Self::Zero),
            (Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => Some(Self::Integer),
            (Self::Zero | Self::Integer, b'.') => Some(Self::Point),
            (Self::Point | Self::Fraction, b'0'..=b'9') => Some(Self::Fraction),
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Some(Self::Exponent),
            (Self::Exponent, b'+' | b'-') => Some(Self::ExponentSign),
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, b'0'..=b'9') => {
                Some(Self::ExponentDigits)
            }
            _ => None,
        }
    }

    /// Whether the text so far is a number, so that `next` may begin another token.
    fn may_end_before(self, next: u8) -> bool {
        match self {
            Self::Zero => !next.is_ascii_digit(),
            Self::Integer | Self::Fraction | Self::ExponentDigits => true,
            _ => false,
        }
    }
}

/// The lexer's state between two bytes.
#[derive(Debug)]
pub(super) struct Lexer {
    state: State,
    /// Text of the token so far; decoded for strings.
    text: Vec<u8>,
    /// A high surrogate that waits for its low half.
    high_surrogate: Option<u16>,
    /// The first thing found wrong inside the present string.
    string_error: Option<String>,
    /// Bytes this message may still have.
    budget: usize,
    /// Whether token texts are thrown away, because the message is already refused.
    discarding: bool,
}

impl Lexer {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            state: State::Start,
            text: Vec::new(),
            high_surrogate: None,
            string_error: None,
            budget,
            discarding: false,
        }
    }

    /// Starts counting a new message of at most `budget` bytes.
    pub(super) fn begin_message(&mut self, budget: usize) {
        self.budget = budget;
        self.discarding = false;
        // One large message must not hold its memory for the life of the connection.
        if self.text.capacity() > 4096 {
            self.text = Vec::new();
        }
    }

    /// Keeps no more text until the next message.
    pub(super) fn discard(&mut self) {
        self.discarding = true;
        self.text = Vec::new();
    }

    /// Skips to the next structural character, line end or control character.
    pub(super) fn recover(&mut self) {
        self.state = State::Recovery;
    }

    /// Takes bytes off `input` until a lexeme is complete. `None`: the input is used up.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Option<Lexeme> {
        while let Some((&byte, rest)) = input.split_first() {
            let (taken, lexeme) = self.step(byte);
            if taken {
                *input = rest;
                // A token that ends with the byte too many is still given out: brackets must be
                // counted.
                if !self.discarding && self.over_budget(byte) && lexeme.is_none() {
                    return Some(Lexeme::TooLong);
                }
            }
            if lexeme.is_some() {
                return lexeme;
            }
        }
        None
    }

    /// Counts `byte`, and says whether the message has grown too long with it. White space between
    /// tokens costs nothing, because nothing is kept of it.
    fn over_budget(&mut self, byte: u8) -> bool {
        let between = matches!(self.state, State::Start | State::Recovery);
        if between && byte.is_ascii_whitespace() {
            return false;
        }
        match self.budget.checked_sub(1) {
            Some(left) => self.budget = left,
            None => return true,
        }
        false
    }

    /// Advances by one byte. The flag says whether the byte was used; if not, it is looked at
    /// again in the new state.
    fn step(&mut self, byte: u8) -> (bool, Option<Lexeme>) {
        match self.state {
            State::Start => (true, self.start(byte)),
            State::Recovery => {
                let structural = matches!(byte, b'{' | b'}' | b'[' | b']' | b':' | b',');
                if structural || (byte < 0x20 && byte != b'\t') || byte >= 0xFE {
                    self.state = State::Start;
                    return (false, None);
                }
                (true, None)
            }
            State::Word => {
                if byte.is_ascii_lowercase() {
                    self.keep(byte);
                    return (true, None);
                }
                self.state = State::Start;
                (false, Some(Lexeme::Word(self.take_lossy())))
            }
            State::Number(number) => self.in_number(number, byte),
            State::String(_) | State::Escape(_) | State::Unicode(..) if resets(byte) => {
                (true, Some(self.reset(byte)))
            }
            State::String(quote) => (true, self.in_string(quote, byte)),
            State::Escape(quote) => {
                self.in_escape(quote, byte);
                (true, None)
            }
            State::Unicode(quote, digits, value) => {
                // A quote here ends the string as well as the broken escape.
                (self.in_unicode(quote, digits, value, byte), None)
            }
        }
    }

    fn start(&mut self, byte: u8) -> Option<Lexeme> {
        self.text.clear();
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => None,
            b'{' | b'}' | b'[' | b']' | b':' | b',' => Some(Lexeme::Punctuation(byte)),
            b'"' | b'\'' => {
                self.high_surrogate = None;
                self.string_error = None;
                self.state = State::String(byte);
                None
            }
            b'a'..=b'z' => self.begin(State::Word, byte),
            b'-' => self.begin(State::Number(NumberState::Minus), byte),
            b'0' => self.begin(State::Number(NumberState::Zero), byte),
            b'1'..=b'9' => self.begin(State::Number(NumberState::Integer), byte),
            0..0x20 | 0xFE.. => Some(self.reset(byte)),
            _ => Some(Lexeme::Stray(printable(byte).to_string())),
        }
    }

    fn begin(&mut self, state: State, byte: u8) -> Option<Lexeme> {
        self.state = state;
        self.keep(byte);
        None
    }

    fn reset(&mut self, byte: u8) -> Lexeme {
        self.state = State::Start;
        self.text = Vec::new();
        Lexeme::Reset(printable(byte))
    }

    fn in_number(&mut self, state: NumberState, byte: u8) -> (bool, Option<Lexeme>) {
        if let Some(next) = state.after(byte) {
            self.state = State::Number(next);
            self.keep(byte);
            return (true, None);
        }
        self.state = State::Start;
        if state.may_end_before(byte) {
            let text = self.take_lossy();
            return (
                false,
                Some(if self.discarding {
                    null_lexeme()
                } else {
                    number(&text)
                }),
            );
        }
        if resets(byte) {
            // The control character is the news, and is told by its own lexeme.
            return (false, Some(Lexeme::Stray(self.take_lossy())));
        }
        let mut text = self.take_lossy();
        text.push(printable(byte));
        (true, Some(Lexeme::Stray(text)))
    }

    fn in_string(&mut self, quote: u8, byte: u8) -> Option<Lexeme> {
        if byte == b'\\' {
            self.state = State::Escape(quote);
            return None;
        }
        self.require_no_surrogate();
        if byte != quote {
            self.keep(byte);
            return None;
        }
        self.state = State::Start;
        if let Some(error) = self.string_error.take() {
            self.text.clear();
            return Some(Lexeme::Malformed(error));
        }
        Some(match String::from_utf8(std::mem::take(&mut self.text)) {
            Ok(text) => Lexeme::String(text),
            Err(_) => Lexeme::Malformed("invalid UTF-8 sequence in string".into()),
        })
    }

    fn in_escape(&mut self, quote: u8, byte: u8) {
        self.state = State::String(quote);
        let decoded = match byte {
            b'u' => {
                self.state = State::Unicode(quote, 0, 0);
                return;
            }
            b'"' | b'\'' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0C,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            _ => {
                self.string_wrong(|| "invalid escape sequence in string".into());
                return;
            }
        };
        self.require_no_surrogate();
        self.keep(decoded);
    }

    /// Returns whether `byte` was used.
    fn in_unicode(&mut self, quote: u8, digits: u8, value: u16, byte: u8) -> bool {
        let Some(digit) = char::from(byte).to_digit(16) else {
            self.state = State::String(quote);
            self.string_wrong(|| {
                let seen = usize::from(digits);
                let text = format!("{value:0seen$x}");
                let text = if seen == 0 { "" } else { &text };
                format!(
                    "\\u{text}{} is not a valid Unicode character",
                    printable(byte)
                )
            });
            return byte != quote && byte != b'\\';
        };
        // A hexadecimal digit fits any integer type.
        let value = (value << 4) | u16::try_from(digit).unwrap_or(0);
        if digits < 3 {
            self.state = State::Unicode(quote, digits + 1, value);
        } else {
            self.state = State::String(quote);
            self.code_unit(value);
        }
        true
    }

    /// Adds one UTF-16 code unit, joining surrogate pairs.
    fn code_unit(&mut self, unit: u16) {
        let pair = match (self.high_surrogate.take(), unit) {
            (Some(high), 0xDC00..0xE000) => [high, unit],
            (None, 0xD800..0xDC00) => {
                self.high_surrogate = Some(unit);
                return;
            }
            (Some(high), _) => return self.lone_surrogate(high),
            (None, _) => return self.code_point(unit),
        };
        for character in char::decode_utf16(pair).flatten() {
            self.keep_char(character);
        }
    }

    fn code_point(&mut self, unit: u16) {
        match char::from_u32(u32::from(unit)) {
            Some(character) => self.keep_char(character),
            None => self.lone_surrogate(unit),
        }
    }

    fn keep_char(&mut self, character: char) {
        let mut buffer = [0; 4];
        for byte in character.encode_utf8(&mut buffer).bytes() {
            self.keep(byte);
        }
    }

    fn require_no_surrogate(&mut self) {
        if let Some(high) = self.high_surrogate.take() {
            self.lone_surrogate(high);
        }
    }

    fn lone_surrogate(&mut self, unit: u16) {
        self.string_wrong(|| format!("\\u{unit:04x} is not a valid Unicode character"));
    }

    fn string_wrong(&mut self, text: impl FnOnce() -> String) {
        if self.string_error.is_none() && !self.discarding {
            self.string_error = Some(text());
        }
    }

    fn keep(&mut self, byte: u8) {
        if !self.discarding {
            self.text.push(byte);
        }
    }

    fn take_lossy(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.text)).into_owned()
    }
}

/// Whether `byte` can be in no JSON text, outside white space: a control character, or one no
/// UTF-8 text has.
fn resets(byte: u8) -> bool {
    !(0x20..0xFE).contains(&byte)
}

/// How a byte that begins no token is shown.
fn printable(byte: u8) -> char {
    if byte.is_ascii() {
        char::from(byte)
    } else {
        char::REPLACEMENT_CHARACTER
    }
}

/// Stands for any scalar of a message whose content no longer matters.
fn null_lexeme() -> Lexeme {
    Lexeme::Word("null".into())
}

/// Reads a number's text, which the lexer has already found to be well formed.
fn number(text: &str) -> Lexeme {
    let exact = if text.starts_with('-') {
        text.parse::<i64>().ok().map(Number::from)
    } else {
        text.parse::<u64>().ok().map(Number::from)
    };
    match exact.or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64)) {
        Some(number) => Lexeme::Number(number),
        None => Lexeme::Malformed("number out of range".into()),
    }
}
