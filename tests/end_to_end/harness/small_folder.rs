//! A folder of the host that is full soon: a file system of its own, in memory.

use std::path::PathBuf;
use std::process::Command;

use super::vmm::Folder;

/// The folder, unmounted when dropped.
#[derive(Debug)]
pub(crate) struct SmallFolder {
    path: PathBuf,
    /// Where it is mounted, which goes after it.
    _place: Folder,
}

impl SmallFolder {
    /// One with room for so many MiB, which everybody may use.
    pub(crate) fn new(mib: u64) -> Self {
        let place = Folder::new();
        let path = place.file("");
        let options = format!("size={mib}m,mode=777");
        let path_text = path.to_str().expect("a path of ours");
        mount(&["-t", "tmpfs", "-o", &options, "tmpfs", path_text]);
        Self {
            path,
            _place: place,
        }
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes room for so many MiB in all.
    pub(crate) fn resize(&self, mib: u64) {
        let options = format!("remount,size={mib}m");
        mount(&["-o", &options, self.path.to_str().expect("a path of ours")]);
    }
}

fn mount(arguments: &[&str]) {
    let status = Command::new("mount").args(arguments).status();
    let status = status.expect("cannot run mount");
    assert!(status.success(), "mount {arguments:?}: {status}");
}

impl Drop for SmallFolder {
    fn drop(&mut self) {
        // What remains is in memory until the host is off; that it is seen is no use to anyone.
        let _ = Command::new("umount").arg(&self.path).status();
    }
}
