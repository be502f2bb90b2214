//! The files that a guest is loaded from, at each of its starts.
//!
//! They are opened once: a file that is replaced under its name, as an upgrade does it, is not what the
//! guest began with, and what a sandbox lets be read is this one.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::BootError;
use super::initrd::InitrdError;
use super::kernel::KernelError;

/// A file that is read at each start of the guest.
#[derive(Debug)]
pub struct BootFile {
    path: PathBuf,
    file: File,
}

impl BootFile {
    /// Opens the file at `path`, which may turn out to be something else than a file.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        // A pipe without a writer must not be waited for.
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(libc::O_NONBLOCK);
        Ok(Self {
            path: path.to_owned(),
            file: options.open(path)?,
        })
    }

    /// The name that it had when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, at its beginning. There is one position in it, whoever reads.
    ///
    /// # Errors
    /// The system's. What has no beginning to go back to, such as a pipe, is at none.
    pub(super) fn reader(&self) -> io::Result<File> {
        let mut file = self.file.try_clone()?;
        if file.metadata()?.is_file() {
            file.rewind()?;
        }
        Ok(file)
    }
}

/// All of them.
#[derive(Debug)]
pub struct BootFiles {
    /// The kernel's.
    pub kernel: BootFile,
    /// The initial RAM disk's, if there is one.
    pub initrd: Option<BootFile>,
}

impl BootFiles {
    /// Opens the files of a kernel and its initial RAM disk.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub fn open(kernel: &Path, initrd: Option<&Path>) -> Result<Self, BootError> {
        let open_initrd = |path: &Path| {
            BootFile::open(path).map_err(|source| InitrdError::Open {
                path: path.to_owned(),
                source,
            })
        };
        Ok(Self {
            kernel: BootFile::open(kernel).map_err(|source| KernelError::Read {
                path: kernel.to_owned(),
                source,
            })?,
            initrd: initrd.map(open_initrd).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use super::*;

    #[test]
    fn a_file_that_is_replaced_is_still_the_one_that_was_opened() {
        let folder = tempfile::tempdir().expect("folder");
        let (name, other) = (folder.path().join("kernel"), folder.path().join("other"));
        fs::write(&name, "old").expect("write");
        let file = BootFile::open(&name).expect("it is there");
        fs::write(&other, "new").expect("write");
        fs::rename(&other, &name).expect("rename");
        for _ in 0..2 {
            let mut text = String::new();
            let mut reader = file.reader().expect("a file");
            reader.read_to_string(&mut text).expect("read");
            assert_eq!(text, "old");
        }
    }
}
