//! What is on the lab's NVMe (tests/lab/images/nvme.rs).

use spapr_test_guests::dma_memory::DmaMemory;
use spapr_test_guests::nvme::BLOCK_BYTES;

use crate::window::PAGE_BYTES;

/// Blocks of a page.
pub(crate) const PAGE_BLOCKS: u64 = PAGE_BYTES / BLOCK_BYTES;

/// The seed of the data.
const DATA: u64 = 0x5eed;
/// The first block behind the data and all that other tests write to: the last 64 KiB of the disk.
pub(crate) const SCRATCH_BLOCK: u64 = ((72 << 20) - (64 << 10)) / BLOCK_BYTES;

/// Number `index` of the row that Sebastiano Vigna's generator SplitMix64 gives from `seed` on.
pub(crate) fn mixed(seed: u64, index: u64) -> u64 {
    let state = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Whether a page of memory holds the disk's data from `block` on.
pub(crate) fn is_data(page: DmaMemory, block: u64) -> bool {
    let first = block * (BLOCK_BYTES / 8);
    page.first_difference(|word| mixed(DATA, first + word))
        .is_none()
}
