//! A piece of a KVM file descriptor's memory, mapped.

use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64};

use spapr_hypercalls::address::HostVirtualAddress;
use vmm_sys_util::errno;

/// A shared mapping that the kernel reads and writes as well, and that is therefore only reached
/// through atomics.
#[derive(Debug)]
pub(super) struct SharedMapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to no thread, and is only reached through atomics.
unsafe impl Send for SharedMapping {}
// SAFETY: as above.
unsafe impl Sync for SharedMapping {}

impl SharedMapping {
    /// Maps the first `bytes` bytes of `file`, readable and writable.
    pub(super) fn new(file: &impl AsRawFd, bytes: usize) -> errno::Result<Self> {
        Self::map(file, 0, bytes)
    }

    /// Maps `bytes` bytes of `file` from `offset` on, readable and writable.
    pub(super) fn at(file: &impl AsRawFd, offset: u64, bytes: u64) -> errno::Result<Self> {
        let too_large = |_| errno::Error::new(libc::EOVERFLOW);
        let offset = libc::off_t::try_from(offset).map_err(too_large)?;
        Self::map(file, offset, usize::try_from(bytes).map_err(too_large)?)
    }

    fn map(file: &impl AsRawFd, offset: libc::off_t, bytes: usize) -> errno::Result<Self> {
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory in use.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(errno::Error::last());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| errno::Error::new(libc::EFAULT))?;
        Ok(Self { start, bytes })
    }

    /// The byte at `offset`.
    ///
    /// # Panics
    /// When it lies outside the mapping.
    pub(super) fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < self.bytes);
        // SAFETY: the byte is inside the mapping, as checked.
        let byte = unsafe { self.start.add(offset) };
        // SAFETY: the byte is mapped as long as `self` lives, every value of it is valid, and all
        // accesses through this mapping are atomic.
        unsafe { byte.cast().as_ref() }
    }

    /// Where the byte at `offset` is in this process.
    ///
    /// # Panics
    /// When it lies outside the mapping.
    pub(super) fn address(&self, offset: u64) -> HostVirtualAddress {
        assert!(offset < self.bytes as u64);
        HostVirtualAddress(self.start.addr().get() as u64 + offset)
    }

    /// Loads the big-endian doubleword at `offset`, a multiple of 8, from a mapping of a device's
    /// registers.
    ///
    /// # Panics
    /// When it lies outside the mapping or is not aligned.
    pub(super) fn load_big_endian(&self, offset: u64) -> u64 {
        // SAFETY: the doubleword is mapped as long as `self` lives, and any value of it is valid.
        u64::from_be(unsafe { self.register(offset).read_volatile() })
    }

    /// Stores to the big-endian doubleword at `offset`, a multiple of 8, in a mapping of a device's
    /// registers.
    ///
    /// # Panics
    /// When it lies outside the mapping or is not aligned.
    pub(super) fn store_big_endian(&self, offset: u64, value: u64) {
        // SAFETY: the doubleword is mapped as long as `self` lives, and holds no Rust object.
        unsafe { self.register(offset).write_volatile(value.to_be()) };
    }

    /// Where the doubleword at `offset`, a multiple of 8, of a mapping of a device's registers is.
    ///
    /// # Panics
    /// When it lies outside the mapping or is not aligned.
    pub(super) fn register(&self, offset: u64) -> *mut u64 {
        let size = size_of::<u64>() as u64;
        assert!(offset.is_multiple_of(size) && offset < self.bytes as u64);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "less than the mapping's size"
        )]
        let offset = offset as usize;
        // SAFETY: the doubleword is inside the mapping, as checked: a mapping consists of pages.
        unsafe { self.start.add(offset) }.cast().as_ptr()
    }

    /// The doublewords at the start of the mapping, as many as fit.
    pub(super) fn doublewords(&self) -> &[AtomicU64] {
        let count = self.bytes / size_of::<u64>();
        // SAFETY: a mapping starts at a page, so it is aligned; `count` doublewords lie inside it
        // and are mapped as long as `self` lives; every value is valid, and all accesses through
        // this mapping are atomic.
        unsafe { std::slice::from_raw_parts(self.start.cast().as_ptr(), count) }
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping `new` made, and no reference into it outlives `self`.
        let unmapped = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(unmapped, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::Ordering;

    use vmm_sys_util::tempfile::TempFile;

    use super::*;

    #[test]
    fn what_is_stored_through_a_mapping_is_in_the_file() {
        let mut file = TempFile::new().unwrap().into_file();
        file.set_len(4096).unwrap();
        let mapping = SharedMapping::new(&file, 4096).unwrap();

        mapping.doublewords()[1].store(0x1122_3344_5566_7788, Ordering::Relaxed);
        mapping.byte(8).fetch_xor(0xff, Ordering::Relaxed);

        let mut content = [0; 16];
        file.read_exact(&mut content).unwrap();
        let mut expected = 0x1122_3344_5566_7788_u64.to_ne_bytes();
        expected[0] ^= 0xff;
        assert_eq!(content[8..], expected);
        assert_eq!(mapping.doublewords().len(), 512);
    }

    #[test]
    fn registers_are_big_endian_and_can_be_mapped_from_the_middle_of_a_file() {
        let mut file = TempFile::new().unwrap().into_file();
        let page = spapr_devices::vfio::host_page_bytes();
        file.set_len(3 * page).unwrap();
        let mapping = SharedMapping::at(&file, page, 2 * page).unwrap();

        mapping.store_big_endian(page + 8, 0x1122_3344_5566_7788);

        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        let place = usize::try_from(2 * page).unwrap() + 8;
        assert_eq!(content[place..place + 2], [0x11, 0x22]);
        assert_eq!(mapping.load_big_endian(page + 8), 0x1122_3344_5566_7788);
        assert_eq!(mapping.address(page).0, mapping.address(0).0 + page);
    }

    #[test]
    fn what_cannot_be_mapped_gives_the_errno() {
        let eventfd = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
        let error = SharedMapping::new(&eventfd, 4096).unwrap_err();
        assert_eq!(error.errno(), libc::ENODEV);
    }
}
