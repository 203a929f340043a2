//! Lexemes to values, with limits, one error per refused message, and resynchronisation.
//!
//! Called by sessions (main thread) and clients as bytes arrive. A value is given out when its
//! brackets balance; a number or word outside any bracket when its token ends. The first thing
//! wrong with a message is reported at once, the rest of the message is then read without being
//! kept until its brackets balance. A control character or a 0xFE or 0xFF byte forgets everything.

use serde_json::{Map, Value};

use super::lexer::{Lexeme, Lexer};

/// Bounds on one message (one outermost value).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the message, white space between tokens not counted.
    pub message_bytes: usize,
    /// Tokens of the message.
    pub tokens: usize,
    /// Arrays and objects inside each other.
    pub depth: usize,
}

impl Default for Limits {
    /// 1 MiB and 65,536 tokens: far above any command, and at most a few MiB of memory for each
    /// connection (QEMU allows 64 MiB and 2 Mi tokens). The depth is QEMU's 1,024.
    fn default() -> Self {
        Self {
            message_bytes: 1 << 20,
            tokens: 1 << 16,
            depth: 1024,
        }
    }
}

/// Why a message is not JSON, in QEMU's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

fn syntax(what: impl std::fmt::Display) -> ParseError {
    ParseError(format!("JSON parse error, {what}"))
}

/// An array or object that is not closed yet.
#[derive(Debug)]
enum Frame {
    Array(Vec<Value>),
    /// The key is that of the member being read.
    Object(Map<String, Value>, String),
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    /// After `[`.
    ValueOrEnd,
    /// After `{`.
    KeyOrEnd,
    /// After `,` in an object.
    Key,
    Colon,
    SeparatorOrEnd,
}

/// Reads a stream of JSON values. Behaves the same however the stream is cut into pieces.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    lexer: Lexer,
    stack: Vec<Frame>,
    expect: Expect,
    /// Open `{` and open `[`, counted apart as QEMU does: either below zero ends the message.
    braces: i64,
    brackets: i64,
    tokens: usize,
    /// Whether the present message has been refused and is being read to its end.
    skipping: bool,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Parser {
    /// A parser at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            lexer: Lexer::new(limits.message_bytes),
            stack: Vec::new(),
            expect: Expect::Value,
            braces: 0,
            brackets: 0,
            tokens: 0,
            skipping: false,
        }
    }

    /// Takes bytes off `input` until a value or an error is complete. `None`: `input` is used up
    /// and more is needed.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Result<Value, ParseError>> {
        while let Some(lexeme) = self.lexer.next(input) {
            if let Some(outcome) = self.take(lexeme) {
                return Some(outcome);
            }
        }
        None
    }

    fn take(&mut self, lexeme: Lexeme) -> Option<Result<Value, ParseError>> {
        if let Lexeme::Reset(byte) = lexeme {
            self.begin_message();
            return Some(Err(syntax(format_args!("stray '{byte}'"))));
        }
        let ended = self.count(&lexeme);
        if self.skipping {
            if ended {
                self.begin_message();
            }
            return None;
        }
        let outcome = match self.check_limits(&lexeme).and_then(|()| self.place(lexeme)) {
            Ok(None) => return None,
            Ok(Some(value)) => Ok(value),
            Err(error) => Err(error),
        };
        if ended || outcome.is_ok() {
            self.begin_message();
        } else {
            self.skipping = true;
            self.stack = Vec::new();
            self.lexer.discard();
        }
        Some(outcome)
    }

    fn begin_message(&mut self) {
        self.stack.clear();
        self.expect = Expect::Value;
        self.braces = 0;
        self.brackets = 0;
        self.tokens = 0;
        self.skipping = false;
        self.lexer.begin_message(self.limits.message_bytes);
    }

    /// Counts brackets and says whether the message ends with `lexeme`.
    fn count(&mut self, lexeme: &Lexeme) -> bool {
        match lexeme {
            Lexeme::Punctuation(b'{') => self.braces = self.braces.saturating_add(1),
            Lexeme::Punctuation(b'}') => self.braces -= 1,
            Lexeme::Punctuation(b'[') => self.brackets = self.brackets.saturating_add(1),
            Lexeme::Punctuation(b']') => self.brackets -= 1,
            // The lexer is still inside the token that grew too long.
            Lexeme::TooLong => return false,
            Lexeme::Stray(_) if self.braces == 0 && self.brackets == 0 => self.lexer.recover(),
            _ => {}
        }
        let inside = self.braces > 0 || self.brackets > 0;
        !(inside && self.braces >= 0 && self.brackets >= 0)
    }

    fn check_limits(&mut self, lexeme: &Lexeme) -> Result<(), ParseError> {
        if *lexeme == Lexeme::TooLong {
            return Err(ParseError("JSON token size limit exceeded".into()));
        }
        self.tokens += 1;
        if self.tokens > self.limits.tokens {
            return Err(ParseError("JSON token count limit exceeded".into()));
        }
        let opens = matches!(lexeme, Lexeme::Punctuation(b'{' | b'['));
        if opens && self.stack.len() >= self.limits.depth {
            return Err(ParseError("JSON nesting depth limit exceeded".into()));
        }
        Ok(())
    }

    /// Puts one lexeme in its place. Some: the outermost value is complete.
    fn place(&mut self, lexeme: Lexeme) -> Result<Option<Value>, ParseError> {
        let lexeme = match lexeme {
            Lexeme::Malformed(what) => return Err(syntax(what)),
            Lexeme::Stray(text) => return Err(syntax(format_args!("stray '{text}'"))),
            Lexeme::Word(word) if !matches!(word.as_str(), "true" | "false" | "null") => {
                return Err(syntax(format_args!("invalid keyword '{word}'")));
            }
            other => other,
        };
        match self.expect {
            Expect::Value | Expect::ValueOrEnd => self.place_value(lexeme),
            Expect::KeyOrEnd if lexeme == Lexeme::Punctuation(b'}') => self.close(),
            Expect::Key | Expect::KeyOrEnd => self.place_key(lexeme),
            Expect::Colon => {
                if lexeme != Lexeme::Punctuation(b':') {
                    return Err(syntax("missing : in object pair"));
                }
                self.expect = Expect::Value;
                Ok(None)
            }
            Expect::SeparatorOrEnd => self.place_separator(&lexeme),
        }
    }

    fn place_value(&mut self, lexeme: Lexeme) -> Result<Option<Value>, ParseError> {
        match lexeme {
            Lexeme::Punctuation(b'{') => {
                self.stack.push(Frame::Object(Map::new(), String::new()));
                self.expect = Expect::KeyOrEnd;
                Ok(None)
            }
            Lexeme::Punctuation(b'[') => {
                self.stack.push(Frame::Array(Vec::new()));
                self.expect = Expect::ValueOrEnd;
                Ok(None)
            }
            Lexeme::Punctuation(b']') if self.expect == Expect::ValueOrEnd => self.close(),
            Lexeme::String(text) => Ok(self.finish(Value::String(text))),
            Lexeme::Number(number) => Ok(self.finish(Value::Number(number))),
            Lexeme::Word(word) => Ok(self.finish(match word.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => Value::Null,
            })),
            _ => Err(syntax("expecting value")),
        }
    }

    fn place_key(&mut self, lexeme: Lexeme) -> Result<Option<Value>, ParseError> {
        match lexeme {
            Lexeme::String(name) => {
                if let Some(Frame::Object(members, key)) = self.stack.last_mut() {
                    if members.contains_key(&name) {
                        return Err(syntax("duplicate key"));
                    }
                    *key = name;
                }
                self.expect = Expect::Colon;
                Ok(None)
            }
            Lexeme::Punctuation(b'}' | b']' | b':' | b',') => Err(syntax("expecting value")),
            _ => Err(syntax("key is not a string in object")),
        }
    }

    fn place_separator(&mut self, lexeme: &Lexeme) -> Result<Option<Value>, ParseError> {
        match (self.stack.last(), lexeme) {
            (Some(Frame::Array(_)), Lexeme::Punctuation(b',')) => {
                self.expect = Expect::Value;
                Ok(None)
            }
            (Some(Frame::Object(..)), Lexeme::Punctuation(b',')) => {
                self.expect = Expect::Key;
                Ok(None)
            }
            (Some(Frame::Array(_)), Lexeme::Punctuation(b']'))
            | (Some(Frame::Object(..)), Lexeme::Punctuation(b'}')) => self.close(),
            (Some(Frame::Array(_)), _) => Err(syntax("expected separator in list")),
            _ => Err(syntax("expected separator in dict")),
        }
    }

    /// Closes the innermost array or object.
    fn close(&mut self) -> Result<Option<Value>, ParseError> {
        match self.stack.pop() {
            Some(Frame::Array(items)) => Ok(self.finish(Value::Array(items))),
            Some(Frame::Object(members, _)) => Ok(self.finish(Value::Object(members))),
            None => Err(syntax("expecting value")),
        }
    }

    /// Hands a finished value to what encloses it, or out.
    fn finish(&mut self, value: Value) -> Option<Value> {
        match self.stack.last_mut() {
            None => return Some(value),
            Some(Frame::Array(items)) => items.push(value),
            Some(Frame::Object(members, key)) => {
                members.insert(std::mem::take(key), value);
            }
        }
        self.expect = Expect::SeparatorOrEnd;
        None
    }
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
