//! Regions of a VFIO device: its BARs, expansion ROM and configuration space.

use std::fmt;
use std::io;
use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::slice;

use log::Level;
use spapr_hypercalls::address::HostVirtualAddress;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ROM_REGION_INDEX,
    VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, VFIO_REGION_INFO_CAP_SPARSE_MMAP,
    VFIO_REGION_INFO_FLAG_CAPS, VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
};

use crate::guest_message;

/// Which region of a PCI device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionIndex(u32);

impl RegionIndex {
    /// The expansion ROM.
    pub const ROM: Self = Self(VFIO_PCI_ROM_REGION_INDEX);
    /// Configuration space.
    pub const CONFIG: Self = Self(VFIO_PCI_CONFIG_REGION_INDEX);
    /// All regions of a PCI device that are of use here: six BARs, ROM and configuration space.
    pub(super) const COUNT: u32 = VFIO_PCI_CONFIG_REGION_INDEX + 1;

    /// A base address register, 0 to 5; `None` above.
    pub const fn bar(number: u8) -> Option<Self> {
        if number < 6 {
            Some(Self(VFIO_PCI_BAR0_REGION_INDEX + number as u32))
        } else {
            None
        }
    }

    /// All regions, in order.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    /// VFIO's number of it.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for RegionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ROM => f.write_str("expansion ROM"),
            Self::CONFIG => f.write_str("configuration space"),
            Self(number) => write!(f, "BAR {number}"),
        }
    }
}

/// A region of a device as VFIO describes it (VFIO_DEVICE_GET_REGION_INFO).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Which.
    pub index: RegionIndex,
    /// Its size in bytes; 0 for a BAR that the device does not have.
    pub bytes: u64,
    /// Where it starts in the device's file descriptor.
    pub(super) fd_offset: u64,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether it, or some of it, can be mapped.
    pub mappable: bool,
    /// The parts that can be mapped, as offsets in bytes, when it is not the whole region.
    pub sparse: Option<Vec<Range<u64>>>,
    /// Whether the pages of the MSI-X table can be mapped with the rest.
    pub msix_mappable: bool,
}

/// Words of a `vfio_region_info` without capabilities.
pub(super) const REGION_INFO_WORDS: usize = size_of::<vfio_region_info>() / 4;

/// Where the fields of `vfio_region_info` are, in words.
mod word {
    use super::{offset_of, vfio_region_info};

    pub(super) const ARGUMENT_SIZE: usize = offset_of!(vfio_region_info, argsz) / 4;
    pub(super) const FLAGS: usize = offset_of!(vfio_region_info, flags) / 4;
    pub(super) const INDEX: usize = offset_of!(vfio_region_info, index) / 4;
    pub(super) const CAPABILITIES: usize = offset_of!(vfio_region_info, cap_offset) / 4;
    pub(super) const BYTES: usize = offset_of!(vfio_region_info, size) / 4;
    pub(super) const OFFSET: usize = offset_of!(vfio_region_info, offset) / 4;
}

/// A request for `index` with room for what the kernel said it has to tell.
pub(super) fn request(index: RegionIndex, words: usize) -> Vec<u32> {
    let mut request = vec![0; words.max(REGION_INFO_WORDS)];
    request[word::INDEX] = index.0;
    request
}

/// How many words the kernel's answer takes with its capabilities.
pub(super) fn words_needed(answer: &[u32]) -> usize {
    answer
        .get(word::ARGUMENT_SIZE)
        .map_or(0, |&bytes| bytes.div_ceil(4) as usize)
}

fn doubleword(words: &[u32], at: usize) -> Option<u64> {
    let pair = [*words.get(at)?, *words.get(at + 1)?];
    let bytes: Vec<u8> = pair.into_iter().flat_map(u32::to_ne_bytes).collect();
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

impl Region {
    /// What the kernel answered; `None` when the answer is cut short.
    pub(super) fn parse(index: RegionIndex, answer: &[u32]) -> Option<Self> {
        let flags = *answer.get(word::FLAGS)?;
        let mut region = Self {
            index,
            bytes: doubleword(answer, word::BYTES)?,
            fd_offset: doubleword(answer, word::OFFSET)?,
            readable: flags & VFIO_REGION_INFO_FLAG_READ != 0,
            writable: flags & VFIO_REGION_INFO_FLAG_WRITE != 0,
            mappable: flags & VFIO_REGION_INFO_FLAG_MMAP != 0,
            sparse: None,
            msix_mappable: false,
        };
        if flags & VFIO_REGION_INFO_FLAG_CAPS != 0 {
            region.parse_capabilities(answer);
        }
        Some(region)
    }

    /// Follows the chain of capabilities: each has an id and version in its first word (two
    /// halves, in memory order) and the byte offset of the next in its second.
    fn parse_capabilities(&mut self, answer: &[u32]) {
        let mut at = answer[word::CAPABILITIES] as usize / 4;
        // A chain cannot have more links than there are words: one that does runs in circles.
        for _ in 0..answer.len() {
            let (Some(id), Some(next)) = (answer.get(at), answer.get(at + 1)) else {
                return;
            };
            if at < REGION_INFO_WORDS {
                return;
            }
            let bytes = id.to_ne_bytes();
            match u32::from(u16::from_ne_bytes([bytes[0], bytes[1]])) {
                VFIO_REGION_INFO_CAP_SPARSE_MMAP => self.sparse = Some(sparse_areas(answer, at)),
                VFIO_REGION_INFO_CAP_MSIX_MAPPABLE => self.msix_mappable = true,
                _ => {}
            }
            at = *next as usize / 4;
        }
    }

    /// The parts of the region to map, as offsets in bytes that begin and end on pages of the
    /// host. The last page may reach beyond the region: the kernel lets a BAR smaller than a page
    /// be mapped only when nothing else is in that page (`vfio_pci_probe_mmaps` in
    /// drivers/vfio/pci/vfio_pci_core.c).
    pub(super) fn areas_to_map(&self, page_bytes: u64) -> Vec<Range<u64>> {
        if !self.mappable || self.bytes == 0 {
            return Vec::new();
        }
        let whole = 0..self.bytes;
        let areas = match &self.sparse {
            Some(areas) => areas.as_slice(),
            None => slice::from_ref(&whole),
        };
        areas
            .iter()
            .filter_map(|area| {
                let start = area.start.checked_next_multiple_of(page_bytes)?;
                let end = if area.end == self.bytes {
                    area.end.checked_next_multiple_of(page_bytes)?
                } else {
                    area.end.min(self.bytes) / page_bytes * page_bytes
                };
                (start < end).then_some(start..end)
            })
            .collect()
    }
}

/// The areas of a `vfio_region_info_cap_sparse_mmap` at word `at`: their number follows the
/// header, they follow two words after that, each an offset and a size.
fn sparse_areas(answer: &[u32], at: usize) -> Vec<Range<u64>> {
    let count = answer.get(at + 2).copied().unwrap_or(0) as usize;
    (0..count.min(answer.len()))
        .map_while(|area| {
            let start = doubleword(answer, at + 4 + 4 * area)?;
            let end = start.checked_add(doubleword(answer, at + 6 + 4 * area)?)?;
            Some(start..end)
        })
        .collect()
}

/// A part of a region, mapped into this process: registers of the device, to be given to a guest.
///
/// Dropping it unmaps it.
#[derive(Debug)]
pub struct RegionMapping {
    address: NonNull<u8>,
    bytes: usize,
    offset: u64,
}

// SAFETY: the mapping belongs to the process, not to a thread, and this type gives out nothing
// but its address.
unsafe impl Send for RegionMapping {}
// SAFETY: as above.
unsafe impl Sync for RegionMapping {}

impl RegionMapping {
    /// Maps `area` (offsets in whole pages) of `region` of an open device.
    pub(super) fn new(
        device: BorrowedFd<'_>,
        region: &Region,
        area: &Range<u64>,
    ) -> io::Result<Self> {
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let bytes = usize::try_from(area.end - area.start).map_err(too_large)?;
        let at = libc::off_t::try_from(region.fd_offset.saturating_add(area.start))
            .map_err(too_large)?;
        let read = if region.readable { libc::PROT_READ } else { 0 };
        let write = if region.writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a new mapping at an address that the kernel chooses touches no other memory.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                read | write,
                libc::MAP_SHARED,
                device.as_raw_fd(),
                at,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Self {
            address,
            bytes,
            offset: area.start,
        })
    }

    /// Where it is in this process.
    pub fn host_address(&self) -> HostVirtualAddress {
        HostVirtualAddress(self.as_ptr().expose_provenance() as u64)
    }

    /// Where it is in this process, as a pointer: for volatile accesses of up to
    /// [`RegionMapping::bytes`] bytes, while this value lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Its size in bytes, whole pages of the host: it may reach beyond the region's end.
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Where in the region it starts, in bytes.
    pub fn region_offset(&self) -> u64 {
        self.offset
    }
}

impl Drop for RegionMapping {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, whose address and length these are, and nothing it
        // gave out may be used after it.
        if unsafe { libc::munmap(self.address.as_ptr().cast(), self.bytes) } != 0 {
            guest_message!(
                Level::Warn,
                "munmap of a device's region failed: {}",
                io::Error::last_os_error()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BAR0: RegionIndex = RegionIndex(0);

    fn words(bytes: &[u64]) -> Vec<u32> {
        bytes
            .iter()
            .flat_map(|double| {
                let bytes = double.to_ne_bytes();
                [
                    u32::from_ne_bytes(bytes[..4].try_into().unwrap()),
                    u32::from_ne_bytes(bytes[4..].try_into().unwrap()),
                ]
            })
            .collect()
    }

    fn halves(low: u16, high: u16) -> u32 {
        let (low, high) = (low.to_ne_bytes(), high.to_ne_bytes());
        u32::from_ne_bytes([low[0], low[1], high[0], high[1]])
    }

    /// A region of 0x30000 bytes with a sparse-mmap capability of two areas, then MSIX_MAPPABLE.
    fn answer_with_capabilities() -> Vec<u32> {
        let mut answer = vec![0, 0xf, 0, 32];
        answer.extend(words(&[0x3_0000, 0x1_0000_0000]));
        answer.extend([halves(1, 1), 80, 2, 0]);
        answer.extend(words(&[0, 0x1_0000, 0x2_0000, 0x1_0000]));
        answer.extend([halves(3, 1), 0]);
        answer
    }

    #[test]
    fn capabilities_are_read_along_their_chain() {
        let region = Region::parse(BAR0, &answer_with_capabilities()).unwrap();
        assert_eq!(region.bytes, 0x3_0000);
        assert_eq!(region.fd_offset, 0x1_0000_0000);
        assert!(region.readable && region.writable && region.mappable && region.msix_mappable);
        assert_eq!(region.sparse, Some(vec![0..0x1_0000, 0x2_0000..0x3_0000]));
        assert_eq!(
            region.areas_to_map(0x1_0000),
            [0..0x1_0000, 0x2_0000..0x3_0000]
        );
    }

    #[test]
    fn a_chain_that_runs_in_circles_ends() {
        let mut answer = answer_with_capabilities();
        let last = answer.len() - 1;
        answer[last] = 32;
        assert!(Region::parse(BAR0, &answer).unwrap().msix_mappable);
    }

    #[test]
    fn a_bar_smaller_than_a_page_is_mapped_as_a_page() {
        let mut answer = vec![0, 7, 0, 0];
        answer.extend(words(&[0x4000, 0]));
        let mut region = Region::parse(BAR0, &answer).unwrap();
        assert_eq!(region.areas_to_map(0x1_0000), vec![0..0x1_0000; 1]);
        assert_eq!(region.areas_to_map(0x1000), vec![0..0x4000; 1]);
        region.mappable = false;
        assert!(region.areas_to_map(0x1000).is_empty());
    }

    #[test]
    fn an_area_that_shares_a_page_with_what_may_not_be_mapped_loses_that_page() {
        let mut region = Region::parse(BAR0, &answer_with_capabilities()).unwrap();
        region.sparse = Some(vec![0..0x2000, 0x3000..0x3_0000]);
        assert_eq!(region.areas_to_map(0x1_0000), vec![0x1_0000..0x3_0000; 1]);
    }

    #[test]
    fn regions_print_as_people_call_them() {
        assert_eq!(RegionIndex::bar(5).unwrap().to_string(), "BAR 5");
        assert_eq!(RegionIndex::bar(6), None);
        assert_eq!(RegionIndex::CONFIG.to_string(), "configuration space");
        assert_eq!(RegionIndex::ROM.to_string(), "expansion ROM");
    }

    proptest! {
        #[test]
        fn no_answer_makes_parsing_fail_other_than_as_cut_short(
            answer in prop::collection::vec(prop_oneof![0u32..96, any::<u32>()], 0..40),
            page_shift in 12u32..=16,
        ) {
            if let Some(region) = Region::parse(BAR0, &answer) {
                let page = 1u64 << page_shift;
                for area in region.areas_to_map(page) {
                    prop_assert!(area.start % page == 0 && area.end % page == 0);
                    prop_assert!(area.start < area.end);
                }
            } else {
                prop_assert!(answer.len() < REGION_INFO_WORDS);
            }
        }
    }
}
