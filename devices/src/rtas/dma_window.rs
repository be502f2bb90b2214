//! Dynamic DMA windows: ibm,query-pe-dma-window, ibm,create-pe-dma-window,
//! ibm,remove-pe-dma-window and ibm,reset-pe-dma-window (PAPR 7.3.10.4, "Dynamic DMA Windows").
//!
//! The partitionable endpoint that a call's configuration address names is all of a host bridge:
//! the functions of one IOMMU group. So the bridge's BUID says it all, as in QEMU
//! (hw/ppc/spapr_rtas_ddw.c), and a bridge that offers no dynamic windows is a parameter error.

use spapr_hypercalls::address::{Liobn, PageShift};

use super::call::Call;
use super::{Outcome, Platform, Status, pci};
use crate::dma_windows::{Addressing, DmaWindowError};

/// Token of ibm,query-pe-dma-window.
pub(super) const QUERY: u32 = 0x2026;
/// Token of ibm,create-pe-dma-window.
pub(super) const CREATE: u32 = 0x2027;
/// Token of ibm,remove-pe-dma-window.
pub(super) const REMOVE: u32 = 0x2028;
/// Token of ibm,reset-pe-dma-window.
pub(super) const RESET: u32 = 0x2029;

/// `ibm,ddw-applicable` of a host bridge: the tokens of query, create and remove.
pub const APPLICABLE: [u32; 3] = [QUERY, CREATE, REMOVE];
/// `ibm,ddw-extensions` of a host bridge: how many values follow, the token of reset, 1 for a
/// query whose number of entries has 64 bits, and whether a reset can ask for limited addressing (Linux has the
/// number as DDW_EXT_LIMITED_ADDR_MODE, arch/powerpc/platforms/pseries/iommu.c).
pub const fn extensions(can_be_limited: bool) -> [u32; 4] {
    [3, RESET, 1, can_be_limited as u32]
}

/// Returns of a query whose number of entries has two words.
const QUERY_RETURNS_64: u32 = 6;

/// Arguments: configuration address, BUID (two words). Returns: windows available, entries of the
/// largest block available (one word, or two if there is room for six returns), page sizes, page
/// sizes for migration (none).
pub(super) fn query(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [_, buid_high, buid_low] = call.arguments();
    let available = bridge(platform, (buid_high, buid_low))
        .and_then(|bridge| platform.dynamic_windows().available(bridge));
    let Some(available) = available else {
        call.status(Status::Parameter);
        return Outcome::Done;
    };
    let (windows, pages) = (available.windows, available.limits.page_size_mask());
    let entries = available.limits.entries();
    if call.return_count() >= QUERY_RETURNS_64 {
        let [high, low] = words(entries);
        call.returns(Status::Success, &[windows, high, low, pages, 0]);
    } else {
        let entries = u32::try_from(entries).unwrap_or(1 << 31);
        call.returns(Status::Success, &[windows, entries, pages, 0]);
    }
    Outcome::Done
}

/// Arguments: configuration address, BUID (two words), page size and window size as powers of two.
/// Returns: LIOBN, first bus address (two words).
pub(super) fn create(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [_, buid_high, buid_low, page_shift, window_shift] = call.arguments();
    let page = u8::try_from(page_shift).ok().and_then(PageShift::new);
    let bytes = 1u64.checked_shl(window_shift);
    let bridge = bridge(platform, (buid_high, buid_low));
    let (Some(page), Some(bytes), Some(bridge)) = (page, bytes, bridge) else {
        call.status(Status::Parameter);
        return Outcome::Done;
    };
    match platform.dynamic_windows().create(bridge, page, bytes) {
        Ok(window) => {
            let [high, low] = words(window.start.0);
            call.returns(Status::Success, &[window.liobn.0, high, low]);
        }
        Err(error) => call.status(status(&error)),
    }
    Outcome::Done
}

/// Argument: LIOBN.
pub(super) fn remove(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [liobn] = call.arguments();
    let removed = platform.dynamic_windows().remove(Liobn(liobn));
    call.status(removed.map_or_else(|error| status(&error), |()| Status::Success));
    Outcome::Done
}

/// Arguments: configuration address, BUID (two words), and from the fourth on 1 for limited addressing. What is not
/// given is 0.
pub(super) fn reset(call: &mut Call<'_>, platform: &dyn Platform) -> Outcome {
    let [_, buid_high, buid_low, limited] = call.arguments();
    let addressing = match limited {
        0 => Some(Addressing::Full),
        1 => Some(Addressing::Limited),
        _ => None,
    };
    let bridge = bridge(platform, (buid_high, buid_low));
    let (Some(addressing), Some(bridge)) = (addressing, bridge) else {
        call.status(Status::Parameter);
        return Outcome::Done;
    };
    let reset = platform.dynamic_windows().reset(bridge, addressing);
    call.status(reset.map_or_else(|error| status(&error), |()| Status::Success));
    Outcome::Done
}

fn bridge(platform: &dyn Platform, buid: (u32, u32)) -> Option<u8> {
    pci::host_bridge(platform, buid).map(crate::pci::HostBridge::index)
}

/// The guest's mistakes are parameter errors; what cannot be had is a hardware error, upon which a
/// guest goes on with the windows it has.
fn status(error: &DmaWindowError) -> Status {
    match error {
        DmaWindowError::NotOffered(_)
        | DmaWindowError::NoSuchWindow(_)
        | DmaWindowError::Page { .. } => Status::Parameter,
        DmaWindowError::TooLarge { .. }
        | DmaWindowError::NoneLeft { .. }
        | DmaWindowError::MemoryLimit { .. }
        | DmaWindowError::NoLimitedAddressing(_)
        | DmaWindowError::Mapped(_)
        | DmaWindowError::RunIsOver
        | DmaWindowError::Window(_) => Status::Hardware,
    }
}

fn words(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    [
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    ]
}
