//! Making and inheriting tap devices. The launcher calls this before the sandbox closes; from then
//! on there are only the descriptors.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::tap::{InterfaceRequest, NAME_SIZE, TapBackend, ask};

/// The device whose descriptors become taps.
const TUN: &str = "/dev/net/tun";

/// Why a tap cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// ENOENT, ENODEV, ENXIO on `/dev/net/tun`.
    #[error("{TUN} is not there; load the module (modprobe tun), or let the container have it")]
    NoDriver,
    /// EACCES, EPERM on `/dev/net/tun`.
    #[error(
        "no permission to open {TUN}; as root: chmod 666 {TUN} (the interfaces' own permissions \
         stay), or hand over an opened tap with fd=N"
    )]
    DevicePermission,
    /// The name is not one an interface can have.
    #[error("{0:?} is not a name of an interface; use 1 to 15 bytes without / and spaces")]
    Name(String),
    /// EPERM, and there is such an interface.
    #[error(
        "{0}: this interface is another user's; as root: ip tuntap del {0} mode tap, then \
         ip tuntap add {0} mode tap user $USER"
    )]
    NotYours(String),
    /// EPERM, and there is no such interface.
    #[error(
        "{0}: there is no such interface, and making one takes the capability CAP_NET_ADMIN; as \
         root: ip tuntap add {0} mode tap user $USER && ip link set {0} up"
    )]
    Missing(String),
    /// EBUSY.
    #[error("{0}: another process uses this interface; stop that, or choose another")]
    Busy(String),
    /// EINVAL: another kind of interface.
    #[error("{0}: is not a tap interface; make one with ip tuntap add NAME mode tap")]
    NotATap(String),
    /// EINVAL: a tap made for one queue.
    #[error(
        "{0}: was made for one queue; make it with ip tuntap add {0} mode tap multi_queue, or \
         leave queues out"
    )]
    OneQueue(String),
    /// E2BIG, or the kernel attaches no more.
    #[error("{name}: the kernel gives it no queue number {queue}; use fewer")]
    Queues {
        /// The interface.
        name: String,
        /// From 1.
        queue: u16,
    },
    /// An inherited descriptor that is none of a tap.
    #[error("fd={0} is not an opened tap; open {TUN} and attach it by TUNSETIFF before")]
    InheritedNotATap(RawFd),
    /// An inherited tap without the header.
    #[error("fd={0}: the tap was not opened as this needs it: {1}")]
    InheritedMode(RawFd, &'static str),
    /// Inherited queues of different interfaces.
    #[error(
        "fd={fd} is of interface {name}, but the first descriptor of {first}; give each its card"
    )]
    InheritedMixed {
        /// The descriptor.
        fd: RawFd,
        /// Its interface.
        name: String,
        /// That of the first.
        first: String,
    },
    /// Anything else the host answered.
    #[error("{name}: cannot {what}")]
    Host {
        /// The interface.
        name: String,
        /// What was tried.
        what: &'static str,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

/// A tap, ready to be a backend.
#[derive(Debug)]
pub struct OpenTap {
    /// The interface's name.
    pub name: String,
    /// The backend.
    pub backend: TapBackend,
    /// Whether the interface was made now; it goes with the last descriptor.
    pub created: bool,
    /// Whether the interface is up. Frames to one that is down are lost.
    pub up: bool,
}

/// Attaches to the tap `name` with `queues` queues, at least 1. Makes the interface if there is
/// none and it may.
///
/// # Errors
/// [`OpenError`].
pub fn by_name(name: &str, queues: u16) -> Result<OpenTap, OpenError> {
    let raw = raw_name(name)?;
    let existed = index(name);
    let several = queues > 1;
    let mut fds = Vec::new();
    match attach(name, raw, several) {
        Ok(fd) => fds.push(fd),
        // Whether it was made for several queues shows only by trying.
        Err(OpenError::NotATap(_)) => match attach(name, raw, !several) {
            Ok(_) if several => return Err(OpenError::OneQueue(name.to_owned())),
            other => fds.push(other?),
        },
        Err(error) => return Err(error),
    }
    for queue in 2..=queues {
        let fd = attach(name, raw, true).map_err(|error| match error {
            OpenError::Host { source, .. } if source.raw_os_error() == Some(libc::E2BIG) => {
                let name = name.to_owned();
                OpenError::Queues { name, queue }
            }
            other => other,
        })?;
        fds.push(fd);
    }
    finish(name.to_owned(), fds, !existed)
}

/// Takes the taps over that somebody else opened, one descriptor a queue; all of one interface.
/// `fds` are their numbers, for messages, and the descriptors.
///
/// # Errors
/// [`OpenError`].
pub fn inherited(fds: Vec<(RawFd, OwnedFd)>) -> Result<OpenTap, OpenError> {
    let mut first: Option<String> = None;
    let mut taps = Vec::new();
    for (number, fd) in fds {
        let name = inspect(number, &fd)?;
        match &first {
            Some(first) if *first != name => {
                let first = first.clone();
                return Err(OpenError::InheritedMixed {
                    fd: number,
                    name,
                    first,
                });
            }
            _ => first = Some(name.clone()),
        }
        set_flags(&fd).map_err(|source| host(&name, "set the descriptor's flags", source))?;
        taps.push(fd);
    }
    finish(first.unwrap_or_default(), taps, false)
}

fn finish(name: String, fds: Vec<OwnedFd>, created: bool) -> Result<OpenTap, OpenError> {
    let up = is_up(&name);
    let backend = TapBackend::new(fds)
        .map_err(|source| host(&name, "set the header and offloads of the tap", source))?;
    Ok(OpenTap {
        name,
        backend,
        created,
        up,
    })
}

fn host(name: &str, what: &'static str, source: io::Error) -> OpenError {
    let name = name.to_owned();
    OpenError::Host { name, what, source }
}

/// A name as the kernel takes it. One with a `%` would be a pattern.
fn raw_name(name: &str) -> Result<[u8; NAME_SIZE], OpenError> {
    let possible = (1..NAME_SIZE).contains(&name.len())
        && name != "."
        && name != ".."
        && !name
            .bytes()
            .any(|b| b"/:%\0".contains(&b) || b.is_ascii_whitespace());
    let mut raw = [0; NAME_SIZE];
    match (possible, raw.get_mut(..name.len())) {
        (true, Some(to)) => to.copy_from_slice(name.as_bytes()),
        _ => return Err(OpenError::Name(name.to_owned())),
    }
    Ok(raw)
}

/// Opens a queue of the tap `name`.
fn attach(name: &str, raw: [u8; NAME_SIZE], several: bool) -> Result<OwnedFd, OpenError> {
    let file = open_tun()?;
    let several = if several { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
    // All of them are within 16 bits.
    let mut request = InterfaceRequest::new(raw, flags as u16);
    ask(&file, libc::TUNSETIFF, &mut request).map_err(|source| {
        let name_of = || name.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM) if index(name) => OpenError::NotYours(name_of()),
            Some(libc::EPERM) => OpenError::Missing(name_of()),
            Some(libc::EBUSY) => OpenError::Busy(name_of()),
            Some(libc::EINVAL) => OpenError::NotATap(name_of()),
            _ => host(name, "attach to the tap", source),
        }
    })?;
    Ok(file.into())
}

fn open_tun() -> Result<File, OpenError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(Path::new(TUN));
    file.map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => OpenError::NoDriver,
        Some(libc::EACCES | libc::EPERM) => OpenError::DevicePermission,
        _ => host(TUN, "open it", source),
    })
}

/// The interface of an inherited descriptor, if it is a tap as we need it.
fn inspect(number: RawFd, fd: &OwnedFd) -> Result<String, OpenError> {
    let mut request = InterfaceRequest::default();
    ask(fd, libc::TUNGETIFF, &mut request).map_err(|_| OpenError::InheritedNotATap(number))?;
    let has = |flag: libc::c_int| i32::from(request.flags) & flag != 0;
    let wrong = if !has(libc::IFF_TAP) {
        Some("it is a tun device, without Ethernet; use mode tap")
    } else if !has(libc::IFF_VNET_HDR) {
        Some("add IFF_VNET_HDR to the flags of TUNSETIFF")
    } else if !has(libc::IFF_NO_PI) {
        Some("add IFF_NO_PI to the flags of TUNSETIFF")
    } else {
        None
    };
    if let Some(wrong) = wrong {
        return Err(OpenError::InheritedMode(number, wrong));
    }
    let end = request.name.iter().position(|&byte| byte == 0);
    let name = request.name.get(..end.unwrap_or(NAME_SIZE));
    Ok(String::from_utf8_lossy(name.unwrap_or_default()).into_owned())
}

fn set_flags(fd: &OwnedFd) -> io::Result<()> {
    let flags = fcntl_getfl(fd)?;
    fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
    Ok(fcntl_setfd(fd, FdFlags::CLOEXEC)?)
}

/// A socket to ask for interfaces with.
fn any_socket() -> io::Result<OwnedFd> {
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    Ok(socket_with(family, SocketType::DGRAM, flags, None)?)
}

/// Whether there is an interface of this name.
fn index(name: &str) -> bool {
    any_socket().is_ok_and(|socket| name_to_index(socket.as_fd(), name).is_ok())
}

/// Whether an interface is up; also if that cannot be said.
fn is_up(name: &str) -> bool {
    let asked = || {
        let mut request = InterfaceRequest::new(raw_name(name).ok()?, 0);
        ask(&any_socket().ok()?, libc::SIOCGIFFLAGS, &mut request).ok()?;
        Some(i32::from(request.flags) & libc::IFF_UP != 0)
    };
    asked().unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_no_interface_has_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "tap%d",
            "a b",
            "a:b",
            "sixteenbytesname",
        ] {
            assert!(matches!(raw_name(bad), Err(OpenError::Name(_))), "{bad:?}");
        }
        assert_eq!(raw_name("fifteen-letters").unwrap()[14..], *b"s\0");
    }

    #[test]
    fn a_descriptor_that_is_no_tap_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let error = inherited(vec![(7, file.into())]).unwrap_err();
        assert!(error.to_string().starts_with("fd=7 is not an opened tap"));
    }
}
