//! Sockets between guest and host: a virtio-vsock device, Unix sockets on the host.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::{SOCKET_PATH_LIMIT, check_id, check_socket_path};
use super::problem::{KeyPath, Problems};

/// The id of the device unless another is given.
const DEFAULT_ID: &str = "vsock0";

/// The guest's address unless another is given: the least there is.
const DEFAULT_CID: u32 = CID_MIN;

/// The least address of a guest: virtio 1.2 section 5.10.4.
pub const CID_MIN: u32 = 3;
/// The greatest.
pub const CID_MAX: u32 = u32::MAX - 1;

/// What a port adds to the path at most: `_4294967295`.
const PORT_SUFFIX: usize = 11;
/// Longest path, so that every port's has room.
const PATH_LIMIT: usize = SOCKET_PATH_LIMIT - PORT_SUFFIX;
/// Longest file name: thimble reaches `PATH_PORT` by way of `/proc/self/fd/NUMBER`.
const NAME_LIMIT: usize = 75;

/// Sockets between guest and host. The guest sees a virtio-vsock device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Vsock {
    /// The device's id in control commands, by default `vsock0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^[A-Za-z][A-Za-z0-9._-]*$"), length(max = 127))]
    pub id: Option<String>,
    /// The guest's address, by default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 3, max = 4_294_967_294_u32))]
    pub cid: Option<u32>,
    /// A unix socket to create, with mode 0600, where host programs connect to the guest. What the
    /// guest connects to on the host is the socket at this path with `_PORT` added.
    #[schemars(length(min = 1, max = 96))]
    pub path: PathBuf,
}

/// Sockets between guest and host, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckedVsock {
    /// The device's id, unlike that of any other device.
    pub id: String,
    /// The guest's address, [`CID_MIN`] to [`CID_MAX`].
    pub cid: u32,
    /// Where to listen, and what the paths of the host's services begin with.
    pub path: PathBuf,
}

impl Vsock {
    /// Its rules.
    pub(super) fn check(&self, at: &KeyPath, problems: &mut Problems) -> CheckedVsock {
        let id = self.id.as_deref().unwrap_or(DEFAULT_ID);
        check_id(id, &at.key("id"), problems);
        let cid = self.cid.unwrap_or(DEFAULT_CID);
        if !(CID_MIN..=CID_MAX).contains(&cid) {
            let what = format!("{cid} cannot be a guest's address");
            problems.push(at.key("cid"), what, format!("use {CID_MIN} to {CID_MAX}"));
        }
        check_path(&self.path, &at.key("path"), problems);
        CheckedVsock {
            id: id.to_owned(),
            cid,
            path: self.path.clone(),
        }
    }
}

fn check_path(path: &Path, at: &KeyPath, problems: &mut Problems) {
    check_socket_path(path, at, problems);
    let length = path.as_os_str().len();
    if (PATH_LIMIT + 1..=SOCKET_PATH_LIMIT).contains(&length) {
        let what = format!("is {length} bytes long, which leaves no room for _PORT");
        problems.push(
            at.clone(),
            what,
            format!("use a path of at most {PATH_LIMIT} bytes"),
        );
    }
    match path.file_name() {
        None if length > 0 => {
            problems.push(at.clone(), "has no file name", "give the path of a socket");
        }
        Some(name) if name.len() > NAME_LIMIT && length <= PATH_LIMIT => {
            let what = format!("has a file name of {} bytes", name.len());
            problems.push(at.clone(), what, format!("use at most {NAME_LIMIT}"));
        }
        _ => {}
    }
}
