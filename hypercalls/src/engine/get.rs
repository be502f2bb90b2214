//! H_GET_TCE (PAPR "H_GET_TCE"): reads one entry.

use super::{Engine, Place};
use crate::abi::ReturnCode;
use crate::address::Ioba;
use crate::tce::Tce;
use crate::world::{GuestMemory, HostIommu};

impl<M: GuestMemory, H: HostIommu> Engine<M, H> {
    /// The entry as the guest wrote it, the kernel's own H_PUT_TCE included: a crashed guest's
    /// successor finds live mappings this way (`iommu_table_clear` in arch/powerpc/kernel/iommu.c).
    #[inline(never)]
    pub(super) fn get_tce(place: &Place<'_, H>, ioba: Ioba) -> Result<Tce, ReturnCode> {
        let mut state = place.slot.lock();
        state.counters.get += 1;
        let entry = state.window.as_ref().and_then(|window| {
            let entries = window.geometry.entries_at(ioba, 1)?;
            Some(Tce(window.binding.entry(entries.start)))
        });
        entry.ok_or_else(|| {
            state.counters.refused_to_guest += 1;
            ReturnCode::PARAMETER
        })
    }
}
