//! Writing an initramfs: the "newc" cpio format (Linux,
//! Documentation/driver-api/early-userspace/buffer-format.rst). Everything belongs to root and
//! carries no time, so that the same content gives the same bytes.

use std::io::{self, Write};

/// File type and mode bits of a directory, as `stat(2)` has them.
const DIRECTORY: u32 = 0o040_755;
/// The same of a program or script.
const EXECUTABLE: u32 = 0o100_755;
/// The same of any other file.
const REGULAR: u32 = 0o100_644;
/// The same of a symbolic link.
const LINK: u32 = 0o120_777;

/// An archive under construction.
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// An archive with nothing in it.
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            inode: 0,
        }
    }

    /// Adds a directory. Parents come first.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY, &[])
    }

    /// Adds a program.
    pub(crate) fn executable(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, EXECUTABLE, content)
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR, content)
    }

    /// Adds a symbolic link to `target`.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, LINK, target.as_bytes())
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> io::Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, path.to_owned());
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let name = u32::try_from(path.len() + 1).map_err(too_large)?;
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
        // namesize, check.
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        self.bytes.write_all(b"070701")?;
        for field in fields {
            write!(self.bytes, "{field:08X}")?;
        }
        self.bytes.write_all(path.as_bytes())?;
        self.bytes.push(0);
        self.pad();
        self.bytes.write_all(content)?;
        self.pad();
        Ok(())
    }

    /// Names and contents end on a multiple of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_header_name_content_each_padded() {
        let mut archive = Archive::new();
        archive.executable("init", b"#!/x\n").unwrap();
        let bytes = archive.finish().unwrap();
        let header = "0707010000000100008 1ED".replace(' ', "");
        assert!(
            bytes.starts_with(header.as_bytes()),
            "{}",
            String::from_utf8_lossy(&bytes)
        );
        // 110 bytes of header and "init\0" make 115, padded to 116; then 5 bytes, padded to 8.
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..121], b"#!/x\n");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let make = || {
            let mut archive = Archive::new();
            archive.directory("bin").unwrap();
            archive.link("bin/sh", "busybox").unwrap();
            archive.file("note", b"text").unwrap();
            archive.finish().unwrap()
        };
        assert_eq!(make(), make());
    }
}
