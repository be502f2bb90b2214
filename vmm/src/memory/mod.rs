//! Guest RAM: blocks of memory, each at its guest address.
//!
//! | file | what it is for |
//! |---|---|
//! | `block` | one block: what its pages are, and how they are mapped |
//! | `hugepages` | pages of the host's pools |
//! | `shared` | memory that other programs can have |
//! | `clearing` | memory for the next guest |
//! | `size` | how much there can be |

mod block;
mod clearing;
pub mod hugepages;
mod shared;
mod size;

use std::slice;
use std::sync::Arc;
use std::thread;

use spapr_hypercalls::address::GuestPhysicalAddress;
use spapr_hypercalls::world::{GuestMemory, GuestRange, HostRange, NotGuestRam};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

pub use block::{Backing, Block};
pub(crate) use size::check_size;
pub use size::{ALIGNMENT_BYTES, LEAST_BYTES, MemoryError, has_contiguous_areas, more_memory_for};

use crate::spec::ByteSize;

/// Bytes that are made present with one call, during which the kernel keeps others from changing the process'
/// memory: one that locks memory waits for it. A transparent huge page is as large.
const POPULATED_AT_ONCE: usize = 2 << 20;

/// Guest RAM. Clones are the same memory.
#[derive(Clone, Debug)]
pub struct GuestRam {
    memory: GuestMemoryMmap,
    /// The one at guest address 0, which has the kernel and most of what a guest maps: found without a look at
    /// the others.
    first: Block,
    /// In the order of their guest addresses.
    more: Arc<[Block]>,
}

impl GuestRam {
    /// Maps `size` of guest memory from guest address 0 on. None of it is locked, and of anonymous memory none is
    /// touched.
    ///
    /// # Errors
    /// When the size is none a guest can run in, or more than the host has.
    pub fn new(size: ByteSize, backing: Backing) -> Result<Self, MemoryError> {
        let all = GuestRange {
            start: GuestPhysicalAddress(0),
            bytes: size.0,
        };
        Self::in_blocks(all, &[], backing)
    }

    /// Maps guest memory in blocks: `first`, which starts at guest address 0, and `more`, in the order of their
    /// addresses and apart from each other.
    ///
    /// # Errors
    /// When that is no memory a guest can run in, or more than the host has.
    pub fn in_blocks(
        first: GuestRange,
        more: &[GuestRange],
        backing: Backing,
    ) -> Result<Self, MemoryError> {
        let bytes = more
            .iter()
            .fold(first.bytes, |sum, it| sum.saturating_add(it.bytes));
        size::check(ByteSize(bytes))?;
        let (first, region) = Block::map(first, backing)?;
        let mut regions = vec![region];
        let mut blocks = Vec::new();
        for &range in more {
            let (block, region) = Block::map(range, backing)?;
            blocks.push(block);
            regions.push(region);
        }
        Ok(Self {
            memory: GuestMemoryMmap::from_regions(regions).map_err(MemoryError::Blocks)?,
            first,
            more: blocks.into(),
        })
    }

    /// Its blocks, in the order of their guest addresses.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        std::iter::once(&self.first).chain(self.more.iter())
    }

    /// What of the guest's address space is RAM, in the order of addresses.
    pub fn guest_ranges(&self) -> Vec<GuestRange> {
        self.blocks().map(Block::guest_range).collect()
    }

    /// Size in bytes of the least page that a block is made of.
    pub fn page_bytes(&self) -> u64 {
        let pages = self.more.iter().map(|block| block.backing().page_bytes());
        pages.fold(self.first.backing().page_bytes(), u64::min)
    }

    /// The memory as rust-vmm's crates know it.
    pub fn mmap(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Size of all of it in bytes, without what is between blocks.
    pub fn bytes(&self) -> u64 {
        self.blocks().map(|block| block.guest_range().bytes).sum()
    }

    /// The first guest address, in bytes, behind the last block.
    pub fn end(&self) -> u64 {
        let last = self.more.last().unwrap_or(&self.first).guest_range();
        last.start.0 + last.bytes
    }

    /// Bytes of the block at guest address 0, in which a guest boots.
    pub const fn boot_bytes(&self) -> u64 {
        self.first.guest_range().bytes
    }
}

impl GuestMemory for GuestRam {
    fn read_doublewords(
        &self,
        address: GuestPhysicalAddress,
        list: &mut [u64],
    ) -> Result<(), NotGuestRam> {
        let slice = self
            .memory
            .get_slice(GuestAddress(address.0), size_of_val(list))
            .map_err(|_| NotGuestRam)?;
        // SAFETY: they are the list's own bytes, any of which make integers; the list is not used
        // while they are. One copy of all of them costs a fraction of one for each doubleword.
        let bytes =
            unsafe { slice::from_raw_parts_mut(list.as_mut_ptr().cast(), size_of_val(list)) };
        slice.copy_to::<u8>(bytes);
        for doubleword in list {
            *doubleword = u64::from_be(*doubleword);
        }
        Ok(())
    }

    fn populate(&self, range: HostRange) -> bool {
        if !self.blocks().any(|block| block.has(range)) {
            return false;
        }
        let (Ok(start), Ok(length)) =
            (usize::try_from(range.start.0), usize::try_from(range.bytes))
        else {
            return false;
        };
        (0..length)
            .step_by(POPULATED_AT_ONCE)
            .try_for_each(|offset| {
                let step = POPULATED_AT_ONCE.min(length - offset);
                // Least priority alone is not enough: once this thread gets a turn, it keeps the processor until
                // the next tick, 4 ms, for which one of the guest's that locks memory would wait.
                thread::yield_now();
                hugepages::populate(std::ptr::without_provenance_mut(start + offset), step)
            })
            .inspect_err(|error| log::debug!("guest memory is not made present ahead: {error}"))
            // Mappings do without.
            .is_ok()
    }

    fn host_range(&self, address: GuestPhysicalAddress) -> Option<HostRange> {
        let first = self.first.host_range_from(address);
        first.or_else(|| {
            let mut more = self.more.iter();
            more.find_map(|block| block.host_range_from(address))
        })
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn doublewords_are_read_big_endian_and_only_from_ram() {
        let ram = GuestRam::new(ByteSize(LEAST_BYTES), Backing::Anonymous).expect("guest memory");
        ram.mmap()
            .write_slice(
                &[0, 0, 0, 0, 0, 0, 0x12, 3, 0xff, 0, 0, 0, 0, 0, 0, 1],
                GuestAddress(0x1000),
            )
            .expect("write");
        let mut list = [0; 2];
        ram.read_doublewords(GuestPhysicalAddress(0x1000), &mut list)
            .expect("read");
        assert_eq!(list, [0x1203, 0xff00_0000_0000_0001]);
        for outside in [LEAST_BYTES - 8, LEAST_BYTES, u64::MAX - 7, 1 << 59] {
            let address = GuestPhysicalAddress(outside);
            assert_eq!(ram.read_doublewords(address, &mut list), Err(NotGuestRam));
        }
    }

    #[test]
    fn host_ranges_end_where_ram_ends() {
        let ram = GuestRam::new(ByteSize(LEAST_BYTES), Backing::Anonymous).expect("guest memory");
        let range = GuestMemory::host_range(&ram, GuestPhysicalAddress(LEAST_BYTES - 4096));
        assert_eq!(range.map(|range| range.bytes), Some(4096));
        assert_eq!(
            GuestMemory::host_range(&ram, GuestPhysicalAddress(LEAST_BYTES)),
            None
        );
        assert_eq!(
            GuestMemory::host_range(&ram, GuestPhysicalAddress(u64::MAX)),
            None
        );
    }

    /// 128 MiB at 0, and twice 16 MiB with gaps in front.
    fn in_three_blocks() -> GuestRam {
        let range = |start, bytes| GuestRange {
            start: GuestPhysicalAddress(start),
            bytes,
        };
        let more = [range(1 << 30, 16 << 20), range(1 << 40, 16 << 20)];
        GuestRam::in_blocks(range(0, LEAST_BYTES), &more, Backing::Anonymous).expect("memory")
    }

    #[test]
    fn memory_in_blocks_has_an_end_and_a_size_that_differ() {
        let ram = in_three_blocks();
        assert_eq!(ram.bytes(), LEAST_BYTES + (32 << 20));
        assert_eq!(ram.end(), (1 << 40) + (16 << 20));
        assert_eq!(ram.boot_bytes(), LEAST_BYTES);
        assert_eq!(ram.guest_ranges().len(), 3);
    }

    #[test]
    fn no_range_reaches_from_one_block_into_the_gap_or_the_next() {
        let ram = in_three_blocks();
        let at = |address| GuestMemory::host_range(&ram, GuestPhysicalAddress(address));
        for block in ram.blocks() {
            let GuestRange { start, bytes } = block.guest_range();
            assert_eq!(at(start.0), Some(block.host_range()));
            assert_eq!(at(start.0 + bytes - 1).map(|range| range.bytes), Some(1));
            assert_eq!(at(start.0 + bytes), None);
            let mut list = [0; 2];
            let last = GuestPhysicalAddress(start.0 + bytes - 8);
            assert_eq!(ram.read_doublewords(last, &mut list), Err(NotGuestRam));
        }
        assert_eq!(at((1 << 30) - 1), None);
    }

    #[test]
    fn only_what_is_in_one_block_is_made_present() {
        let ram = in_three_blocks();
        let HostRange { start, bytes } = ram.more[0].host_range();
        assert!(ram.populate(HostRange { start, bytes }));
        let past = HostRange {
            start,
            bytes: bytes + 4096,
        };
        let is_beside = ram
            .blocks()
            .any(|block| block.host_range().start.0 == start.0 + bytes);
        assert!(is_beside || !ram.populate(past));
        let wrapping = HostRange {
            start,
            bytes: u64::MAX,
        };
        assert!(!ram.populate(wrapping));
    }
}
