//! What the engine counts, for `--stats` and for tests.

use crate::address::Liobn;
use crate::world::{BindRefusal, BulkCall, Geometry};

/// Where a window stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowState {
    /// Nothing is made at the host and nothing is locked for it.
    Unlocked,
    /// The LIOBN is bound to the IOMMU group: the kernel serves single entries.
    Bound,
    /// User space serves every call.
    UserOnly(BindRefusal),
}

/// What was done for one LIOBN in user space since the engine was made. Calls that the kernel
/// serves are not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// H_GET_TCE calls.
    pub get: u64,
    /// H_PUT_TCE calls.
    pub put: u64,
    /// H_PUT_TCE_INDIRECT calls.
    pub put_indirect: u64,
    /// H_STUFF_TCE calls.
    pub stuff: u64,
    /// Entries that successful calls wrote.
    pub entries_written: u64,
    /// Requests to the host to map, one for each run.
    pub map_calls: u64,
    /// Requests to the host to unmap.
    pub unmap_calls: u64,
    /// Calls answered H_PARAMETER.
    pub refused_to_guest: u64,
    /// Calls answered H_NOT_ENOUGH_RESOURCES because the host refused a window, a region or a map.
    pub refused_by_host: u64,
    /// Times that the host refused to unmap: the guest's view then shows entries that may be live.
    pub unmap_failures: u64,
}

/// A window's counters and state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSnapshot {
    /// Its name to the guest.
    pub liobn: Liobn,
    /// Where it lies; `None` while there is no such window.
    pub geometry: Option<Geometry>,
    /// Where it stands; `Unlocked` while there is no such window.
    pub state: WindowState,
    /// What was done, windows that had the LIOBN before included.
    pub counters: Counters,
}

/// Guest memory locked for DMA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockedMemory {
    /// Number of regions that RAM is divided into.
    pub regions: usize,
    /// Size of a region in bytes (the last of a piece of RAM can be smaller).
    pub region_bytes: u64,
    /// Bytes locked now. Memory registered with several containers counts once, as it does for
    /// the kernel (`mm_iommu_do_alloc` in arch/powerpc/mm/book3s64/iommu_api.c).
    pub bytes: u64,
    /// The most that was locked.
    pub peak_bytes: u64,
    /// Successful registrations.
    pub registrations: u64,
    /// Registrations that the host refused.
    pub refusals: u64,
}

/// Where one of the bulk calls is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkCallSnapshot {
    /// Which.
    pub call: BulkCall,
    /// Whether the kernel has its handler enabled now.
    pub in_kernel: bool,
    /// How often the kernel took over while the guest ran.
    pub handed_over: u64,
    /// How often the calls were taken back.
    pub taken_back: u64,
}

/// All figures of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Two for each PCI host bridge, in the order of their LIOBNs.
    pub windows: Vec<WindowSnapshot>,
    /// Locked memory.
    pub locked: LockedMemory,
    /// Where bulk calls are handled.
    pub bulk_calls: [BulkCallSnapshot; 2],
    /// Calls that named no LIOBN of ours, answered H_PARAMETER.
    pub unknown_liobn: u64,
}
