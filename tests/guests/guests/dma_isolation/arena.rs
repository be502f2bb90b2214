//! The memory of the trials: pages that the device needs, and pages that are watched.
//!
//! ```text
//! 64 MiB    the queues, a list of pages, a buffer, a list of TCEs
//! + 64 KiB  112 pages that are watched
//! ```

use spapr_test_guests::dma_memory::DmaMemory;

use spapr_test_guests::disk::mixed;
use spapr_test_guests::dma_window::PAGE_BYTES;

/// Above the guest's image, below the device tree.
const START: u64 = 64 << 20;
const WATCHED_OFFSET: u64 = 64 << 10;
const WATCHED_PAGES: u64 = 112;
const BYTES: u64 = WATCHED_OFFSET + WATCHED_PAGES * PAGE_BYTES;

/// What the watched pages are filled from: no word of the disk is among it.
const SECRET: u64 = 0x5ec2_e700;

/// Pages that the device needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Needed {
    /// The administration's submission queue.
    AdminSubmission,
    /// The administration's completion queue.
    AdminCompletion,
    /// The submission queue of reads and writes.
    IoSubmission,
    /// The completion queue of reads and writes.
    IoCompletion,
    /// A list of pages of a command's data.
    PageList,
    /// A buffer that is always mapped.
    Buffer,
}

/// All of them, in the order in which they lie.
pub(crate) const NEEDED: [Needed; 6] = [
    Needed::AdminSubmission,
    Needed::AdminCompletion,
    Needed::IoSubmission,
    Needed::IoCompletion,
    Needed::PageList,
    Needed::Buffer,
];

/// The memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arena(DmaMemory);

impl Arena {
    /// The arena, the watched pages filled.
    pub(crate) fn new() -> Self {
        // SAFETY: the guest's image ends far below, and the machine puts the device tree at the end
        // of RAM or below 768 MiB.
        let arena = Self(unsafe { DmaMemory::new(START, BYTES) });
        arena.watched_all().fill(secret);
        arena
    }

    /// A page that the device needs.
    pub(crate) fn needed(self, page: Needed) -> DmaMemory {
        self.0.part(page as u64 * PAGE_BYTES, PAGE_BYTES)
    }

    /// Where lists of TCEs are.
    pub(crate) fn tce_list(self) -> DmaMemory {
        self.0.part(8 * PAGE_BYTES, PAGE_BYTES)
    }

    /// Watched page `index`.
    pub(crate) fn watched(self, index: u64) -> DmaMemory {
        self.watched_all().part(index * PAGE_BYTES, PAGE_BYTES)
    }

    /// Fills watched page `index` again, when the device was allowed to write it.
    pub(crate) fn restore(self, index: u64) {
        let first = index * PAGE_BYTES / 8;
        self.watched(index).fill(|word| secret(first + word));
    }

    /// The first word of the watched pages that has changed.
    pub(crate) fn first_change(self) -> Option<u64> {
        self.watched_all().first_difference(secret)
    }

    /// Whether `page` holds what watched page `index` does.
    pub(crate) fn is_like_watched(page: DmaMemory, index: u64) -> bool {
        let first = index * PAGE_BYTES / 8;
        page.first_difference(|word| secret(first + word)).is_none()
    }

    /// Whether `page` holds what one of the watched pages does.
    pub(crate) fn has_like(page: DmaMemory) -> bool {
        (0..WATCHED_PAGES).any(|index| Self::is_like_watched(page, index))
    }

    fn watched_all(self) -> DmaMemory {
        self.0.part(WATCHED_OFFSET, WATCHED_PAGES * PAGE_BYTES)
    }
}

fn secret(word: u64) -> u64 {
    mixed(SECRET, word)
}
