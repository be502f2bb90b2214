//! Why there is no DMA window.

use spapr_hypercalls::address::{Liobn, PageShift};
use spapr_hypercalls::engine::WindowError;

use crate::vfio::MemoryLimitError;

/// Why there is no such window.
#[derive(Debug, thiserror::Error)]
pub enum DmaWindowError {
    /// The bridge does not exist or offers no dynamic windows.
    #[error("host bridge {0} offers no dynamic DMA windows")]
    NotOffered(u8),
    /// The LIOBN names no window of a bridge that offers dynamic windows.
    #[error("LIOBN {0} names no DMA window that could be removed")]
    NoSuchWindow(Liobn),
    /// The page size is not on offer, or larger than the window.
    #[error("host bridge {bridge} offers no DMA window of {bytes:#x} bytes in pages of {page}")]
    Page {
        /// The bridge.
        bridge: u8,
        /// Page size asked for.
        page: PageShift,
        /// Window size asked for.
        bytes: u64,
    },
    /// It would be larger than the bridge allows.
    #[error(
        "a DMA window of {bytes:#x} bytes is larger than host bridge {bridge} allows ({most:#x})"
    )]
    TooLarge {
        /// The bridge.
        bridge: u8,
        /// Size asked for.
        bytes: u64,
        /// The most.
        most: u64,
    },
    /// All places are taken.
    #[error("host bridge {bridge} has no room for a DMA window beside the {windows} it has")]
    NoneLeft {
        /// The bridge.
        bridge: u8,
        /// How many it has.
        windows: u32,
    },
    /// The limit on locked memory does not allow what the guest is about to do with the window.
    #[error(
        "no DMA window of {bytes:#x} bytes for host bridge {bridge}: the guest would map {memory} bytes of memory in it"
    )]
    MemoryLimit {
        /// The bridge.
        bridge: u8,
        /// Size asked for.
        bytes: u64,
        /// Memory that is not locked yet.
        memory: u64,
        /// Need and limit.
        #[source]
        source: MemoryLimitError,
    },
    /// The host has no room at low addresses.
    #[error("host bridge {0} offers no DMA windows below 64-bit bus addresses")]
    NoLimitedAddressing(u8),
    /// Windows would lose what they map, of devices that may be using it.
    #[error(
        "host bridge {0} gets no DMA windows below 64-bit bus addresses while memory is mapped for its devices"
    )]
    Mapped(u8),
    /// The machine ends, and nobody hears the answer.
    #[error("the machine is about to end")]
    RunIsOver,
    /// The engine or the host refused.
    #[error(transparent)]
    Window(#[from] WindowError),
}
