//! DMA windows: which entries a range of bus addresses names, and the window as the registry
//! holds it.

use std::ops::Range;

use crate::address::{Ioba, Liobn};
use crate::binding::Binding;
use crate::world::{Geometry, KernelTable};

impl Geometry {
    /// The entries that `count` pages from bus address `ioba` on name; `None` when `ioba` is not on
    /// a page boundary or when either end lies outside of the window.
    ///
    /// A `count` of 0 names no entry, yet `ioba` must lie in the window, as for the kernel's
    /// handlers (`iommu_tce_check_ioba` in arch/powerpc/kernel/iommu.c). They check the first page
    /// alone; the far end is checked here.
    ///
    /// ```
    /// use spapr_hypercalls::address::{Ioba, PageShift};
    /// use spapr_hypercalls::world::Geometry;
    ///
    /// let window =
    ///     Geometry { bus_offset: Ioba(0x10_0000), page_shift: PageShift::SIZE_4K, entries: 8 };
    /// assert_eq!(window.entries_at(Ioba(0x10_2000), 6), Some(2..8));
    /// assert_eq!(window.entries_at(Ioba(0x10_2000), 7), None);
    /// assert_eq!(window.entries_at(Ioba(0xf_f000), 1), None);
    /// assert_eq!(window.entries_at(Ioba(0x10_2004), 1), None);
    /// ```
    #[inline]
    pub fn entries_at(self, ioba: Ioba, count: u64) -> Option<Range<usize>> {
        if ioba.0 & self.page_shift.offset_mask() != 0 {
            return None;
        }
        let first = ioba.0.checked_sub(self.bus_offset.0)? >> self.page_shift.get();
        if first >= self.entries || count > self.entries - first {
            return None;
        }
        Some(usize::try_from(first).ok()?..usize::try_from(first + count).ok()?)
    }

    /// The bus address of entry `index`, which lies in the window.
    pub(crate) const fn ioba_of(self, index: usize) -> Ioba {
        Ioba(self.bus_offset.0 + ((index as u64) << self.page_shift.get()))
    }

    /// The length in bytes of `count` entries of the window.
    pub(crate) const fn bytes_of(self, count: usize) -> u64 {
        (count as u64) << self.page_shift.get()
    }

    /// The window's length in bytes; `None` when it has no entry, is not aligned to its pages, or
    /// does not fit the bus' 64-bit address space (the checks of `kvm_vm_ioctl_create_spapr_tce` in
    /// arch/powerpc/kvm/book3s_64_vio.c).
    ///
    /// ```
    /// use spapr_hypercalls::address::{Ioba, PageShift};
    /// use spapr_hypercalls::world::Geometry;
    ///
    /// let mut window =
    ///     Geometry { bus_offset: Ioba(1 << 59), page_shift: PageShift::SIZE_64K, entries: 16 };
    /// assert_eq!(window.bytes(), Some(1 << 20));
    /// window.entries = 1 << 48;
    /// assert_eq!(window.bytes(), None);
    /// ```
    pub fn bytes(self) -> Option<u64> {
        let aligned = self.bus_offset.0 & self.page_shift.offset_mask() == 0;
        let bytes = self.entries.checked_mul(self.page_shift.bytes())?;
        self.bus_offset.0.checked_add(bytes)?;
        usize::try_from(self.entries).ok()?;
        (aligned && bytes != 0).then_some(bytes)
    }
}

/// A window that the guest can name.
#[derive(Debug)]
pub(crate) struct Window<K> {
    pub(crate) liobn: Liobn,
    pub(crate) geometry: Geometry,
    pub(crate) binding: Binding<K>,
}

impl<K: KernelTable> Window<K> {
    /// A window of which the host knows nothing yet. `geometry` has been checked.
    pub(crate) const fn new(liobn: Liobn, geometry: Geometry) -> Self {
        Self {
            liobn,
            geometry,
            binding: Binding::Unlocked,
        }
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::PageShift;

    proptest! {
        #[test]
        fn a_range_is_accepted_exactly_when_every_page_of_it_is_in_the_window(
            offset_pages in 0..=1u64 << 40,
            entries in 1..=1u64 << 20,
            shift in 12..=34u8,
            ioba in prop_oneof![any::<u64>(), 0..1u64 << 44],
            near in 0..4u64,
            align in any::<bool>(),
            count in prop_oneof![any::<u64>(), 0..1u64 << 21],
        ) {
            let page_shift = PageShift::new(shift).unwrap();
            let bus_offset = Ioba((offset_pages << shift) & (u64::MAX >> 1));
            let geometry = Geometry { bus_offset, page_shift, entries };
            // Half of the cases lie around the far end.
            let ioba = match near {
                0 => ioba,
                near => bus_offset.0.wrapping_add((entries + near - 2) << shift),
            };
            let ioba = if align { ioba & !page_shift.offset_mask() } else { ioba };

            let (start, page) = (u128::from(bus_offset.0), u128::from(page_shift.bytes()));
            let end = start + u128::from(entries) * page;
            let at = u128::from(ioba);
            let valid = at % page == 0
                && at >= start
                && at + page <= end
                && at + u128::from(count) * page <= end;
            let first = valid.then(|| usize::try_from((at - start) / page).unwrap());
            let expected = first.map(|first| first..first + usize::try_from(count).unwrap());
            prop_assert_eq!(geometry.entries_at(Ioba(ioba), count), expected);
        }
    }

    #[test]
    fn no_entry_is_named_by_a_count_of_none() {
        let geometry = Geometry {
            bus_offset: Ioba(0),
            page_shift: PageShift::SIZE_4K,
            entries: 4,
        };
        assert_eq!(geometry.entries_at(Ioba(0x3000), 0), Some(3..3));
        assert_eq!(geometry.entries_at(Ioba(0x4000), 0), None);
    }
}
