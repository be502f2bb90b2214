//! What dynamic DMA windows a host bridge offers its guest.

use spapr_hypercalls::address::PageShift;

use crate::vfio::{IommuInfo, IommuVersion, Platform};

/// Windows that a host bridge has at most, whatever its host can do: one LIOBN each.
const MOST_WINDOWS: u32 = 2;

/// The page sizes that a guest can be told of, and the bit that stands for each (PAPR 7.3.10.4,
/// ibm,query-pe-dma-window, "IO Page Sizes"; `iommu_get_page_shift` in
/// arch/powerpc/platforms/pseries/iommu.c, which has 2 MiB as well). There is none for 1 GiB.
const PAGE_SIZE_BITS: [(u8, u32); 9] = [
    (12, 0x001),
    (16, 0x002),
    (24, 0x004),
    (25, 0x008),
    (26, 0x010),
    (27, 0x020),
    (28, 0x040),
    (34, 0x080),
    (21, 0x100),
];

/// The page sizes and the size of the dynamic windows of a host bridge, and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    windows: u32,
    own_windows: u32,
    page_sizes: u64,
    largest_page: PageShift,
    bytes: u64,
    shared_window_bytes: Option<u64>,
}

impl WindowLimits {
    /// What a bridge whose container is `info` offers, with pages of at most `largest_page` and
    /// windows of at most `bytes`, rounded down to a power of two.
    ///
    /// `None` when it can offer none: a v1 container has one window, which is fixed; and a window
    /// has at least one page.
    pub fn new(info: &IommuInfo, largest_page: PageShift, bytes: u64) -> Option<Self> {
        let windows = info.dynamic_windows.min(MOST_WINDOWS);
        if info.version == IommuVersion::V1 || windows == 0 {
            return None;
        }
        let bytes = 1u64 << bytes.checked_ilog2()?;
        let offered = PAGE_SIZE_BITS
            .iter()
            .filter_map(|&(shift, _)| PageShift::new(shift))
            .filter(|&page| {
                info.has_page_size(page) && page <= largest_page && page.bytes() <= bytes
            });
        let page_sizes = offered.clone().fold(0, |sizes, page| sizes | page.bytes());
        // An LPAR's kernel notes each dynamic window in a property of the device's node, of one name: a second one
        // fails when the platform has made it already, and that costs the device all its windows
        // (`spapr_tce_create_table` in arch/powerpc/platforms/pseries/iommu.c).
        let own_windows = match info.platform {
            Platform::Lpar => 1,
            Platform::BareMetal => windows,
        };
        let largest = offered.max()?;
        Some(Self {
            windows,
            own_windows,
            page_sizes,
            largest_page: largest,
            bytes,
            // With larger pages each entry of the guest's would be 512 of the host's and more, and one call could keep a
            // processor for long. Where the host has one window, a guest removes the default one first.
            shared_window_bytes: info
                .shared_window_bytes(bytes)
                .filter(|_| largest <= PageShift::SIZE_64K && windows == MOST_WINDOWS),
        })
    }

    /// How many windows there may be at a time, the default one included.
    pub const fn windows(&self) -> u32 {
        self.windows
    }

    /// How many of those may be of the guest's own making: one in an LPAR, also when the default one has gone.
    pub const fn own_windows(&self) -> u32 {
        self.own_windows
    }

    /// The most bytes that a window may have, a power of two.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The size of the host's window that has the default window and a dynamic one at limited addresses inside it, in
    /// pages of 4 KiB; `None` where none is offered there.
    pub const fn shared_window_bytes(&self) -> Option<u64> {
        self.shared_window_bytes
    }

    /// The largest page size offered.
    pub const fn largest_page(&self) -> PageShift {
        self.largest_page
    }

    /// The page sizes offered; bit `n` stands for pages of `1 << n` bytes.
    pub const fn page_sizes(&self) -> u64 {
        self.page_sizes
    }

    /// The most entries that a window of the largest pages may have. Linux takes the largest pages,
    /// and a block of so many entries (`enable_ddw` in arch/powerpc/platforms/pseries/iommu.c).
    pub const fn entries(&self) -> u64 {
        self.bytes >> self.largest_page.get()
    }

    /// Whether a window may have pages of this size.
    pub const fn offers(&self, page: PageShift) -> bool {
        self.page_sizes & page.bytes() != 0
    }

    /// The page sizes offered, as ibm,query-pe-dma-window gives them.
    pub fn page_size_mask(&self) -> u32 {
        PAGE_SIZE_BITS
            .iter()
            .filter(|(shift, _)| self.page_sizes & (1 << shift) != 0)
            .fold(0, |mask, (_, bit)| mask | bit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use spapr_hypercalls::address::Ioba;

    use super::*;

    /// 4 KiB, 64 KiB, 2 MiB and 1 GiB, as a POWER9 host has.
    const POWER9: u64 = 0x4021_1000;

    fn container(version: IommuVersion, dynamic_windows: u32, page_sizes: u64) -> IommuInfo {
        IommuInfo {
            version,
            platform: Platform::BareMetal,
            window_start: Ioba(0),
            window_bytes: 2 << 30,
            page_sizes,
            dynamic_windows,
            levels: 5,
        }
    }

    #[test]
    fn pages_are_no_larger_than_what_backs_memory() {
        let info = container(IommuVersion::V2, 2, POWER9);
        for (backing, mask, entries) in [
            (PageShift::SIZE_4K, 0x001, 2 << 18),
            (PageShift::SIZE_64K, 0x003, 2 << 14),
            (PageShift::SIZE_2M, 0x103, 2 << 9),
            // A guest cannot be told of pages of 1 GiB.
            (PageShift::SIZE_1G, 0x103, 2 << 9),
        ] {
            let limits = WindowLimits::new(&info, backing, 2 << 30).unwrap();
            assert_eq!((limits.page_size_mask(), limits.entries()), (mask, entries));
        }
    }

    #[test]
    fn a_container_without_dynamic_windows_offers_none() {
        let most = (PageShift::SIZE_64K, 1 << 30);
        let none = |info| WindowLimits::new(&info, most.0, most.1).is_none();
        assert!(none(container(IommuVersion::V1, 0, 1 << 12)));
        assert!(none(container(IommuVersion::V2, 0, POWER9)));
        assert!(none(container(IommuVersion::V2, 2, 1 << 21)));
        assert!(!none(container(IommuVersion::V2, 1, POWER9)));
    }

    #[test]
    fn limited_addressing_is_for_pages_of_up_to_64_kib_and_hosts_with_two_windows() {
        let limited = |windows, page| {
            let info = container(IommuVersion::V2, windows, POWER9);
            let limits = WindowLimits::new(&info, page, 1 << 30).unwrap();
            limits.shared_window_bytes()
        };
        assert_eq!(limited(2, PageShift::SIZE_4K), Some(8 << 30));
        assert_eq!(limited(2, PageShift::SIZE_64K), Some(8 << 30));
        assert_eq!(limited(2, PageShift::SIZE_2M), None);
        assert_eq!(limited(1, PageShift::SIZE_64K), None);
    }

    #[test]
    fn a_bound_is_rounded_down_and_leaves_out_pages_that_exceed_it() {
        let info = container(IommuVersion::V2, 2, POWER9);
        let limits = WindowLimits::new(&info, PageShift::SIZE_2M, (3 << 20) - 1).unwrap();
        assert_eq!((limits.bytes(), limits.entries()), (2 << 20, 1));
        let limits = WindowLimits::new(&info, PageShift::SIZE_2M, 0x1_ffff).unwrap();
        assert_eq!((limits.bytes(), limits.page_size_mask()), (0x1_0000, 0x003));
        assert!(WindowLimits::new(&info, PageShift::SIZE_2M, 4095).is_none());
        assert!(WindowLimits::new(&info, PageShift::SIZE_2M, 0).is_none());
    }

    proptest! {
        #[test]
        fn what_is_offered_is_had_by_the_host_and_fits(
            sizes: u64, windows: u32, shift in 12u8..=34, bytes: u64,
        ) {
            let largest = PageShift::new(shift).unwrap();
            let info = container(IommuVersion::V2, windows, sizes);
            if let Some(limits) = WindowLimits::new(&info, largest, bytes) {
                prop_assert_eq!(limits.page_sizes() & !sizes, 0);
                prop_assert!(limits.page_sizes() < 2 << shift);
                prop_assert!(limits.bytes() <= bytes && limits.bytes().is_power_of_two());
                prop_assert!(limits.entries() >= 1 && (1..=2).contains(&limits.windows()));
                prop_assert_ne!(limits.page_size_mask(), 0);
            }
        }
    }
}
