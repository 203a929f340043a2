//! Disks: virtio-blk devices on raw images or block devices.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::{check_id, check_path};
use super::problem::{KeyPath, Problems};
use super::words::Word;

/// Longest serial number of a disk, in bytes: `VIRTIO_BLK_ID_BYTES`, virtio 1.3 section 5.2.6.
pub const SERIAL_LIMIT: usize = 20;

/// A disk. The guest sees a virtio-blk device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Disk {
    /// The device's id in control commands: a letter, then letters, digits, `-`, `.` and `_`.
    /// By default `disk0`, `disk1` and so on, by its place in the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^[A-Za-z][A-Za-z0-9._-]*$"), length(max = 127))]
    pub id: Option<String>,
    /// The image file or block device.
    #[schemars(length(min = 1, max = 4095))]
    pub path: PathBuf,
    /// Whether the guest is kept from writing. Only disks that are all read-only may share a
    /// path.
    #[serde(default)]
    pub readonly: bool,
    /// What the file holds.
    #[serde(default)]
    pub format: DiskFormat,
    /// How the host caches, and when a write counts as done.
    #[serde(default)]
    pub cache: Cache,
    /// The serial number the guest reads, at most 20 bytes of printable ASCII.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    pub serial: Option<String>,
    /// What happens when a write fails on the host.
    #[serde(default)]
    pub werror: WriteErrorAction,
    /// What happens when a read fails on the host.
    #[serde(default)]
    pub rerror: ReadErrorAction,
    /// What happens when the guest discards blocks.
    #[serde(default)]
    pub discard: Discard,
}

/// What a disk's file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// The disk's blocks, one after the other.
    #[default]
    Raw,
}

/// How a disk is cached, by QEMU's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cache {
    /// In the host's page cache; the guest's flushes are obeyed.
    #[default]
    Writeback,
    /// Not in the page cache (`O_DIRECT`); the guest's flushes are obeyed.
    None,
    /// In the host's page cache; every write is flushed.
    Writethrough,
    /// Not in the page cache; every write is flushed.
    Directsync,
    /// In the host's page cache; flushes are ignored. A host crash loses data.
    Unsafe,
}

/// What a failed write leads to, by QEMU's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WriteErrorAction {
    /// The guest is told of the error.
    Report,
    /// The guest is told that the write succeeded.
    Ignore,
    /// On a full disk the guest is paused and the write kept; other errors are reported.
    #[default]
    Enospc,
    /// The guest is paused and the write kept.
    Stop,
}

/// What a failed read leads to, by QEMU's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReadErrorAction {
    /// The guest is told of the error.
    #[default]
    Report,
    /// The guest is told that the read succeeded.
    Ignore,
    /// The guest is paused and the read kept.
    Stop,
}

/// What a discard leads to, by QEMU's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Discard {
    /// The blocks are given back to the host.
    #[default]
    Unmap,
    /// Nothing; the guest is not offered it.
    Ignore,
}

/// A disk, checked: as written, with its id settled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckedDisk {
    /// The device's id, unlike that of any other device.
    pub id: String,
    /// The image file or block device.
    pub path: PathBuf,
    /// Whether the guest is kept from writing.
    pub readonly: bool,
    /// What the file holds.
    pub format: DiskFormat,
    /// How the host caches.
    pub cache: Cache,
    /// The serial number, at most [`SERIAL_LIMIT`] bytes of printable ASCII.
    pub serial: Option<String>,
    /// What a failed write leads to.
    pub werror: WriteErrorAction,
    /// What a failed read leads to.
    pub rerror: ReadErrorAction,
    /// What a discard leads to.
    pub discard: Discard,
}

impl Disk {
    /// The id of the disk at `index`, from 0, of the list.
    pub(super) fn id_at(&self, index: usize) -> String {
        self.id.clone().unwrap_or_else(|| format!("disk{index}"))
    }

    /// The rules for one disk alone; `index` is its place in the list.
    pub(super) fn check(&self, index: usize, at: &KeyPath, problems: &mut Problems) -> CheckedDisk {
        if let Some(id) = &self.id {
            check_id(id, &at.key("id"), problems);
        }
        check_path(&self.path, &at.key("path"), problems);
        if let Some(serial) = &self.serial {
            check_serial(serial, &at.key("serial"), problems);
        }
        CheckedDisk {
            id: self.id_at(index),
            path: self.path.clone(),
            readonly: self.readonly,
            format: self.format,
            cache: self.cache,
            serial: self.serial.clone(),
            werror: self.werror,
            rerror: self.rerror,
            discard: self.discard,
        }
    }
}

fn check_serial(serial: &str, at: &KeyPath, problems: &mut Problems) {
    if serial.len() > SERIAL_LIMIT {
        let what = format!("is {} bytes long", serial.len());
        problems.push(at.clone(), what, format!("use at most {SERIAL_LIMIT}"));
    }
    if !serial.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        problems.push(
            at.clone(),
            "holds something other than printable ASCII",
            "use letters, digits and punctuation",
        );
    }
}

impl Word for DiskFormat {
    const ALL: &'static [Self] = &[Self::Raw];

    fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
        }
    }
}

impl Word for Cache {
    const ALL: &'static [Self] = &[
        Self::Writeback,
        Self::None,
        Self::Writethrough,
        Self::Directsync,
        Self::Unsafe,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Writeback => "writeback",
            Self::None => "none",
            Self::Writethrough => "writethrough",
            Self::Directsync => "directsync",
            Self::Unsafe => "unsafe",
        }
    }
}

impl Word for WriteErrorAction {
    const ALL: &'static [Self] = &[Self::Report, Self::Ignore, Self::Enospc, Self::Stop];

    fn word(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Ignore => "ignore",
            Self::Enospc => "enospc",
            Self::Stop => "stop",
        }
    }
}

impl Word for ReadErrorAction {
    const ALL: &'static [Self] = &[Self::Report, Self::Ignore, Self::Stop];

    fn word(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Ignore => "ignore",
            Self::Stop => "stop",
        }
    }
}

impl Word for Discard {
    const ALL: &'static [Self] = &[Self::Unmap, Self::Ignore];

    fn word(self) -> &'static str {
        match self {
            Self::Unmap => "unmap",
            Self::Ignore => "ignore",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_qemus() {
        let disk: Disk = serde_json::from_str(r#"{"path": "a.img"}"#).unwrap();
        assert_eq!(disk.cache, Cache::Writeback);
        assert_eq!(disk.werror, WriteErrorAction::Enospc);
        assert_eq!(disk.rerror, ReadErrorAction::Report);
        assert_eq!(disk.discard, Discard::Unmap);
        assert!(!disk.readonly);
        assert_eq!(disk.id_at(3), "disk3");
    }
}
