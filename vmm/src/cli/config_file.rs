//! Reading the file given to `--config`: bounded, and without waiting for a FIFO's writer.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use api_socket::config::TEXT_LIMIT;
use rustix::fs::{Mode, OFlags, fcntl_setfl, open};

/// Reads the file, or `stdin` if it is named `-`, but no more than one byte beyond
/// [`TEXT_LIMIT`], by which the reader of the text sees that it is too long.
///
/// # Errors
/// What opening and reading give, such as `EISDIR` for a directory.
pub(super) fn read(file: &Path, stdin: &mut dyn Read) -> io::Result<Vec<u8>> {
    if file == Path::new("-") {
        return read_bounded(stdin);
    }
    // Without O_NONBLOCK, opening a FIFO that nobody writes to would never return. With it,
    // reading one that is being written to (as in `--config <(command)`) would not wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = open(file, flags, Mode::empty())?;
    fcntl_setfl(&fd, OFlags::empty())?;
    read_bounded(&mut File::from(fd))
}

fn read_bounded(source: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let limit = u64::try_from(TEXT_LIMIT)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    source.take(limit).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    #[test]
    fn a_file_and_standard_input_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vm.json");
        fs::write(&file, "{}").unwrap();
        assert_eq!(read(&file, &mut io::empty()).unwrap(), b"{}");
        assert_eq!(read(Path::new("-"), &mut &b"{ }"[..]).unwrap(), b"{ }");
    }

    #[test]
    fn an_endless_file_is_cut_off() {
        let text = read(Path::new("/dev/zero"), &mut io::empty()).unwrap();
        assert_eq!(text.len(), TEXT_LIMIT + 1);
        assert_eq!(
            read(Path::new("-"), &mut io::repeat(b' ')).unwrap().len(),
            TEXT_LIMIT + 1
        );
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let missing = read(&dir.path().join("none"), &mut io::empty()).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let folder = read(dir.path(), &mut io::empty()).unwrap_err();
        assert_eq!(folder.kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn a_fifo_without_a_writer_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(read(&fifo, &mut io::empty()).unwrap(), b"");
    }
}
