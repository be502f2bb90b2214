//! Loading the initial RAM disk.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use vm_memory::{Bytes, GuestAddress};

use super::files::BootFile;
use super::layout::Layout;
use crate::memory::GuestRam;

/// Why the initial RAM disk cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// The file cannot be opened or is no file.
    #[error("cannot open the initial RAM disk {}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no room for it.
    #[error(
        "the initial RAM disk {} of {bytes} bytes is too large for {ram_bytes} bytes of guest \
         memory beside the kernel; give more memory",
        .path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// Guest memory.
        ram_bytes: u64,
    },
    /// Reading it failed.
    #[error("cannot read the initial RAM disk {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: vm_memory::GuestMemoryError,
    },
}

/// Loads a file behind a kernel that ends at `kernel_end`; returns where it lies.
///
/// # Errors
/// When the file is unreadable or too large.
pub fn load(
    ram: &GuestRam,
    file: &BootFile,
    layout: &Layout,
    kernel_end: u64,
) -> Result<Range<u64>, InitrdError> {
    let path = file.path();
    let open_error = |source| InitrdError::Open {
        path: path.to_owned(),
        source,
    };
    let mut file = file.reader().map_err(open_error)?;
    let metadata = file.metadata().map_err(open_error)?;
    if !metadata.is_file() {
        return Err(open_error(io::Error::other("not a regular file")));
    }
    let bytes = metadata.len();
    let too_large = || InitrdError::TooLarge {
        path: path.to_owned(),
        bytes,
        ram_bytes: ram.boot_bytes(),
    };
    let start = layout
        .place_initrd(kernel_end, bytes)
        .ok_or_else(too_large)?;
    let length = usize::try_from(bytes).map_err(|_| too_large())?;
    ram.mmap()
        .read_exact_volatile_from(GuestAddress(start), &mut file, length)
        .map_err(|source| InitrdError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(start..start + bytes)
}
