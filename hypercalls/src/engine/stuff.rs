//! H_STUFF_TCE (PAPR "H_STUFF_TCE"): writes one value into a range of entries.

use super::transaction::{Failure, code_of};
use super::{Engine, Place};
use crate::abi::ReturnCode;
use crate::address::Ioba;
use crate::policy::adaptive::{Advice, excess_of_stuff};
use crate::tce::Tce;
use crate::world::{BulkCall, GuestMemory, HostIommu};

impl<M: GuestMemory, H: HostIommu> Engine<M, H> {
    /// The value may have no permission: the call only unmaps. The range may be as long as the
    /// window; its end is checked, which the kernel's handler does not do.
    ///
    /// The call is weighed when it is done: it seldom costs enough to be worth making again.
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
            let length = entries.len();
            let unmapped = transaction.stuff(entries, value.0)?;
            if !transaction.window.binding.is_bound() {
                return Ok(Advice::Here);
            }
            let excess = || excess_of_stuff(length, unmapped);
            Ok(self.weigh(BulkCall::Stuff, excess))
        });
        drop(state);
        if matches!(outcome, Ok(Advice::HereThenKernel | Advice::Kernel)) {
            // Refused, the calls stay here; this one is done.
            self.hand_over(BulkCall::Stuff);
        }
        code_of(outcome)
    }
}
