//! Where a bus address leads: for devices that this process makes, which do DMA as real ones do.

use super::Engine;
use crate::address::{GuestPhysicalAddress, Ioba};
use crate::tce::{Permission, Tce};
use crate::world::{GuestMemory, GuestRange, HostIommu};

impl<M: GuestMemory, H: HostIommu> Engine<M, H> {
    /// The guest memory behind bus address `ioba` of bridge `number`, to the end of its IOMMU page. `None` where
    /// no window maps it, or not for all that is `wanted`.
    ///
    /// The answer is that of this moment: the guest may change the entry at any time, the kernel's own handler
    /// behind this engine's back, so it is asked for each access and never kept. Whether the address is RAM is
    /// for the caller to find out.
    pub fn translate(&self, number: u8, ioba: Ioba, wanted: Permission) -> Option<GuestRange> {
        let bridge = self.registry.bridge(number)?;
        bridge.slots.iter().find_map(|slot| {
            let state = slot.lock();
            let window = state.window.as_ref()?;
            let page = window.geometry.page_shift;
            let offset = ioba.0 & page.offset_mask();
            let entries = window.geometry.entries_at(Ioba(ioba.0 - offset), 1)?;
            let tce = Tce(window.binding.entry(entries.start));
            let start = GuestPhysicalAddress((tce.address().0 & !page.offset_mask()) | offset);
            tce.permission().allows(wanted).then_some(GuestRange {
                start,
                bytes: page.bytes() - offset,
            })
        })
    }
}
