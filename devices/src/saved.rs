//! The saved form of device state.
//!
//! A saved type is never a running type: it is plain data in its own module beside the device,
//! versioned, and restoring is a fallible conversion, because the bytes may come from anywhere.
//!
//! Whatever of a device a guest can change is in one of these, or the device says why it is not:
//! pvpanic has no state, the VM generation ID lies in guest memory, and a character device's bytes
//! belong to the process that has its host side.

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

#[cfg(test)]
mod tests {
    use super::Saved;
    use crate::legacy::{i8042::I8042, power::PowerBlock, rtc::Rtc, serial::Serial};
    use crate::virtio::transport::mmio::MmioTransport;

    fn section<D: Saved>() -> (&'static str, u32) {
        (D::KIND, D::VERSION)
    }

    /// Names and versions of the sections of a snapshot. A version goes up when what it means
    /// changes; a name never changes.
    #[test]
    fn sections_have_names_of_their_own() {
        let mut sections = [
            section::<Serial>(),
            section::<Rtc>(),
            section::<I8042>(),
            section::<PowerBlock>(),
            section::<MmioTransport>(),
        ];
        sections.sort_unstable();
        let expected = [
            ("i8042", 1),
            ("power", 1),
            ("rtc", 1),
            ("serial", 1),
            ("virtio-mmio", 1),
        ];
        assert_eq!(sections, expected);
    }
}
