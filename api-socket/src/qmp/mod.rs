//! The QMP-like control protocol: commands, events, framing, sessions, and the socket under them.
//!
//! A connection is a [`session::Session`]: bytes and descriptors in, requests out, replies and
//! events back in, bytes out. It has no descriptor of its own, no clock and no thread.
//! [`socket::Connection`] gives it a Unix socket; [`client::Client`] is the other end. What may be
//! asked is one list, [`command::Command`]; what is told unasked is another, [`event::Event`].
//! Replies and arguments are the plain types of [`types`]; `query-qmp-schema` and the checking of
//! arguments are both derived from those types by [`schema`].
//!
//! The wire form is QMP's (QEMU 10.0, `docs/interop/qmp-spec.rst`); docs/control-socket.md lists
//! what is there and where thimble differs.

pub mod client;
pub mod command;
pub mod error;
pub mod event;
pub mod json;
pub mod schema;
pub mod session;
pub mod socket;
pub mod throttle;
pub mod types;

mod introspect;

#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod session_tests;
