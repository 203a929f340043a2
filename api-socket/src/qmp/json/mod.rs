//! JSON as QMP speaks it: an incremental reader of values that follow each other with or without
//! white space, and a writer of single ASCII lines.
//!
//! Called by sessions on the main thread and by clients. No recursion on the reading side, and
//! every allocation is bounded by [`Limits`].

mod lexer;
mod parser;
mod writer;

pub use parser::{Limits, ParseError, Parser};
pub use writer::{to_json, write_json};
