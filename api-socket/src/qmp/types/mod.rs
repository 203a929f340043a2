//! Arguments, return values and event data, by subject; field names are QEMU's.
//!
//! Plain data: the VMM fills and reads them, the session turns them into JSON and back, and
//! [`super::schema`] describes them to clients. A member that may be absent is an `Option`, and
//! absent is not the same as `null`. Integers that QEMU calls `int` are `i64` in arguments; those
//! it calls `size` are `u64`, in bytes unless the text says otherwise.

mod block;
mod chardev;
mod cpu;
mod dump;
mod event_data;
mod fd;
mod introspection;
mod job;
mod machine;
mod memory;
mod net;
mod run_state;
mod session;
mod stats;
mod yank;

pub use block::*;
pub use chardev::*;
pub use cpu::*;
pub use dump::*;
pub use event_data::*;
pub use fd::*;
pub use introspection::*;
pub use job::*;
pub use machine::*;
pub use memory::*;
pub use net::*;
pub use run_state::*;
pub use session::*;
pub use stats::*;
pub use yank::*;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// No members: the return of a command that returns nothing, and the arguments of one that has
/// none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}
