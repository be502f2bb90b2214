//! A block of guest memory: one mapping of this process at one guest address.

use std::io;

use log::Level;
use spapr_devices::guest_message;
use spapr_devices::vfio::host_page_bytes;
use spapr_hypercalls::address::{GuestPhysicalAddress, HostVirtualAddress};
use spapr_hypercalls::world::{GuestRange, HostRange};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};

use super::shared;
use super::size::MemoryError;
use crate::process_limits::{Limit, soft_limit};
use crate::spec::{ByteSize, HugepageSize};

/// What the pages of guest memory are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Anonymous memory, of transparent huge pages where the host makes some: nothing of it is there before it
    /// is touched.
    Anonymous,
    /// Pages of the host's pool, all of them there from the start.
    Hugepages(HugepageSize),
    /// A file without a name, which other programs can be given: of pages as the host has them, or of a pool's.
    Shared(Option<HugepageSize>),
}

impl Backing {
    /// Size in bytes of the pages that the kernel takes it to be made of.
    pub fn page_bytes(self) -> u64 {
        match self {
            Self::Anonymous | Self::Shared(None) => host_page_bytes(),
            Self::Hugepages(size) | Self::Shared(Some(size)) => size.bytes().0,
        }
    }

    /// By which advice (madvise(2)) its pages are given back and read as zero when they are had again; none where they
    /// cannot be: those of a pool could go to others in between.
    pub(super) const fn giving_back(self) -> Option<libc::c_int> {
        match self {
            Self::Anonymous => Some(libc::MADV_DONTNEED),
            // Of a file, the other would give back this process' view alone.
            Self::Shared(None) => Some(libc::MADV_REMOVE),
            Self::Hugepages(_) | Self::Shared(Some(_)) => None,
        }
    }

    fn map(self, size: ByteSize) -> Result<MmapRegion, MemoryError> {
        match self {
            Self::Anonymous => map_small(size, None),
            Self::Hugepages(pages) => Ok(pages.map(size, false)?),
            Self::Shared(Some(pages)) => Ok(pages.map(size, true)?),
            Self::Shared(None) => {
                let file = shared::file(size, None)
                    .map_err(|source| refusal(size, MmapRegionError::Mmap(source)))?;
                map_small(size, Some(FileOffset::new(file, 0)))
            }
        }
    }
}

/// A block of guest memory, mapped by [`Block::map`]; the mapping is the region's that came with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    guest: GuestRange,
    host: HostVirtualAddress,
    backing: Backing,
}

impl Block {
    /// Maps `guest` in memory of `backing`. None of it is locked.
    ///
    /// # Errors
    /// What the host refuses.
    pub(super) fn map(
        guest: GuestRange,
        backing: Backing,
    ) -> Result<(Self, GuestRegionMmap), MemoryError> {
        let size = ByteSize(guest.bytes);
        let region = backing.map(size)?;
        keep_out_of_core_files(&region);
        let block = Self {
            guest,
            host: HostVirtualAddress(region.as_ptr().addr() as u64),
            backing,
        };
        let region = GuestRegionMmap::new(region, GuestAddress(guest.start.0));
        // Only a block that goes past the last address has none.
        let region = region.ok_or_else(|| refusal(size, MmapRegionError::InvalidPointer))?;
        Ok((block, region))
    }

    /// Where the guest has it.
    pub const fn guest_range(&self) -> GuestRange {
        self.guest
    }

    /// Where this process has it.
    pub const fn host_range(&self) -> HostRange {
        HostRange {
            start: self.host,
            bytes: self.guest.bytes,
        }
    }

    /// What its pages are.
    pub const fn backing(&self) -> Backing {
        self.backing
    }

    /// From guest address `address` to the block's end, in this process; none when it is outside.
    #[inline]
    pub(super) fn host_range_from(&self, address: GuestPhysicalAddress) -> Option<HostRange> {
        let offset = address.0.checked_sub(self.guest.start.0)?;
        let bytes = self.guest.bytes.checked_sub(offset)?;
        (bytes != 0).then_some(HostRange {
            start: HostVirtualAddress(self.host.0 + offset),
            bytes,
        })
    }

    /// Whether all of `range` is part of it.
    pub(super) fn has(&self, range: HostRange) -> bool {
        let all = self.host.0..=self.host.0 + self.guest.bytes;
        let end = range.start.0.checked_add(range.bytes);
        all.contains(&range.start.0) && end.is_some_and(|end| all.contains(&end))
    }
}

fn refusal(size: ByteSize, source: MmapRegionError) -> MemoryError {
    MemoryError::Map {
        size,
        limit_bytes: soft_limit(Limit::AddressSpace),
        source,
    }
}

/// Maps so much memory, anonymous or of a file, of transparent huge pages where there are some.
///
/// A process that locks all its memory (mlockall(2) with MCL_FUTURE) gets the pages as soon as it may
/// write there. So nobody may at first: the kernel has to be asked for huge pages before it makes any.
fn map_small(size: ByteSize, file: Option<FileOffset>) -> Result<MmapRegion, MemoryError> {
    let length = usize::try_from(size.0).unwrap_or(usize::MAX);
    let kind = match file {
        Some(_) => libc::MAP_SHARED,
        None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    };
    let flags = kind | libc::MAP_NORESERVE;
    let region = MmapRegion::build(file, length, libc::PROT_NONE, flags)
        .map_err(|source| refusal(size, source))?;
    ask_for_huge_pages(&region);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range is one mapping of the region's, which nobody uses yet.
    if unsafe { libc::mprotect(region.as_ptr().cast(), length, protection) } != 0 {
        let source = MmapRegionError::Mmap(io::Error::last_os_error());
        return Err(refusal(size, source));
    }
    Ok(region)
}

/// Has the kernel make memory of transparent huge pages where it can (`madvise` or `always` in
/// /sys/kernel/mm/transparent_hugepage/enabled; for a file, `advise` or `always` in shmem_enabled there): one is cleared at a fraction of what its small pages cost, and
/// the processor finds its translation sooner.
fn ask_for_huge_pages(region: &MmapRegion) {
    // SAFETY: the range is one mapping of the region's; the advice changes nothing in it.
    let result =
        unsafe { libc::madvise(region.as_ptr().cast(), region.size(), libc::MADV_HUGEPAGE) };
    if result != 0 {
        // A kernel without them is no matter.
        log::debug!(
            "guest memory gets no transparent huge pages: {}",
            io::Error::last_os_error()
        );
    }
}

/// A core file of this process has nothing of its guest in it.
fn keep_out_of_core_files(region: &MmapRegion) {
    // SAFETY: the range is one mapping of the region's; the advice changes nothing in it.
    let result =
        unsafe { libc::madvise(region.as_ptr().cast(), region.size(), libc::MADV_DONTDUMP) };
    if result != 0 {
        let error = io::Error::last_os_error();
        guest_message!(Level::Warn, "guest memory would be in a core file: {error}");
    }
}
