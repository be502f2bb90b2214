//! Guest RAM in pieces that are locked one by one, as the guest first maps a page of each.
//!
//! The kernel walks its list of registered pieces for every TCE (`mm_iommu_lookup` in
//! arch/powerpc/mm/book3s64/iommu_api.c), so there should be few of them however much RAM there is; a
//! piece is what gets locked at once, so it is no larger than that asks for: a **region**. But to lock
//! memory that the guest has not touched yet means to clear it, while the guest's processor waits for its
//! hypercall. So of a region that is not there yet no more than a **block** is locked at once, and the rest
//! is made present on a thread of the VMM's meanwhile ([`Engine::populate_some`]); it is then locked as one.
//!
//! | module | what it does |
//! |---|---|
//! | `ram` | divides RAM, translates addresses, knows which blocks are present |
//! | `registration` | which blocks a container has registered, and registers more |
//!
//! [`Engine::populate_some`]: crate::engine::Engine::populate_some

mod ram;
mod registration;

pub(crate) use ram::Regions;
pub(crate) use registration::RegionLocks;

use crate::address::GuestPhysicalAddress;

/// Size of the regions, or of the blocks, that RAM is divided into, a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSize(u32);

impl RegionSize {
    /// The smallest that [`RegionSize::for_ram`] chooses.
    pub const SMALLEST_CHOSEN_BYTES: u64 = 256 << 20;
    /// The most regions that [`RegionSize::for_ram`] divides contiguous RAM of up to 128 GiB into:
    /// with more, the kernel's walk would cost an H_PUT_TCE onto an empty entry, in the kernel, over
    /// 2 % (docs/locking.md).
    pub const MOST_CHOSEN: u64 = 8;

    /// A size of `bytes`; `None` when that is no power of two or below 64 KiB, the largest page
    /// that a host's RAM is made of without huge pages.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 0x1_0000 {
            Some(Self(bytes.trailing_zeros()))
        } else {
            None
        }
    }

    /// The largest that [`RegionSize::for_ram`] chooses: to lock one takes seconds if it is not present,
    /// and the guest's processor waits.
    pub const LARGEST_CHOSEN_BYTES: u64 = 16 << 30;

    /// The size for `ram_bytes` of RAM: 256 MiB, or as much more, up to 16 GiB, as it takes to need
    /// no more than 8 regions.
    ///
    /// ```
    /// use spapr_hypercalls::locking::RegionSize;
    ///
    /// assert_eq!(RegionSize::for_ram(2 << 30).bytes(), 256 << 20);
    /// assert_eq!(RegionSize::for_ram(1 << 40).bytes(), 16 << 30);
    /// ```
    pub const fn for_ram(ram_bytes: u64) -> Self {
        let mut bytes = Self::SMALLEST_CHOSEN_BYTES;
        while ram_bytes.div_ceil(bytes) > Self::MOST_CHOSEN && bytes < Self::LARGEST_CHOSEN_BYTES {
            bytes <<= 1;
        }
        Self(bytes.trailing_zeros())
    }

    /// The most that is one region where there are to be as few as can be: locking so much that is present keeps the
    /// guest's processor for fewer than 5 million instructions.
    pub const LARGEST_OF_FEW_BYTES: u64 = 2 << 30;

    /// The size for `ram_bytes` of RAM to be as few regions as can be: of 2 GiB, or of what
    /// [`RegionSize::for_ram`] chooses if that is more.
    pub const fn for_few_in(ram_bytes: u64) -> Self {
        let mut bytes = Self::for_ram(ram_bytes).bytes();
        while bytes < ram_bytes && bytes < Self::LARGEST_OF_FEW_BYTES {
            bytes <<= 1;
        }
        Self(bytes.trailing_zeros())
    }

    /// The size of blocks on a host with pages of `page_bytes`: locking one that is not present keeps the
    /// guest's processor from its work for fewer than 5 million instructions, most of them to clear pages
    /// (docs/locking.md).
    pub const fn block_for(page_bytes: u64) -> Self {
        if page_bytes >= 0x1_0000 {
            Self(25)
        } else {
            Self(23)
        }
    }

    /// Bytes in a region.
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }
}

/// RAM that cannot be divided into regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RamError {
    /// A piece of RAM is empty, not made of whole 4 KiB pages, or beyond the address space.
    #[error("RAM of {bytes:#x} bytes at {start} is not made of whole 4 KiB pages")]
    BadPiece {
        /// Where it starts.
        start: GuestPhysicalAddress,
        /// Its length in bytes.
        bytes: u64,
    },
    /// Pieces of RAM are not sorted or they overlap.
    #[error("RAM at {0} overlaps the piece before it or is listed after it")]
    Unsorted(GuestPhysicalAddress),
    /// No memory of this process is behind an address that was said to be RAM.
    #[error("no memory is behind guest address {0}")]
    NoMemory(GuestPhysicalAddress),
}
