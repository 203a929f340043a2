//! The saved form of device state.
//!
//! A saved type is never a running type: it is plain data in its own module beside the device,
//! versioned, and restoring is a fallible conversion, because the bytes may come from anywhere.

use std::fmt;

/// A device whose state can be taken and put back.
///
/// Both calls are made only while the machine is quiesced: vCPUs held, workers taken back.
pub trait Saved {
    /// The plain form.
    type State: fmt::Debug + Clone + PartialEq + serde::Serialize + serde::de::DeserializeOwned;

    /// The section's kind, unique among devices; part of the snapshot format.
    const KIND: &'static str;

    /// Version of [`Self::State`], raised on every change of its meaning.
    const VERSION: u32;

    /// Takes the state. Written with a full destructuring, so that a new field cannot be forgotten.
    fn save(&self) -> Self::State;

    /// Puts a state back.
    ///
    /// # Errors
    /// [`BadState`] names the field that cannot be; the device is then as it was before the call.
    fn restore(&mut self, state: &Self::State) -> Result<(), BadState>;
}

/// A saved state that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("saved state of {kind}: {field}: {problem}")]
pub struct BadState {
    /// The section's kind.
    pub kind: &'static str,
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}
