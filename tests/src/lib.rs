//! The harness of thimble's system tests. It drives built binaries from outside: it starts guests,
//! types at them, talks to their control sockets and looks at how they end.
//!
//! Floor 2 (`tests/kvm`) starts guests on this machine's KVM by [`guest::Launch`]. Floor 3
//! (`tests/linux`) runs shell scripts where stock Linux guests work, by [`host::Host`]: this
//! machine, or a [`testbed`] machine. docs/testing.md tells the whole.
//!
//! Everything here is called on the thread of one test, and fails by panicking with what a reader
//! of the test's output needs: the logs. Waiting is for an event with a limit, never for a time.

pub mod built;
pub mod control;
pub mod guest;
pub mod guests;
pub mod host;
pub mod image;
pub mod linux;
pub mod obey;
pub mod skip;
pub mod testbed;
pub mod wait;
