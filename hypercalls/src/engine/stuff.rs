//! H_STUFF_TCE (PAPR "H_STUFF_TCE"): writes one value into a range of entries.

use super::transaction::{Failure, code_of};
use super::{Engine, Place};
use crate::abi::ReturnCode;
use crate::address::Ioba;
use crate::tce::Tce;
use crate::world::{GuestMemory, HostIommu};

impl<M: GuestMemory, H: HostIommu> Engine<M, H> {
    /// The value may have no permission: the call only unmaps. The range may be as long as the
    /// window; its end is checked, which the kernel's handler does not do before Linux 7: so the call
    /// is never handed over.
    #[inline(never)]
    pub(super) fn stuff_tce(
        &self,
        place: &Place<'_, H>,
        ioba: Ioba,
        value: Tce,
        count: u64,
    ) -> ReturnCode {
        let mut state = place.slot.lock();
        state.counters.stuff += 1;
        let outcome = self.change(place, &mut state, ioba, count, |transaction, entries| {
            if !value.permission().is_none() {
                return Err(Failure::Parameter);
            }
            transaction.stuff(entries, value.0)
        });
        code_of(outcome)
    }
}
