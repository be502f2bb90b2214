//! From a LIOBN to its window: two array look-ups, whatever their number.
//!
//! PCI LIOBNs name a host bridge and one of its two windows, so that no search, no hash and no lock
//! is needed; the array of bridges does not change once the machine is built. Windows come and go
//! in their slots: window 0 is the default one, window 1 the dynamic one (PAPR "Dynamic DMA
//! Windows").
//!
//! Each slot has a mutex, the one lock on a hypercall's way. It makes a change of the hardware's
//! entries and of the guest's view of them one step to other processors' calls for the same window,
//! and keeps the window from going away meanwhile. Guests serialise the use of a window themselves
//! (a Linux guest's pools hand out disjoint entries, and a processor that maps and one that unmaps
//! seldom meet), so it is hardly ever contended, and windows do not share it. The order, where
//! several are taken: a bridge's slot 0, its slot 1, then a region's.

use crate::address::Liobn;
use crate::binding::Lingering;
use crate::locking::{RegionLocks, Regions};
use crate::stats::Counters;
use crate::sync::{Mutex, MutexGuard};
use crate::window::Window;
use crate::world::{Geometry, HostIommu};

/// The place of a window.
#[derive(Debug)]
pub(crate) struct Slot<K> {
    pub(crate) liobn: Liobn,
    state: Mutex<SlotState<K>>,
}

/// What a slot's mutex guards.
#[derive(Debug)]
pub(crate) struct SlotState<K> {
    pub(crate) window: Option<Window<K>>,
    pub(crate) lingering: Lingering,
    pub(crate) counters: Counters,
}

impl<K> Slot<K> {
    pub(crate) fn new(liobn: Liobn, window: Option<Window<K>>) -> Self {
        let (lingering, counters) = (Lingering::NONE, Counters::default());
        Self {
            liobn,
            state: Mutex::new(SlotState {
                window,
                lingering,
                counters,
            }),
        }
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, SlotState<K>> {
        self.state.lock()
    }
}

/// A PCI host bridge. Fields are dropped in order: the windows' kernel tables go before the host's
/// container does.
pub(crate) struct Bridge<H: HostIommu> {
    pub(crate) slots: [Slot<H::KernelTable>; 2],
    pub(crate) default_window: Geometry,
    pub(crate) locks: RegionLocks,
    pub(crate) host: H,
}

impl<H: HostIommu> Bridge<H> {
    pub(crate) fn new(number: u8, host: H, default_window: Geometry, regions: &Regions) -> Self {
        let [first, second] = [0, 1].map(|window| Liobn::of_pci_window(number, window));
        Self {
            slots: [
                Slot::new(first, Some(Window::new(first, default_window))),
                Slot::new(second, None),
            ],
            default_window,
            locks: RegionLocks::new(regions, host.registers_memory()),
            host,
        }
    }
}

/// Every host bridge, by its number.
pub(crate) struct Registry<H: HostIommu> {
    bridges: Box<[Option<Bridge<H>>]>,
}

impl<H: HostIommu> Registry<H> {
    /// A registry of bridges by number, of which no two are the same.
    pub(crate) fn new(bridges: impl IntoIterator<Item = (u8, Bridge<H>)>) -> Self {
        let mut by_number = Vec::new();
        for (number, bridge) in bridges {
            let index = usize::from(number);
            if by_number.len() <= index {
                by_number.resize_with(index + 1, || None);
            }
            by_number[index] = Some(bridge);
        }
        Self {
            bridges: by_number.into_boxed_slice(),
        }
    }

    /// The slot that a hypercall's first argument names.
    pub(crate) fn find(&self, register: u64) -> Option<(&Bridge<H>, &Slot<H::KernelTable>)> {
        let (number, window) = Liobn(u32::try_from(register).ok()?).pci_window()?;
        let bridge = self.bridge(number)?;
        Some((bridge, bridge.slots.get(usize::from(window))?))
    }

    pub(crate) fn bridge(&self, number: u8) -> Option<&Bridge<H>> {
        self.bridges.get(usize::from(number))?.as_ref()
    }

    pub(crate) fn bridges(&self) -> impl Iterator<Item = &Bridge<H>> {
        self.bridges.iter().flatten()
    }
}
