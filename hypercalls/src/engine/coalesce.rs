//! Runs: how a list of entries becomes as few requests to the host as possible.
//!
//! Entries that follow each other in guest address, with the same permission and in one block of
//! memory, are one run, hence one VFIO_IOMMU_MAP_DMA: the kernel takes one ioctl and flushes once
//! for all of it. A run ends with its block because each entry's page has to be in one registered piece
//! of memory (`tce_iommu_prereg_ua_to_hpa` in drivers/vfio/vfio_iommu_spapr_tce.c), and with it ends
//! the contiguous host memory. Entries without permission that follow each other are one run that
//! unmaps, whatever their address bits.

use crate::address::{HostVirtualAddress, PageShift};
use crate::locking::Regions;
use crate::tce::{Permission, Tce};

/// Entries of a list that are one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first of them, in the list.
    // A start and a count: a range's length is a comparison more.
    pub(super) start: usize,
    /// How many.
    pub(super) count: usize,
    /// What to do with them.
    pub(super) target: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Unmap.
    Clear,
    /// Map to host memory that starts here.
    Map {
        block: usize,
        start: HostVirtualAddress,
        permission: Permission,
    },
    /// The run's one entry names no page of RAM.
    Invalid,
}

/// The runs of a list, in order. The list is the engine's own copy: going through it twice yields
/// the same runs.
#[derive(Clone, Debug)]
pub(super) struct Runs<'a> {
    list: &'a [u64],
    at: usize,
    page: PageShift,
    regions: &'a Regions,
}

impl<'a> Runs<'a> {
    pub(super) const fn new(list: &'a [u64], page: PageShift, regions: &'a Regions) -> Self {
        Self {
            list,
            at: 0,
            page,
            regions,
        }
    }

    /// Where the entry maps to, and how many entries from it on its block has room for.
    #[inline]
    pub(super) fn target(&self, tce: Tce) -> (Target, usize) {
        let permission = tce.permission();
        if permission.is_none() {
            return (Target::Clear, usize::MAX);
        }
        let found = self
            .regions
            .find(tce.address())
            .filter(|_| tce.is_page_aligned(self.page));
        let Some(found) = found else {
            return (Target::Invalid, 1);
        };
        match usize::try_from(found.host.bytes >> self.page.get()) {
            Ok(0) | Err(_) => (Target::Invalid, 1),
            Ok(room) => (
                Target::Map {
                    block: found.block,
                    start: found.host.start,
                    permission,
                },
                room,
            ),
        }
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    // Inlined, and what counts more than one entry is not: in a list that is all over memory each entry is a
    // run of its own, and none pays for the registers that counting takes.
    #[inline(always)]
    fn next(&mut self) -> Option<Run> {
        let start = self.at;
        let first = *self.list.get(start)?;
        let rest = self.list.get(start + 1..).unwrap_or_default();
        let (target, room) = self.target(Tce(first));
        let page_bytes = self.page.bytes();
        let following = match (target, rest.first()) {
            (Target::Map { .. }, Some(&next)) if next == first.wrapping_add(page_bytes) => {
                count_following(rest, room - 1, first, page_bytes)
            }
            (Target::Clear, Some(&next)) if Tce(next).permission().is_none() => count_clear(rest),
            _ => 0,
        };
        let count = 1 + following;
        self.at += count;
        Some(Run {
            start,
            count,
            target,
        })
    }
}

/// Entries compared at once; a power of two that vector units like.
const STRIDE: usize = 8;

/// How many entries from the start of `rest` on have no permission.
#[inline(never)]
fn count_clear(rest: &[u64]) -> usize {
    rest.iter()
        .take_while(|&&tce| Tce(tce).permission().is_none())
        .count()
}

/// How many entries from the start of `rest` on, at most `room`, are one page after the one before, the
/// first of them after `first`.
#[inline(never)]
fn count_following(rest: &[u64], room: usize, first: u64, page_bytes: u64) -> usize {
    let rest = rest.get(..room).unwrap_or(rest);
    let mut expected = first.wrapping_add(page_bytes);
    let mut count = 0;
    for stride in rest.as_chunks::<STRIDE>().0 {
        let mut difference = 0;
        let mut each = expected;
        for tce in stride {
            difference |= tce ^ each;
            each = each.wrapping_add(page_bytes);
        }
        if difference != 0 {
            break;
        }
        expected = each;
        count += STRIDE;
    }
    let follows = |&&tce: &&u64| {
        let follows = tce == expected;
        expected = expected.wrapping_add(page_bytes);
        follows
    };
    count + rest[count..].iter().take_while(follows).count()
}
