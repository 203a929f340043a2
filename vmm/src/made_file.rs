//! Files that stand for a running process and go with it: its sockets, its pid file.
//!
//! Made by the launcher on the main thread, removed there when the machine has ended. Meanwhile
//! somebody may have put another file at the path, the next guest's socket perhaps; so what is
//! remembered is the file, and only that is removed.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Which file it is, whatever it is called. No other file has the same as long as this one is open
/// somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// A file that is removed when this is dropped, unless another one has taken its place.
#[derive(Debug)]
pub struct MadeFile {
    path: PathBuf,
    id: FileId,
}

impl MadeFile {
    /// Remembers the file that is at `path` now, made by this process. Whoever holds it open closes
    /// it after this is dropped, or so shortly before that its number is not given to another file.
    ///
    /// # Errors
    /// What the system answered; nothing will be removed then.
    pub fn note(path: &Path) -> io::Result<Self> {
        let id = FileId::from(&path.symlink_metadata()?);
        // A relative path means something else after the daemon's chdir.
        let path = std::path::absolute(path)?;
        Ok(Self { path, id })
    }

    /// The same for a file that is open: nothing is noted if `path` leads to another one by now.
    ///
    /// # Errors
    /// What the system answered, or `NotFound` for another file.
    pub fn note_if(path: &Path, id: FileId) -> io::Result<Self> {
        if FileId::from(&path.symlink_metadata()?) != id {
            return Err(io::ErrorKind::NotFound.into());
        }
        let path = std::path::absolute(path)?;
        Ok(Self { path, id })
    }
}

impl Drop for MadeFile {
    fn drop(&mut self) {
        let now = self.path.symlink_metadata();
        if now.is_ok_and(|metadata| FileId::from(&metadata) == self.id) {
            // Gone in this instant, or the directory is: nothing is left to do either way.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_the_file_that_was_noted_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        MadeFile::note(&path).unwrap_err();
        fs::write(&path, "").unwrap();
        drop(MadeFile::note(&path).unwrap());
        assert!(!path.exists());

        fs::write(&path, "").unwrap();
        let made = MadeFile::note(&path).unwrap();
        fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(made);
        assert_eq!(fs::read(&path).unwrap(), b"another's");

        let made = MadeFile::note(&path).unwrap();
        fs::rename(&path, dir.path().join("target")).unwrap();
        std::os::unix::fs::symlink("target", &path).unwrap();
        drop(made);
        assert!(path.exists(), "another name of it is not ours");
    }
}
