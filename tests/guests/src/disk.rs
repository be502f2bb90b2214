//! What is on the lab's NVMe (tests/lab/images/nvme.rs).

use crate::dma_memory::DmaMemory;
use crate::nvme::{BLOCK_BYTES, PAGE_BYTES};

/// Blocks of a page.
pub const PAGE_BLOCKS: u64 = PAGE_BYTES / BLOCK_BYTES;

/// The seed of the data.
const DATA: u64 = 0x5eed;
/// The first block behind the data and all that other tests write to: the last 64 KiB of the disk.
pub const SCRATCH_BLOCK: u64 = ((72 << 20) - (64 << 10)) / BLOCK_BYTES;

/// Number `index` of the row that Sebastiano Vigna's generator SplitMix64 gives from `seed` on.
pub fn mixed(seed: u64, index: u64) -> u64 {
    let state = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Whether memory holds the disk's data from `block` on.
pub fn is_data(memory: DmaMemory, block: u64) -> bool {
    let first = block * (BLOCK_BYTES / 8);
    memory
        .first_difference(|word| mixed(DATA, first + word))
        .is_none()
}
