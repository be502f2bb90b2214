//! Packages' files, and the folder in which they are kept until they are unpacked.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::sources::{Area, area_of};
use crate::workspace::hex;

/// A package's file, as an index names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Archive {
    pub(super) package: String,
    pub(super) version: String,
    pub(super) architecture: String,
    /// The suite whose index names it.
    pub(super) suite: String,
    pub(super) bytes: u64,
    /// In hex.
    pub(super) sha256: String,
    /// Below the mirror's folder.
    pub(super) path: String,
}

impl Archive {
    /// Where mirrors have it; the same for all suites that offer it.
    pub(super) fn place(&self) -> (Area, &str) {
        (area_of(&self.suite), &self.path)
    }

    /// Its name, version and suite, as messages name it.
    pub(super) fn title(&self) -> String {
        format!("{} {} ({})", self.package, self.version, self.suite)
    }
}

/// A folder of files named by their SHA-256. What is in it is checked each time it is used: whoever filled
/// it may have been killed, or the disk may have been full.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Where the file is, or is to be.
    pub(super) fn path(&self, archive: &Archive) -> PathBuf {
        self.folder.join(format!("{}.deb", archive.sha256))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the file is there, of the right length and with the right SHA-256. Anything else in its place
    /// is removed.
    pub(super) fn has(&self, archive: &Archive) -> io::Result<bool> {
        let path = self.path(archive);
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => Some(found?),
        };
        if found.is_some_and(|found| found.is_file() && found.len() == archive.bytes) {
            let mut hasher = Sha256::new();
            io::copy(&mut fs::File::open(&path)?, &mut hasher)?;
            if hex(&hasher.finalize()) == archive.sha256 {
                return Ok(true);
            }
        }
        // Under the other name apt keeps one with a wrong SHA-256.
        for wrong in [path.with_extension("deb.FAILED"), path] {
            match fs::remove_file(wrong) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Removes the files, which are not needed any more.
    pub(super) fn forget(&self, archives: &[Archive]) {
        for archive in archives {
            // One that stays costs room alone.
            let _ = fs::remove_file(self.path(archive));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_short_or_changed_is_not_taken_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("archives")).unwrap();
        let archive = Archive {
            bytes: 3,
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned(),
            ..Archive::default()
        };
        assert!(!store.has(&archive).unwrap());
        for wrong in ["ab", "abd", "abcd"] {
            fs::write(store.path(&archive), wrong).unwrap();
            assert!(!store.has(&archive).unwrap(), "{wrong}");
            assert!(!store.path(&archive).exists());
        }
        fs::write(store.path(&archive), "abc").unwrap();
        assert!(store.has(&archive).unwrap());
    }

    #[test]
    fn a_link_in_a_files_place_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_owned()).unwrap();
        let archive = Archive::default();
        let path = store.path(&archive);
        // apt makes a file that vanishes while it arrives a link to itself.
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert!(!store.has(&archive).unwrap());
        assert!(fs::symlink_metadata(&path).is_err());
    }
}
