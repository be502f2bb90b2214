//! Guest memory that other programs can have: a file without a name (memfd_create(2)), which they get by its descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use crate::spec::{ByteSize, HugepageSize};

/// A file of `size`, all zero, of small pages or of a pool's huge pages. Nobody can make it shorter or longer: who has it
/// could have this process killed otherwise, by taking pages from its end. Holes cannot be forbidden without writes: they read as zero,
/// but where a pool has no huge page left for one.
///
/// # Errors
/// What the kernel refuses.
pub(super) fn file(size: ByteSize, pages: Option<HugepageSize>) -> io::Result<File> {
    let of_pool = pages.map_or(0, |pages| {
        libc::MFD_HUGETLB | pages.page().get() << libc::MAP_HUGE_SHIFT
    });
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | of_pool;
    // SAFETY: the name ends with a zero byte, and the kernel keeps nothing of it but a copy.
    let made = unsafe { libc::memfd_create(c"guest-memory".as_ptr(), flags) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, and nobody else has it.
    let file = unsafe { File::from_raw_fd(made) };
    file.set_len(size.0)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: the request takes a number.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_shared_memory_cannot_take_pages_from_its_end() {
        let file = file(ByteSize(1 << 20), None).expect("a file");
        for bytes in [0, 1 << 19, 1 << 21] {
            let refused = file.set_len(bytes).expect_err("refused");
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "{bytes}");
        }
        // Nor can the seals be changed.
        // SAFETY: the request takes a number.
        let sealed = unsafe {
            libc::fcntl(
                file.as_raw_fd(),
                libc::F_ADD_SEALS,
                libc::F_SEAL_FUTURE_WRITE,
            )
        };
        assert_eq!(sealed, -1);
    }
}
