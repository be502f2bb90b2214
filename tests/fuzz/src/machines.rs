//! Targets that make machines.

use std::sync::OnceLock;

use spapr_vmm::machine::fuzz::{self, Folder};

/// What all machines of this process are made from.
fn folder() -> &'static Folder {
    static FOLDER: OnceLock<(tempfile::TempDir, Folder)> = OnceLock::new();
    let (_, folder) = FOLDER.get_or_init(|| {
        let temporary = tempfile::tempdir().expect("room for a folder");
        let folder = Folder::fill(temporary.path()).expect("room for files");
        (temporary, folder)
    });
    folder
}

pub(crate) fn guest(bytes: &[u8]) {
    fuzz::guest(folder(), bytes);
}

pub(crate) fn host_device_tree(bytes: &[u8]) {
    fuzz::host_device_tree(folder(), bytes);
}
