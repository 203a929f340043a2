//! What the guest boots: kernel, initial ramdisk and command line.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::check_path;
use super::problem::{KeyPath, Problems};

/// Longest kernel command line, in bytes without the final NUL: `COMMAND_LINE_SIZE` of x86
/// Linux (arch/x86/include/asm/setup.h) is 2048 with it.
pub const CMDLINE_LIMIT: usize = 2047;

/// What the guest boots. Without a path the built-in guest starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Kernel {
    /// The kernel: an ELF vmlinux or a bzImage.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4095))]
    pub path: Option<PathBuf>,
    /// The initial ramdisk. Needs `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4095))]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line, at most 2047 bytes. Needs `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2047))]
    pub cmdline: Option<String>,
}

/// A kernel to boot, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckedKernel {
    /// The kernel's file.
    pub path: PathBuf,
    /// The initial ramdisk's file.
    pub initrd: Option<PathBuf>,
    /// The command line, at most [`CMDLINE_LIMIT`] bytes, empty if none was given.
    pub cmdline: String,
}

impl Kernel {
    /// Its rules; `None` is the built-in guest.
    pub(super) fn check(&self, at: &KeyPath, problems: &mut Problems) -> Option<CheckedKernel> {
        let Self {
            path,
            initrd,
            cmdline,
        } = self;
        if let Some(path) = path {
            check_path(path, &at.key("path"), problems);
        }
        if let Some(initrd) = initrd {
            check_path(initrd, &at.key("initrd"), problems);
        }
        if let Some(cmdline) = cmdline {
            check_cmdline(cmdline, &at.key("cmdline"), problems);
        }
        let orphan = match (path, initrd, cmdline) {
            (Some(_), _, _) | (None, None, None) => None,
            (None, Some(_), None) => Some(("an initrd", "it")),
            (None, None, Some(_)) => Some(("a command line", "it")),
            (None, Some(_), Some(_)) => Some(("an initrd and a command line", "them")),
        };
        if let Some((given, them)) = orphan {
            problems.push(
                at.key("path"),
                format!("is missing, but {given} is given for it"),
                format!("name the kernel, or leave {them} out"),
            );
        }
        path.as_ref().map(|path| CheckedKernel {
            path: path.clone(),
            initrd: initrd.clone(),
            cmdline: cmdline.clone().unwrap_or_default(),
        })
    }
}

fn check_cmdline(cmdline: &str, at: &KeyPath, problems: &mut Problems) {
    if cmdline.len() > CMDLINE_LIMIT {
        let what = format!("is {} bytes long", cmdline.len());
        problems.push(at.clone(), what, format!("use at most {CMDLINE_LIMIT}"));
    }
    if cmdline.chars().any(|c| c.is_control() && c != '\t') {
        problems.push(
            at.clone(),
            "holds a control character",
            "write it on one line",
        );
    }
}
