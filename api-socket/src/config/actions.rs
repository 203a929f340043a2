//! What the end of a guest leads to: the values and defaults of QEMU's `set-action`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words::Word;

/// What thimble does when the guest ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Actions {
    /// When the guest reboots.
    pub on_reboot: RebootAction,
    /// When the guest powers off.
    pub on_poweroff: PoweroffAction,
    /// When the guest says that it panicked.
    pub on_panic: PanicAction,
}

/// What a guest's reboot leads to (QEMU's `RebootAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RebootAction {
    /// The machine is reset and starts again.
    #[default]
    Reset,
    /// The machine is shut down.
    Shutdown,
}

/// What a guest's power-off leads to (QEMU's `ShutdownAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PoweroffAction {
    /// thimble ends.
    #[default]
    Poweroff,
    /// The machine stays, stopped, and the control socket goes on answering.
    Pause,
}

/// What a guest's panic leads to (QEMU's `PanicAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PanicAction {
    /// The machine stays, stopped, and the control socket goes on answering.
    Pause,
    /// The machine is shut down.
    #[default]
    Shutdown,
    /// The machine is shut down and thimble's exit status says that the guest crashed.
    ExitFailure,
    /// Nothing but the event.
    None,
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

impl Word for PoweroffAction {
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
        assert_eq!(actions.on_poweroff, PoweroffAction::Poweroff);
        assert_eq!(actions.on_panic, PanicAction::Shutdown);
    }
}
