//! H_STUFF_TCE (PAPR "H_STUFF_TCE"): writes one value into a range of entries.

use super::transaction::Failure;
use super::{Engine, Place};
use crate::abi::ReturnCode;
use crate::address::Ioba;
use crate::tce::Tce;
use crate::world::{GuestMemory, HostIommu};

impl<M: GuestMemory, H: HostIommu> Engine<M, H> {
    /// The value may have no permission: the call only unmaps. The range may be as long as the
    /// window; its end is checked, which the kernel's handler does not do.
    pub(super) fn stuff_tce(
        &self,
        place: &Place<'_, H>,
        ioba: Ioba,
        value: Tce,
        count: u64,
    ) -> ReturnCode {
        let mut state = place.slot.lock();
        state.counters.stuff += 1;
        self.change(place, &mut state, ioba, count, |transaction, entries| {
            if value.permission().is_none() {
                transaction.stuff(entries, value.0)
            } else {
                Err(Failure::Parameter)
            }
        })
    }
}
