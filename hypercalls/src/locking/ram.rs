//! Guest RAM in blocks, by guest address.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{RamError, RegionSize};
use crate::address::{GuestPhysicalAddress, HostVirtualAddress, PageShift};
use crate::stats::LockedMemory;
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard};
use crate::world::{GuestMemory, GuestRange, HostRange};

/// One block.
#[derive(Debug)]
struct Block {
    guest: GuestPhysicalAddress,
    host: HostRange,
    /// All of its pages are there. Once they are, they stay.
    present: AtomicBool,
    /// It is to be made present: a neighbour of it was locked.
    wanted: AtomicBool,
}

impl Block {
    /// Makes it present unless it is; false if it is not then.
    fn populate<M: GuestMemory>(&self, memory: &M) -> bool {
        let is_present = self.present.load(Ordering::Relaxed) || memory.populate(self.host);
        if is_present {
            self.present.store(true, Ordering::Relaxed);
        }
        is_present
    }
}

/// The RAM of a machine, the same for all its containers.
#[derive(Debug)]
pub(crate) struct Regions {
    /// Sorted by guest address.
    all: Box<[Block]>,
    size: RegionSize,
    block: RegionSize,
    /// A region is registered in as many pieces, one block each in the worst case, before the rest of it waits to be
    /// present.
    crowd: usize,
    largest_page: PageShift,
    locked_bytes: AtomicU64,
    peak_bytes: AtomicU64,
    registrations: AtomicU64,
    refusals: AtomicU64,
    populator: Option<Populator>,
    pieces: Mutex<Vec<Piece>>,
}

/// Blocks that are registered as one. The kernel keeps one list for all containers of a process, and takes
/// no piece that overlaps another: a second container registers exactly the same (`mm_iommu_do_alloc` in
/// arch/powerpc/mm/book3s64/iommu_api.c).
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(super) blocks: Range<usize>,
    /// Containers that have it registered.
    pub(super) holders: u32,
}

/// Who is told that blocks are wanted present.
struct Populator(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Populator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Populator")
    }
}

/// A guest address' place in host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    /// Index of the block.
    pub(crate) block: usize,
    /// Host memory from the address to the block's end.
    pub(crate) host: HostRange,
}

impl Regions {
    pub(crate) fn new<M: GuestMemory>(
        memory: &M,
        ram: &[GuestRange],
        size: RegionSize,
        block: Option<RegionSize>,
        crowd: usize,
    ) -> Result<Self, RamError> {
        let block = block.filter(|block| block.0 < size.0).unwrap_or(size);
        let mut all = Vec::new();
        let mut page_bits = block.bytes();
        let mut end_before = 0;
        for piece in ram {
            let (start, bytes) = (piece.start, piece.bytes);
            let end = start
                .0
                .checked_add(bytes)
                .filter(|_| is_whole_pages(start.0, bytes));
            let end = end.ok_or(RamError::BadPiece { start, bytes })?;
            if start.0 < end_before {
                return Err(RamError::Unsorted(start));
            }
            end_before = end;
            cut(memory, start.0..end, block, &mut all)?;
        }
        for block in &all {
            page_bits |= block.host.start.0.wrapping_sub(block.guest.0);
        }
        let largest = page_bits.trailing_zeros().min(34);
        let largest_page = u8::try_from(largest).ok().and_then(PageShift::new);
        Ok(Self {
            all: all.into_boxed_slice(),
            size,
            block,
            crowd,
            largest_page: largest_page.unwrap_or(PageShift::SIZE_4K),
            locked_bytes: AtomicU64::new(0),
            peak_bytes: AtomicU64::new(0),
            registrations: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            populator: None,
            pieces: Mutex::new(Vec::new()),
        })
    }

    /// Where `address` is; `None` when it is no RAM.
    #[inline]
    pub(crate) fn find(&self, address: GuestPhysicalAddress) -> Option<Translation> {
        match self.guess(address) {
            None => self.search(address),
            found => found,
        }
    }

    /// [`find`](Self::find), if RAM has no holes before `address`; else it may know nothing.
    #[inline]
    pub(crate) fn guess(&self, address: GuestPhysicalAddress) -> Option<Translation> {
        let quotient = usize::try_from(address.0 >> self.block.0).ok()?;
        self.translate(quotient, address)
    }

    #[cold]
    fn search(&self, address: GuestPhysicalAddress) -> Option<Translation> {
        let after = self.all.partition_point(|block| block.guest <= address);
        self.translate(after.checked_sub(1)?, address)
    }

    #[inline]
    fn translate(&self, index: usize, address: GuestPhysicalAddress) -> Option<Translation> {
        let block = self.all.get(index)?;
        let offset = address.0.checked_sub(block.guest.0)?;
        // Two plain comparisons cost each call less than what the adapters of an Option become.
        if offset >= block.host.bytes {
            return None;
        }
        let bytes = block.host.bytes - offset;
        let start = HostVirtualAddress(block.host.start.0 + offset);
        Some(Translation {
            block: index,
            host: HostRange { start, bytes },
        })
    }

    /// The largest IOMMU page that one block can hold, and whose alignment guest addresses share
    /// with the host addresses behind them.
    pub(crate) const fn largest_page(&self) -> PageShift {
        self.largest_page
    }

    pub(crate) const fn size(&self) -> RegionSize {
        self.size
    }

    pub(super) const fn crowd(&self) -> usize {
        self.crowd
    }

    /// How many blocks there are.
    pub(crate) const fn blocks(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn host_range(&self, blocks: &Range<usize>) -> Option<HostRange> {
        let all = self.all.get(blocks.clone())?;
        Some(HostRange {
            start: all.first()?.host.start,
            bytes: all.iter().map(|block| block.host.bytes).sum(),
        })
    }

    /// Whether two blocks that follow each other are of one region, in the host's memory too.
    fn are_joined(&self, first: usize, second: usize) -> bool {
        let (Some(first), Some(second)) = (self.all.get(first), self.all.get(second)) else {
            return false;
        };
        let bytes = first.host.bytes;
        first.guest.0 >> self.size.0 == second.guest.0 >> self.size.0
            && first.guest.0 + bytes == second.guest.0
            && first.host.start.0 + bytes == second.host.start.0
    }

    /// The blocks round `index` that are of its region and for all of which `is_meant` holds.
    pub(super) fn around(&self, index: usize, is_meant: impl Fn(usize) -> bool) -> Range<usize> {
        let mut around = index..index + 1;
        while let Some(before) = around.start.checked_sub(1)
            && self.are_joined(before, around.start)
            && is_meant(before)
        {
            around.start = before;
        }
        while self.are_joined(around.end - 1, around.end) && is_meant(around.end) {
            around.end += 1;
        }
        around
    }

    pub(super) fn is_present(&self, index: usize) -> bool {
        let block = self.all.get(index);
        block.is_some_and(|block| block.present.load(Ordering::Relaxed))
    }

    /// Has `wake` called when there is something to do for [`Regions::populate_some`].
    pub(crate) fn set_populator(&mut self, wake: impl Fn() + Send + Sync + 'static) {
        self.populator = Some(Populator(Box::new(wake)));
    }

    /// Notes that blocks are present, and asks for the rest of their region to be made so.
    pub(super) fn note_present(&self, blocks: &Range<usize>) {
        for block in self.all.get(blocks.clone()).unwrap_or_default() {
            block.present.store(true, Ordering::Relaxed);
        }
        let mut is_wanted = false;
        for index in self.around(blocks.start, |_| true) {
            let block = &self.all[index];
            if !block.present.load(Ordering::Relaxed) {
                block.wanted.store(true, Ordering::Relaxed);
                is_wanted = true;
            }
        }
        if let Some(Populator(wake)) = self.populator.as_ref().filter(|_| is_wanted) {
            wake();
        }
    }

    /// Makes one block present that is wanted; false when none is.
    pub(crate) fn populate_some<M: GuestMemory>(&self, memory: &M) -> bool {
        let wanted = |block: &&Block| {
            block.wanted.load(Ordering::Relaxed) && block.wanted.swap(false, Ordering::Relaxed)
        };
        let Some(block) = self.all.iter().find(wanted) else {
            return false;
        };
        block.populate(memory);
        true
    }

    /// Makes one more block present of the region that block `index` is of; false if all are, or the host
    /// cannot.
    pub(super) fn populate_one_of<M: GuestMemory>(&self, memory: &M, index: usize) -> bool {
        let region = self.around(index, |_| true);
        let absent = |block: &&Block| !block.present.load(Ordering::Relaxed);
        let block = self.all.get(region).and_then(|all| all.iter().find(absent));
        block.is_some_and(|block| block.populate(memory))
    }

    pub(crate) fn snapshot(&self) -> LockedMemory {
        let starts = (0..self.all.len())
            .filter(|&index| !matches!(index.checked_sub(1), Some(before) if self.are_joined(before, index)));
        LockedMemory {
            regions: starts.count(),
            region_bytes: self.size.bytes(),
            bytes: self.locked_bytes.load(Ordering::Relaxed),
            peak_bytes: self.peak_bytes.load(Ordering::Relaxed),
            registrations: self.registrations.load(Ordering::Relaxed),
            refusals: self.refusals.load(Ordering::Relaxed),
        }
    }

    pub(super) fn count_refusal(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// The pieces that are registered with any container; none while someone registers for longer than
    /// `patience`.
    pub(crate) fn pieces_within(&self, patience: Duration) -> Option<MutexGuard<'_, Vec<Piece>>> {
        self.pieces.try_lock_for(patience)
    }

    /// The same, however long it takes.
    pub(super) fn pieces(&self) -> MutexGuard<'_, Vec<Piece>> {
        self.pieces.lock()
    }

    /// Counts a registration with one more container, of a piece that had this many.
    pub(super) fn count_registered(&self, bytes: u64, holders: u32) {
        self.registrations.fetch_add(1, Ordering::Relaxed);
        if holders == 0 {
            let before = self.locked_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.peak_bytes.fetch_max(before + bytes, Ordering::Relaxed);
        }
    }

    /// Counts a piece that no container has registered any more.
    pub(super) fn count_unlocked(&self, bytes: u64) {
        self.locked_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

const fn is_whole_pages(start: u64, bytes: u64) -> bool {
    bytes != 0 && (start | bytes) & PageShift::SIZE_4K.offset_mask() == 0
}

/// Cuts one piece of RAM at multiples of the block size, and where its host memory ends.
fn cut<M: GuestMemory>(
    memory: &M,
    ram: std::ops::Range<u64>,
    size: RegionSize,
    blocks: &mut Vec<Block>,
) -> Result<(), RamError> {
    let mut at = ram.start;
    while at < ram.end {
        let guest = GuestPhysicalAddress(at);
        let host = memory.host_range(guest).ok_or(RamError::NoMemory(guest))?;
        let to_boundary = size.bytes() - (at & (size.bytes() - 1));
        let bytes = to_boundary.min(ram.end - at).min(host.bytes);
        let fits = host.start.0.checked_add(bytes).is_some();
        if !fits || !is_whole_pages(host.start.0, bytes) {
            return Err(RamError::BadPiece {
                start: guest,
                bytes,
            });
        }
        blocks.push(Block {
            guest,
            host: HostRange {
                start: host.start,
                bytes,
            },
            present: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
        });
        at += bytes;
    }
    Ok(())
}
