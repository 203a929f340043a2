//! Machine versions: the guest-visible hardware contract a guest is given.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words::Word;

/// The machine version: device set, memory layout, interrupt lines and CPUID defaults. It never
/// changes under a guest; another machine gets another number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MachineVersion {
    /// x86-64 with virtio-mmio devices and hardware-reduced ACPI.
    #[default]
    #[serde(rename = "thimble-1")]
    Thimble1,
}

impl MachineVersion {
    /// Virtio devices the machine has room for: its virtio-mmio slots.
    pub fn device_slots(self) -> usize {
        match self {
            Self::Thimble1 => 17,
        }
    }
}

impl Word for MachineVersion {
    const ALL: &'static [Self] = &[Self::Thimble1];

    fn word(self) -> &'static str {
        match self {
            Self::Thimble1 => "thimble-1",
        }
    }
}
