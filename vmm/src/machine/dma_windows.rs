//! Which dynamic DMA windows a machine offers its guest.

use spapr_devices::dma_windows::WindowLimits;
use spapr_devices::vfio::IommuInfo;
use spapr_hypercalls::address::PageShift;

use crate::spec::DdwMode;

/// The largest page of an IOMMU that pages of `bytes` bytes can back.
pub fn page_backed_by(bytes: u64) -> PageShift {
    u8::try_from(bytes.ilog2())
        .ok()
        .and_then(PageShift::new)
        .unwrap_or(PageShift::SIZE_4K)
}

/// What the host bridge of a container offers a guest whose memory ends at address `ram_end` and whose pages
/// allow IOMMU pages of at most `largest_page`; `None` when that is nothing.
///
/// A window is at most as large as all memory up to its end, rounded up to a power of two: that is what a
/// guest asks for, and its tables are the host's to pay.
pub fn limits(
    mode: DdwMode,
    info: &IommuInfo,
    largest_page: PageShift,
    ram_end: u64,
) -> Option<WindowLimits> {
    let all = ram_end.checked_next_power_of_two()?;
    let bytes = match mode {
        DdwMode::Off => return None,
        DdwMode::Auto => all,
        DdwMode::AtMost(size) => size.0.min(all),
    };
    WindowLimits::new(info, largest_page, bytes)
}

#[cfg(test)]
mod tests {
    use spapr_devices::vfio::{IommuVersion, Platform};
    use spapr_hypercalls::address::Ioba;

    use super::*;
    use crate::spec::ByteSize;

    #[test]
    fn windows_are_as_large_as_memory_or_as_the_user_allows() {
        let info = IommuInfo {
            version: IommuVersion::V2,
            platform: Platform::BareMetal,
            window_start: Ioba(0),
            window_bytes: 2 << 30,
            page_sizes: 0x4021_1000,
            dynamic_windows: 2,
            levels: 5,
        };
        let bytes = |mode| {
            limits(mode, &info, PageShift::SIZE_64K, 1280 << 20).map(|limits| limits.bytes())
        };
        assert_eq!(bytes(DdwMode::Off), None);
        assert_eq!(bytes(DdwMode::Auto), Some(2 << 30));
        assert_eq!(bytes(DdwMode::AtMost(ByteSize(256 << 20))), Some(256 << 20));
        assert_eq!(bytes(DdwMode::AtMost(ByteSize(1 << 40))), Some(2 << 30));
    }
}
