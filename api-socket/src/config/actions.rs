//! What the end of a guest leads to: the types and defaults of QEMU's `set-action`, which changes
//! it later.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words::Word;
use crate::qmp::types::{PanicAction, RebootAction, ShutdownAction};

/// What thimble does when the guest ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Actions {
    /// When the guest reboots.
    pub on_reboot: RebootAction,
    /// When the guest powers off.
    pub on_poweroff: ShutdownAction,
    /// When the guest says that it panicked.
    pub on_panic: PanicAction,
}

impl Word for RebootAction {
    const ALL: &'static [Self] = &[Self::Reset, Self::Shutdown];

    fn word(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Shutdown => "shutdown",
        }
    }
}

impl Word for ShutdownAction {
    const ALL: &'static [Self] = &[Self::Poweroff, Self::Pause];

    fn word(self) -> &'static str {
        match self {
            Self::Poweroff => "poweroff",
            Self::Pause => "pause",
        }
    }
}

impl Word for PanicAction {
    const ALL: &'static [Self] = &[Self::Pause, Self::Shutdown, Self::ExitFailure, Self::None];

    fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
            Self::ExitFailure => "exit-failure",
            Self::None => "none",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_qemus() {
        let actions = Actions::default();
        assert_eq!(actions.on_reboot, RebootAction::Reset);
        assert_eq!(actions.on_poweroff, ShutdownAction::Poweroff);
        assert_eq!(actions.on_panic, PanicAction::Shutdown);
    }
}
