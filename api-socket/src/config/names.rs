//! The rules for names, device ids and paths, each written once.

use std::path::Path;

use super::problem::{KeyPath, Problems, quoted};

/// Longest name of a machine, in bytes; longer ones do not fit a file name on disk.
pub const NAME_LIMIT: usize = 255;

/// Longest device id, in bytes.
pub const ID_LIMIT: usize = 127;

/// Longest path, in bytes: Linux's `PATH_MAX` of 4096 counts the final NUL.
pub const PATH_LIMIT: usize = 4095;

/// Longest path of a unix socket, in bytes: `sun_path` of unix(7) is 108 with its final NUL.
pub const SOCKET_PATH_LIMIT: usize = 107;

/// A machine's name: 1 to [`NAME_LIMIT`] bytes without control characters.
pub(super) fn check_name(name: &str, at: &KeyPath, problems: &mut Problems) {
    if name.is_empty() {
        problems.push(at.clone(), "is empty", "give a name or leave the key out");
    } else if name.len() > NAME_LIMIT {
        let what = format!("is {} bytes long", name.len());
        problems.push(at.clone(), what, format!("use at most {NAME_LIMIT}"));
    }
    if name.chars().any(char::is_control) {
        let what = format!("{} holds a control character", quoted(name));
        problems.push(at.clone(), what, "use printable characters only");
    }
}

/// A device id by QEMU's rule: a letter, then letters, digits, `-`, `.` and `_`.
pub(super) fn check_id(id: &str, at: &KeyPath, problems: &mut Problems) {
    let mut bytes = id.bytes();
    let well_formed = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if !well_formed {
        problems.push(
            at.clone(),
            format!("{} is not a device id", quoted(id)),
            "start with a letter and go on with letters, digits, -, . and _",
        );
    } else if id.len() > ID_LIMIT {
        let what = format!("is {} bytes long", id.len());
        problems.push(at.clone(), what, format!("use at most {ID_LIMIT}"));
    }
}

/// A path: not empty, UTF-8 without NUL, no longer than [`PATH_LIMIT`].
pub(super) fn check_path(path: &Path, at: &KeyPath, problems: &mut Problems) {
    check_path_of(path, PATH_LIMIT, at, problems);
}

/// The path of a unix socket: as [`check_path`], no longer than [`SOCKET_PATH_LIMIT`].
pub(super) fn check_socket_path(path: &Path, at: &KeyPath, problems: &mut Problems) {
    check_path_of(path, SOCKET_PATH_LIMIT, at, problems);
}

fn check_path_of(path: &Path, limit: usize, at: &KeyPath, problems: &mut Problems) {
    let Some(text) = path.to_str() else {
        problems.push(
            at.clone(),
            "is not UTF-8",
            "rename the file or reach it by a symbolic link",
        );
        return;
    };
    if text.is_empty() {
        problems.push(at.clone(), "is empty", "give a path");
    }
    if text.len() > limit {
        let what = format!("is {} bytes long", text.len());
        problems.push(
            at.clone(),
            what,
            format!("use a path of at most {limit} bytes"),
        );
    }
    if text.contains('\0') {
        problems.push(at.clone(), "holds a NUL byte", "give a path without it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rule: impl FnOnce(&KeyPath, &mut Problems)) -> Vec<String> {
        let mut problems = Problems::new();
        rule(&KeyPath::from("k"), &mut problems);
        problems
            .into_vec()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn ids_follow_qemus_rule() {
        for id in ["a", "disk0", "Root.part-1_x"] {
            assert_eq!(
                found(|at, p| check_id(id, at, p)),
                Vec::<String>::new(),
                "{id}"
            );
        }
        for id in ["", "0disk", "_a", "a b", "a/b", "#block1", "d\u{e9}", "a\0"] {
            assert_eq!(found(|at, p| check_id(id, at, p)).len(), 1, "{id}");
        }
        assert_eq!(
            found(|at, p| check_id(&"a".repeat(ID_LIMIT), at, p)).len(),
            0
        );
        assert_eq!(
            found(|at, p| check_id(&"a".repeat(ID_LIMIT + 1), at, p)).len(),
            1
        );
    }

    #[test]
    fn names_are_short_and_printable() {
        assert_eq!(found(|at, p| check_name("web 1 \u{e9}", at, p)).len(), 0);
        assert_eq!(found(|at, p| check_name("", at, p)).len(), 1);
        assert_eq!(found(|at, p| check_name("a\nb", at, p)).len(), 1);
        assert_eq!(
            found(|at, p| check_name(&"n".repeat(NAME_LIMIT + 1), at, p)).len(),
            1
        );
        // Two things wrong are two problems.
        assert_eq!(
            found(|at, p| check_name(&"\n".repeat(NAME_LIMIT + 1), at, p)).len(),
            2
        );
    }

    #[test]
    fn paths_fit_the_kernels_limits() {
        let long = "p".repeat(SOCKET_PATH_LIMIT + 1);
        assert_eq!(found(|at, p| check_path(Path::new(&long), at, p)).len(), 0);
        assert_eq!(
            found(|at, p| check_socket_path(Path::new(&long), at, p)).len(),
            1
        );
        assert_eq!(found(|at, p| check_path(Path::new(""), at, p)).len(), 1);
        assert_eq!(found(|at, p| check_path(Path::new("a\0b"), at, p)).len(), 1);
        assert_eq!(
            found(|at, p| check_path(Path::new(&"p".repeat(5000)), at, p)).len(),
            1
        );
    }
}
