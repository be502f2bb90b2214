//! What the user chooses, as data: how TCE hypercalls are served and when memory is locked.

pub(crate) mod adaptive;

use crate::locking::RegionSize;

/// Who serves the TCE hypercalls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TcePolicy {
    /// Whoever is cheaper for what the guest does, and safe: single entries in the kernel where it can,
    /// bulk calls in user space, coalesced; short and scattered lists in the kernel, if it has been shown
    /// to check where their range ends.
    #[default]
    Auto,
    /// The kernel, bulk calls included; what it cannot do falls back to user space. For trusted guests:
    /// before Linux 7, the kernel does not check where a bulk call's range ends.
    Kernel,
    /// User space alone.
    User,
}

impl TcePolicy {
    /// Whether a window's LIOBN is to be bound to the IOMMU group through a kernel table.
    pub const fn binds_kernel_table(self) -> bool {
        !matches!(self, Self::User)
    }

    /// Whether H_PUT_TCE_INDIRECT and H_STUFF_TCE are enabled in the kernel
    /// (KVM_CAP_PPC_ENABLE_HCALL) from the start and for good.
    pub const fn bulk_calls_in_kernel(self) -> bool {
        matches!(self, Self::Kernel)
    }

    /// Whether lists may be handed over to the kernel and taken back while the guest runs.
    pub const fn adapts_bulk_calls(self) -> bool {
        matches!(self, Self::Auto)
    }
}

/// When guest memory is locked for DMA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LockPolicy {
    /// Region by region, as the guest first maps a page of each.
    #[default]
    FirstMap,
    /// All of it before the guest runs.
    Attach,
}

/// All that the engine is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Who serves the calls.
    pub tce: TcePolicy,
    /// When memory is locked.
    pub lock: LockPolicy,
    /// How large the pieces are in which memory is locked; `None` chooses
    /// ([`Policy::region_size`]).
    pub region: Option<RegionSize>,
    /// How much is locked at once of a region that is not present yet; `None`, or what is no smaller
    /// than a region: all of it.
    pub block: Option<RegionSize>,
}

impl Policy {
    /// The size of the regions for `ram_bytes` of RAM: as chosen, else by the size of RAM
    /// ([`RegionSize::for_ram`]). Where the kernel serves lists, it walks all regions twice for each of their
    /// pages, and nothing of that is saved here: then there are few ([`RegionSize::for_few_in`]).
    pub fn region_size(&self, ram_bytes: u64) -> RegionSize {
        self.region.unwrap_or_else(|| {
            if self.tce.bulk_calls_in_kernel() {
                RegionSize::for_few_in(ram_bytes)
            } else {
                RegionSize::for_ram(ram_bytes)
            }
        })
    }

    /// In how many pieces a region may be locked before the rest of it is made present, whoever waits for it: the
    /// kernel walks all of them for every TCE. Where it serves lists, all is made present first, a block with each
    /// time that a call is made again, and the region is one piece.
    pub(crate) const fn crowd(&self) -> usize {
        if self.tce.bulk_calls_in_kernel() {
            0
        } else {
            4
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_lists_in_the_kernel_memory_is_few_regions() {
        let bytes = |tce, region, ram_bytes| {
            let policy = Policy {
                tce,
                region,
                ..Policy::default()
            };
            policy.region_size(ram_bytes).bytes()
        };
        assert_eq!(bytes(TcePolicy::Auto, None, 1 << 30), 256 << 20);
        assert_eq!(bytes(TcePolicy::Kernel, None, 1 << 30), 1 << 30);
        assert_eq!(bytes(TcePolicy::Kernel, None, 3 << 30), 2 << 30);
        assert_eq!(bytes(TcePolicy::Kernel, None, 1 << 40), 16 << 30);
        let chosen = RegionSize::new(32 << 20);
        assert_eq!(bytes(TcePolicy::Kernel, chosen, 1 << 30), 32 << 20);
    }
}
