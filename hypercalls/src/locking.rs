//! Guest RAM in regions that are locked one by one, as the guest first maps a page of each.
//!
//! The kernel walks its list of registered regions for every TCE (`mm_iommu_lookup` in
//! arch/powerpc/mm/book3s64/iommu_api.c), so there are few of them however much RAM there is; and
//! a region is the unit in which memory gets locked, so it is no larger than that asks for.

use std::sync::atomic::Ordering;

use crate::address::{GuestPhysicalAddress, HostVirtualAddress, PageShift};
use crate::stats::LockedMemory;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex};
use crate::world::{GuestMemory, GuestRange, HostError, HostIommu, HostRange};

/// Size of the regions that RAM is divided into, a power of two.
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

    /// The largest that [`RegionSize::for_ram`] chooses: to lock one takes seconds, and the guest's
    /// processor waits.
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

/// One region.
#[derive(Debug)]
struct Region {
    guest: GuestPhysicalAddress,
    host: HostRange,
    /// Containers that have it registered.
    holders: AtomicU32,
}

/// The regions of a machine, the same for all its containers.
#[derive(Debug)]
pub(crate) struct Regions {
    /// Sorted by guest address.
    all: Box<[Region]>,
    size: RegionSize,
    largest_page: PageShift,
    locked_bytes: AtomicU64,
    peak_bytes: AtomicU64,
    registrations: AtomicU64,
    refusals: AtomicU64,
}

/// A guest address' place in host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    /// Index of the region.
    pub(crate) region: usize,
    /// Host memory from the address to the region's end.
    pub(crate) host: HostRange,
}

impl Regions {
    pub(crate) fn new<M: GuestMemory>(
        memory: &M,
        ram: &[GuestRange],
        size: Option<RegionSize>,
    ) -> Result<Self, RamError> {
        let total = ram
            .iter()
            .map(|piece| piece.bytes)
            .fold(0, u64::saturating_add);
        let size = size.unwrap_or(RegionSize::for_ram(total));
        let mut all = Vec::new();
        let mut page_bits = size.bytes();
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
            cut(memory, start.0..end, size, &mut all)?;
        }
        for region in &all {
            page_bits |= region.host.start.0.wrapping_sub(region.guest.0);
        }
        let largest = page_bits.trailing_zeros().min(34);
        let largest_page = u8::try_from(largest).ok().and_then(PageShift::new);
        Ok(Self {
            all: all.into_boxed_slice(),
            size,
            largest_page: largest_page.unwrap_or(PageShift::SIZE_4K),
            locked_bytes: AtomicU64::new(0),
            peak_bytes: AtomicU64::new(0),
            registrations: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
        })
    }

    /// Where `address` is; `None` when it is no RAM.
    #[inline]
    pub(crate) fn find(&self, address: GuestPhysicalAddress) -> Option<Translation> {
        // In RAM without holes the quotient is the index; elsewhere it is a guess.
        let guess = usize::try_from(address.0 >> self.size.0).ok()?;
        match self.translate(guess, address) {
            None => self.search(address),
            found => found,
        }
    }

    #[cold]
    fn search(&self, address: GuestPhysicalAddress) -> Option<Translation> {
        let after = self.all.partition_point(|region| region.guest <= address);
        self.translate(after.checked_sub(1)?, address)
    }

    #[inline]
    fn translate(&self, index: usize, address: GuestPhysicalAddress) -> Option<Translation> {
        let region = self.all.get(index)?;
        let offset = address.0.checked_sub(region.guest.0)?;
        let bytes = region
            .host
            .bytes
            .checked_sub(offset)
            .filter(|&bytes| bytes != 0)?;
        let start = HostVirtualAddress(region.host.start.0 + offset);
        Some(Translation {
            region: index,
            host: HostRange { start, bytes },
        })
    }

    /// The largest IOMMU page that one region can hold, and whose alignment guest addresses share
    /// with the host addresses behind them.
    pub(crate) const fn largest_page(&self) -> PageShift {
        self.largest_page
    }

    pub(crate) const fn size(&self) -> RegionSize {
        self.size
    }

    pub(crate) fn snapshot(&self) -> LockedMemory {
        LockedMemory {
            regions: self.all.len(),
            region_bytes: self.size.bytes(),
            bytes: self.locked_bytes.load(Ordering::Relaxed),
            peak_bytes: self.peak_bytes.load(Ordering::Relaxed),
            registrations: self.registrations.load(Ordering::Relaxed),
            refusals: self.refusals.load(Ordering::Relaxed),
        }
    }

    fn count_registered(&self, region: &Region) {
        self.registrations.fetch_add(1, Ordering::Relaxed);
        if region.holders.fetch_add(1, Ordering::Relaxed) == 0 {
            let before = self
                .locked_bytes
                .fetch_add(region.host.bytes, Ordering::Relaxed);
            self.peak_bytes
                .fetch_max(before + region.host.bytes, Ordering::Relaxed);
        }
    }

    fn count_unregistered(&self, region: &Region) {
        if region.holders.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.locked_bytes
                .fetch_sub(region.host.bytes, Ordering::Relaxed);
        }
    }
}

const fn is_whole_pages(start: u64, bytes: u64) -> bool {
    bytes != 0 && (start | bytes) & PageShift::SIZE_4K.offset_mask() == 0
}

/// Cuts one piece of RAM at multiples of the region size, and where its host memory ends.
fn cut<M: GuestMemory>(
    memory: &M,
    ram: std::ops::Range<u64>,
    size: RegionSize,
    regions: &mut Vec<Region>,
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
        let holders = AtomicU32::new(0);
        regions.push(Region {
            guest,
            host: HostRange {
                start: host.start,
                bytes,
            },
            holders,
        });
        at += bytes;
    }
    Ok(())
}

/// Which regions one container has registered.
///
/// A region's flag is read without a lock by every map. Registering and unregistering it takes the
/// region's own mutex, so that two windows of a bridge that touch the same region first register it
/// once, and that different regions do not wait for each other.
#[derive(Debug)]
pub(crate) struct RegionLocks {
    regions: Box<[RegionLock]>,
    /// False in a container that locks by itself: every flag is set from the start.
    registers: bool,
}

#[derive(Debug)]
struct RegionLock {
    registered: AtomicBool,
    changing: Mutex<()>,
}

impl RegionLocks {
    pub(crate) fn new(regions: &Regions, registers: bool) -> Self {
        let fresh = |_| RegionLock {
            registered: AtomicBool::new(!registers),
            changing: Mutex::new(()),
        };
        Self {
            regions: regions.all.iter().map(fresh).collect(),
            registers,
        }
    }

    /// Whether pages of region `index` can be mapped.
    pub(crate) fn is_registered(&self, index: usize) -> bool {
        self.regions
            .get(index)
            .is_some_and(|lock| lock.registered.load(Ordering::Acquire))
    }

    /// Registers region `index` unless it is.
    pub(crate) fn register<H: HostIommu>(
        &self,
        host: &H,
        regions: &Regions,
        index: usize,
    ) -> Result<(), HostError> {
        let (Some(state), Some(region)) = (self.regions.get(index), regions.all.get(index)) else {
            return Ok(());
        };
        let _changing = state.changing.lock();
        if state.registered.load(Ordering::Acquire) {
            return Ok(());
        }
        host.register_memory(region.host).inspect_err(|_| {
            regions.refusals.fetch_add(1, Ordering::Relaxed);
        })?;
        regions.count_registered(region);
        state.registered.store(true, Ordering::Release);
        Ok(())
    }

    /// Registers every region.
    ///
    /// # Errors
    /// The first refusal; regions before it stay registered.
    pub(crate) fn register_all<H: HostIommu>(
        &self,
        host: &H,
        regions: &Regions,
    ) -> Result<(), HostError> {
        (0..self.regions.len()).try_for_each(|index| self.register(host, regions, index))
    }

    /// Unregisters every region. The caller sees to it that no window of the container maps.
    ///
    /// # Errors
    /// The first refusal, after all have been tried; what was refused stays registered.
    pub(crate) fn unregister_all<H: HostIommu>(
        &self,
        host: &H,
        regions: &Regions,
    ) -> Result<(), HostError> {
        if !self.registers {
            return Ok(());
        }
        let mut outcome = Ok(());
        for (state, region) in self.regions.iter().zip(&regions.all) {
            let _changing = state.changing.lock();
            if !state.registered.load(Ordering::Acquire) {
                continue;
            }
            match host.unregister_memory(region.host) {
                Ok(()) => {
                    state.registered.store(false, Ordering::Release);
                    regions.count_unregistered(region);
                }
                Err(refusal) => outcome = outcome.and(Err(refusal)),
            }
        }
        outcome
    }
}
