//! Descriptors that clients hand over: named ones (`getfd`), kept per client, and sets (`add-fd`),
//! which all clients share until the last has gone, named `/dev/fdset/N` wherever a file is asked
//! for.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};

use api_socket::qmp::error::QmpError;
use api_socket::qmp::session::Reply;
use api_socket::qmp::types::{
    AddFdArguments, AddfdInfo, FdsetFdInfo, FdsetInfo, GetfdArguments, RemoveFdArguments,
};

use super::Outcome;
use crate::main_loop::MainLoop;

/// Most descriptors in all sets together.
const MAX_SET_FDS: usize = 256;

/// Longest name or note of a descriptor, in bytes.
const MAX_TEXT: usize = 1024;

pub(super) fn getfd(
    main: &mut MainLoop,
    client: u32,
    arguments: GetfdArguments,
    fds: Vec<OwnedFd>,
) -> Result<(), QmpError> {
    let fd = fds
        .into_iter()
        .next()
        .ok_or_else(QmpError::no_fd_supplied)?;
    let GetfdArguments { fdname } = arguments;
    // A name is not a number, so that a number can be told from it (QEMU's rule).
    if fdname.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(QmpError::generic(
            "Parameter 'fdname' expects a name not starting with a digit",
        ));
    }
    if fdname.len() > MAX_TEXT {
        return Err(QmpError::generic("Parameter 'fdname' is too long"));
    }
    main.clients.keep_fd(client, fdname, fd)
}

pub(super) fn add_fd(main: &mut MainLoop, arguments: AddFdArguments, fds: Vec<OwnedFd>) -> Outcome {
    let fd = fds
        .into_iter()
        .next()
        .ok_or_else(QmpError::no_fd_supplied)?;
    main.fd_sets.add(arguments, fd).map(|info| Reply::of(&info))
}

#[derive(Debug)]
struct Member {
    fd: OwnedFd,
    opaque: Option<String>,
}

/// The sets, by number.
#[derive(Debug, Default)]
pub(crate) struct FdSets(BTreeMap<i64, Vec<Member>>);

impl FdSets {
    fn add(&mut self, arguments: AddFdArguments, fd: OwnedFd) -> Result<AddfdInfo, QmpError> {
        let AddFdArguments { fdset_id, opaque } = arguments;
        if self.0.values().map(Vec::len).sum::<usize>() >= MAX_SET_FDS {
            return Err(QmpError::generic(format_args!(
                "At most {MAX_SET_FDS} descriptors can be in sets; remove one first"
            )));
        }
        if opaque.as_ref().is_some_and(|text| text.len() > MAX_TEXT) {
            return Err(QmpError::generic("Parameter 'opaque' is too long"));
        }
        let id = match fdset_id {
            Some(id) if id < 0 => {
                return Err(QmpError::generic(
                    "Parameter 'fdset-id' expects a non-negative value",
                ));
            }
            Some(id) => id,
            // The lowest number that is free; there are fewer sets than numbers.
            None => (0..)
                .find(|id| !self.0.contains_key(id))
                .unwrap_or_default(),
        };
        let number = i64::from(fd.as_raw_fd());
        self.0.entry(id).or_default().push(Member { fd, opaque });
        Ok(AddfdInfo {
            fdset_id: id,
            fd: number,
        })
    }

    /// Removes one descriptor of a set, or the set.
    pub(super) fn remove(&mut self, arguments: &RemoveFdArguments) -> Result<(), QmpError> {
        let RemoveFdArguments { fdset_id, fd } = *arguments;
        let missing = || {
            let which = fd.map_or_else(String::new, |fd| format!(", fd:{fd}"));
            QmpError::generic(format_args!(
                "File descriptor named 'fdset-id:{fdset_id}{which}' not found"
            ))
        };
        let set = self.0.get_mut(&fdset_id).ok_or_else(missing)?;
        if let Some(fd) = fd {
            let at = set
                .iter()
                .position(|member| i64::from(member.fd.as_raw_fd()) == fd)
                .ok_or_else(missing)?;
            set.remove(at);
        } else {
            set.clear();
        }
        if set.is_empty() {
            self.0.remove(&fdset_id);
        }
        Ok(())
    }

    /// Closes everything: the last client has gone.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn query(&self) -> Vec<FdsetInfo> {
        self.0
            .iter()
            .map(|(&fdset_id, members)| FdsetInfo {
                fdset_id,
                fds: members
                    .iter()
                    .map(|member| FdsetFdInfo {
                        fd: i64::from(member.fd.as_raw_fd()),
                        opaque: member.opaque.clone(),
                    })
                    .collect(),
            })
            .collect()
    }

    /// A descriptor of the set that `path` names, if it is `/dev/fdset/N`. The set keeps its own.
    ///
    /// # Errors
    /// When there is no such set, or the host is out of descriptors.
    pub(super) fn open(&self, path: &str) -> Option<Result<OwnedFd, QmpError>> {
        let number = path.strip_prefix("/dev/fdset/")?;
        let set = number.parse().ok().and_then(|id: i64| self.0.get(&id));
        Some(match set.and_then(|set| set.first()) {
            Some(member) => member.fd.try_clone().map_err(QmpError::generic),
            None => Err(QmpError::generic(format_args!(
                "fdset '{number}' does not exist"
            ))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn add(sets: &mut FdSets, id: Option<i64>) -> Result<AddfdInfo, QmpError> {
        sets.add(
            AddFdArguments {
                fdset_id: id,
                opaque: Some("note".into()),
            },
            fd(),
        )
    }

    #[test]
    fn sets_grow_shrink_and_are_named_by_path() {
        let mut sets = FdSets::default();
        let first = add(&mut sets, None).unwrap();
        assert_eq!(first.fdset_id, 0);
        assert_eq!(add(&mut sets, Some(7)).unwrap().fdset_id, 7);
        assert_eq!(add(&mut sets, None).unwrap().fdset_id, 1);
        assert_eq!(sets.query().len(), 3);
        sets.open("/dev/fdset/0").unwrap().unwrap();
        sets.open("/dev/fdset/9").unwrap().unwrap_err();
        sets.open("/dev/fdset/x").unwrap().unwrap_err();
        assert!(sets.open("/tmp/file").is_none());

        let gone = RemoveFdArguments {
            fdset_id: 0,
            fd: Some(first.fd),
        };
        sets.remove(&gone).unwrap();
        sets.remove(&gone).unwrap_err();
        sets.remove(&RemoveFdArguments {
            fdset_id: 7,
            fd: Some(-1),
        })
        .unwrap_err();
        sets.remove(&RemoveFdArguments {
            fdset_id: 7,
            fd: None,
        })
        .unwrap();
        assert_eq!(sets.query().len(), 1);
        add(&mut sets, Some(-1)).unwrap_err();
    }

    #[test]
    fn descriptors_are_bounded() {
        let mut sets = FdSets::default();
        for _ in 0..MAX_SET_FDS {
            add(&mut sets, Some(1)).unwrap();
        }
        add(&mut sets, Some(1)).unwrap_err();
    }
}
