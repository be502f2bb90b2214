//! Guest RAM: one piece of anonymous memory at guest address 0.

mod clearing;

use std::fs;
use std::io;
use std::slice;
use std::thread;

use log::Level;
use spapr_devices::guest_message;
use spapr_devices::vfio::host_page_bytes;
use spapr_hypercalls::address::{GuestPhysicalAddress, HostVirtualAddress};
use spapr_hypercalls::world::{GuestMemory, HostRange, NotGuestRam};
use vm_memory::mmap::{FromRangesError, MmapRegionError};
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

use crate::hugepages::{self, HugepageError};
use crate::process_limits::{Limit, soft_limit};
use crate::setting::Setting;
use crate::spec::{ByteSize, HugepageSize};

/// What guest memory is a multiple of: 16 MiB, so that every region that is registered for DMA and
/// every memory slot starts and ends on a host page of any size up to 16 MiB.
pub const ALIGNMENT_BYTES: u64 = 16 << 20;

/// Least guest memory: what a distribution's kernel and a small initrd need to start.
pub const LEAST_BYTES: u64 = 128 << 20;

/// Memory for each processor below which a guest is warned of.
const BYTES_PER_CPU: u64 = 4 << 20;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Less than a kernel can start in.
    #[error("guest memory of {size} is too small; give at least {least}")]
    TooSmall {
        /// As asked for.
        size: ByteSize,
        /// The least.
        least: ByteSize,
    },
    /// Not a multiple of [`ALIGNMENT_BYTES`].
    #[error("guest memory of {bytes} bytes is not a multiple of {alignment}; {next} would be")]
    Unaligned {
        /// As asked for.
        bytes: u64,
        /// What it has to be a multiple of.
        alignment: ByteSize,
        /// The next larger size that is.
        next: ByteSize,
    },
    /// More than the host has.
    #[error("guest memory of {size} is more than this host has ({host_bytes} bytes); give less")]
    MoreThanHost {
        /// As asked for.
        size: ByteSize,
        /// MemTotal of /proc/meminfo.
        host_bytes: u64,
    },
    /// The host does not give the address space.
    #[error("cannot map {size} of guest memory; {}", map_advice(*.size, *.limit_bytes))]
    Map {
        /// As asked for.
        size: ByteSize,
        /// RLIMIT_AS, if there is one.
        limit_bytes: Option<u64>,
        /// Why.
        source: FromRangesError,
    },
    /// Not in huge pages.
    #[error(transparent)]
    Hugepages(#[from] HugepageError),
    /// /proc/meminfo cannot be read.
    #[error("cannot read how much memory the host has from /proc/meminfo")]
    Meminfo(#[source] io::Error),
}

impl MemoryError {
    /// What of the user's choice it is about.
    pub fn setting(&self) -> Option<Setting> {
        match self {
            Self::TooSmall { .. }
            | Self::Unaligned { .. }
            | Self::MoreThanHost { .. }
            | Self::Map { .. } => Some(Setting::Memory),
            Self::Hugepages(_) => Some(Setting::Hugepages),
            Self::Meminfo(_) => None,
        }
    }
}

/// What to do about memory that cannot be mapped.
fn map_advice(size: ByteSize, limit_bytes: Option<u64>) -> String {
    match limit_bytes {
        Some(limit) => format!(
            "the limit on address space is {} KiB (ulimit -v), and guest memory alone takes {} KiB: raise \
             the limit or give less",
            limit >> 10,
            size.0 >> 10
        ),
        None => "free some memory or give less".to_owned(),
    }
}

/// Guest RAM, from guest address 0 on, without holes. Clones are the same memory.
#[derive(Clone, Debug)]
pub struct GuestRam {
    memory: GuestMemoryMmap,
    host_start: HostVirtualAddress,
    bytes: u64,
    page_bytes: u64,
    /// Whether its pages come from a pool that others take from.
    is_of_pool: bool,
}

impl GuestRam {
    /// Maps `size` of guest memory. Nothing of it is touched or locked.
    ///
    /// # Errors
    /// When the size is none a guest can run in, or more than the host has.
    pub fn new(size: ByteSize) -> Result<Self, MemoryError> {
        check_size(size, host_memory_bytes().map_err(MemoryError::Meminfo)?)?;
        let length = usize::try_from(size.0).unwrap_or(usize::MAX);
        let memory = map(length).map_err(|source| MemoryError::Map {
            size,
            limit_bytes: soft_limit(Limit::AddressSpace),
            source,
        })?;
        Ok(Self::of(memory, size, None))
    }

    /// Maps `size` of guest memory in huge pages, all of which are there when this returns. None of
    /// it is locked.
    ///
    /// # Errors
    /// As for [`GuestRam::new`], or when the host has too few huge pages.
    pub fn in_hugepages(size: ByteSize, pages: HugepageSize) -> Result<Self, MemoryError> {
        check_size(size, host_memory_bytes().map_err(MemoryError::Meminfo)?)?;
        Ok(Self::of(pages.map(size)?, size, Some(pages)))
    }

    fn of(memory: GuestMemoryMmap, size: ByteSize, pages: Option<HugepageSize>) -> Self {
        let host_start = memory
            .iter()
            .filter_map(|region| {
                region
                    .get_host_address(vm_memory::MemoryRegionAddress(0))
                    .ok()
            })
            .map(|pointer| HostVirtualAddress(pointer.addr() as u64))
            .next()
            .unwrap_or(HostVirtualAddress(0));
        for region in memory.iter() {
            keep_out_of_core_files(region);
        }
        Self {
            memory,
            host_start,
            bytes: size.0,
            page_bytes: pages.map_or_else(host_page_bytes, |pages| pages.bytes().0),
            is_of_pool: pages.is_some(),
        }
    }

    /// Size in bytes of the host's pages that it is made of.
    pub fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// The memory as rust-vmm's crates know it.
    pub fn mmap(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of it, in this process' address space.
    pub fn host_range(&self) -> HostRange {
        HostRange {
            start: self.host_start,
            bytes: self.bytes,
        }
    }
}

/// Bytes that are made present with one call, during which the kernel keeps others from changing the process'
/// memory: one that locks memory waits for it. A transparent huge page is as large.
const POPULATED_AT_ONCE: usize = 2 << 20;

/// Maps so many bytes at guest address 0, of transparent huge pages where there are some.
///
/// A process that locks all its memory (mlockall(2) with MCL_FUTURE) gets the pages as soon as it may
/// write there. So nobody may at first: the kernel has to be asked for huge pages before it makes any.
fn map(length: usize) -> Result<GuestMemoryMmap, FromRangesError> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let region = MmapRegion::build(None, length, libc::PROT_NONE, flags)?;
    let region =
        GuestRegionMmap::new(region, GuestAddress(0)).ok_or(FromRangesError::InvalidGuestRegion)?;
    ask_for_huge_pages(&region);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range is one mapping of the region's, which nobody uses yet.
    if unsafe { libc::mprotect(region.as_ptr().cast(), length, protection) } != 0 {
        return Err(MmapRegionError::Mmap(io::Error::last_os_error()).into());
    }
    Ok(GuestMemoryMmap::from_regions(vec![region])?)
}

/// Has the kernel make memory of transparent huge pages where it can (`madvise` or `always` in
/// /sys/kernel/mm/transparent_hugepage/enabled): one is cleared at a fraction of what its small pages cost, and
/// the processor finds its translation sooner.
fn ask_for_huge_pages(region: &GuestRegionMmap) {
    let length = usize::try_from(region.len()).unwrap_or(usize::MAX);
    // SAFETY: the range is one mapping of the region's; the advice changes nothing in it.
    let result = unsafe { libc::madvise(region.as_ptr().cast(), length, libc::MADV_HUGEPAGE) };
    if result != 0 {
        // A kernel without them is no matter.
        log::debug!(
            "guest memory is of small pages: {}",
            io::Error::last_os_error()
        );
    }
}

/// A core file of this process has nothing of its guest in it.
fn keep_out_of_core_files(region: &GuestRegionMmap) {
    let length = usize::try_from(region.len()).unwrap_or(usize::MAX);
    // SAFETY: the range is one mapping of the region's; the advice changes nothing in it.
    let result = unsafe { libc::madvise(region.as_ptr().cast(), length, libc::MADV_DONTDUMP) };
    if result != 0 {
        let error = io::Error::last_os_error();
        guest_message!(Level::Warn, "guest memory would be in a core file: {error}");
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
        let all = self.host_range().start.0..=self.host_range().start.0 + self.bytes;
        let end = range.start.0.checked_add(range.bytes);
        if !all.contains(&range.start.0) || !end.is_some_and(|end| all.contains(&end)) {
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
        let bytes = self
            .bytes
            .checked_sub(address.0)
            .filter(|&bytes| bytes != 0)?;
        Some(HostRange {
            start: HostVirtualAddress(self.host_start.0 + address.0),
            bytes,
        })
    }
}

/// What a Linux guest with `cpus` processors should have, when `bytes` is so much less that it may run out
/// of memory as it starts: it has areas, stacks and threads for each of them.
pub fn more_memory_for(cpus: u32, bytes: u64) -> Option<ByteSize> {
    let wanted = u64::from(cpus).saturating_mul(BYTES_PER_CPU);
    (bytes < wanted).then(|| ByteSize(wanted.next_power_of_two()))
}

/// Whether a guest can have memory of `size` on a host with `host_bytes`.
///
/// # Errors
/// When it is too small, unaligned, or more than the host has.
pub(crate) fn check_size(size: ByteSize, host_bytes: u64) -> Result<(), MemoryError> {
    if size.0 < LEAST_BYTES {
        return Err(MemoryError::TooSmall {
            size,
            least: ByteSize(LEAST_BYTES),
        });
    }
    if size.0 > host_bytes {
        return Err(MemoryError::MoreThanHost { size, host_bytes });
    }
    if !size.0.is_multiple_of(ALIGNMENT_BYTES) {
        return Err(MemoryError::Unaligned {
            bytes: size.0,
            alignment: ByteSize(ALIGNMENT_BYTES),
            next: ByteSize(size.0.next_multiple_of(ALIGNMENT_BYTES)),
        });
    }
    Ok(())
}

fn host_memory_bytes() -> io::Result<u64> {
    let no_line = || io::Error::new(io::ErrorKind::InvalidData, "no MemTotal line");
    meminfo_bytes("MemTotal:")?.ok_or_else(no_line)
}

/// Whether the host keeps areas for contiguous allocations (CMA): a page there is moved before it is locked for
/// long.
pub fn has_contiguous_areas() -> bool {
    meminfo_bytes("CmaTotal:").is_ok_and(|bytes| bytes.is_some_and(|bytes| bytes > 0))
}

/// A number of /proc/meminfo; none if it has no such line.
fn meminfo_bytes(key: &str) -> io::Result<Option<u64>> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let bytes = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| {
            rest.trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .ok()
        })
        .map(|kibibytes| kibibytes << 10);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn so_many_processors_want_more_memory() {
        assert_eq!(more_memory_for(1, LEAST_BYTES), None);
        assert_eq!(more_memory_for(256, 1 << 30), None);
        assert_eq!(more_memory_for(257, 1 << 30), Some(ByteSize(2 << 30)));
        assert_eq!(more_memory_for(1000, 1 << 30), Some(ByteSize(4 << 30)));
    }

    fn refusal(bytes: u64) -> String {
        check_size(ByteSize(bytes), 8 << 30)
            .expect_err("refused")
            .to_string()
    }

    #[test]
    fn sizes_no_guest_can_run_in_are_refused_with_the_value_and_the_remedy() {
        assert_eq!(
            refusal(0),
            "guest memory of 0 is too small; give at least 128M"
        );
        assert_eq!(
            refusal((1 << 30) + 4096),
            "guest memory of 1073745920 bytes is not a multiple of 16M; 1040M would be"
        );
        assert_eq!(
            refusal(16 << 30),
            "guest memory of 16G is more than this host has (8589934592 bytes); give less"
        );
        assert!(check_size(ByteSize(1 << 30), 8 << 30).is_ok());
    }

    #[test]
    fn a_refusal_to_map_is_told_once() {
        let size = ByteSize(1 << 30);
        let error = MemoryError::Map {
            size,
            limit_bytes: None,
            source: FromRangesError::MmapRegion(MmapRegionError::Mmap(
                io::Error::from_raw_os_error(libc::ENOMEM),
            )),
        };
        let text = spapr_devices::error_chain::chain(&error);
        assert_eq!(text.matches("os error 12").count(), 1, "{text}");
    }

    #[test]
    fn doublewords_are_read_big_endian_and_only_from_ram() {
        let ram = GuestRam::new(ByteSize(LEAST_BYTES)).expect("guest memory");
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
        let ram = GuestRam::new(ByteSize(LEAST_BYTES)).expect("guest memory");
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
}
