//! What thimble logs about itself, and where.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::check_path;
use super::problem::{KeyPath, Problems};
use super::words::Word;

/// What thimble logs about itself, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Log {
    /// The least important messages that are logged.
    pub level: LogLevel,
    /// The file that messages are appended to; by default they go to standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4095))]
    pub file: Option<PathBuf>,
}

/// How much is logged; each level includes those before it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// What is probably not as wanted.
    #[default]
    Warn,
    /// What happens in the machine's life.
    Info,
    /// What a developer of thimble wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl Log {
    /// Its rules.
    pub(super) fn check(&self, at: &KeyPath, problems: &mut Problems) {
        if let Some(file) = &self.file {
            check_path(file, &at.key("file"), problems);
        }
    }
}

impl Word for LogLevel {
    const ALL: &'static [Self] = &[
        Self::Off,
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
