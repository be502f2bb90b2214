//! H_STUFF_TCE (PAPR "H_STUFF_TCE"): writes one value into a range of entries.

use super::transaction::{Failure, code_of};
use super::{Answer, Engine, Place};
use crate::abi::Arguments;
use crate::address::{Ioba, PageShift};
use crate::binding::Binding;
use crate::tce::Tce;
use crate::world::{GuestMemory, HostIommu};

/// Entries that are cleared at once. One takes up to 550 instructions, and a guest may name all of a window.
const AT_ONCE: u64 = 4096;
/// The same where each is of several entries of the host's: as many as Linux clears by one call, and as a list has.
const LEAST_AT_ONCE: u64 = 512;

impl<M: GuestMemory, H: HostIommu> Engine<M, H> {
    /// The value may have no permission: the call only unmaps. The range may be as long as the
    /// window; its end is checked, which the kernel's handler does not do before Linux 7: so the call
    /// is never handed over.
    ///
    /// Of a long range the first entries are cleared, and the guest makes the call again for the rest, which
    /// `arguments` have then: PAPR leaves those registers to the hypervisor. Its processor can be stopped and
    /// interrupted in between.
    #[inline(never)]
    pub(super) fn stuff_tce(
        &self,
        place: &Place<'_, H>,
        ioba: Ioba,
        value: Tce,
        count: u64,
        arguments: &mut Arguments,
    ) -> Answer {
        let mut state = place.slot.lock();
        state.counters.stuff += 1;
        let at_once = match &state.window {
            Some(window) if matches!(window.binding, Binding::UserOnly { .. }) => {
                at_once(window.geometry.page_shift)
            }
            _ => AT_ONCE,
        };
        let rest = match &state.window {
            Some(window) if count > at_once && !window.binding.is_unlocked() => {
                let all = window.geometry.entries_at(ioba, count);
                all.map(|_| ioba.0 + (at_once << window.geometry.page_shift.get()))
            }
            _ => None,
        };
        let part = rest.map_or(count, |_| at_once);
        let outcome = self.change(place, &mut state, ioba, part, |transaction, entries| {
            if !value.permission().is_none() {
                return Err(Failure::Parameter);
            }
            transaction.stuff(entries, value.0)
        });
        match (outcome, rest) {
            (Ok(()), Some(rest)) => {
                arguments[1] = rest;
                arguments[3] = count - at_once;
                Answer::MakeAgain
            }
            (outcome, _) => Answer::Code(code_of(outcome)),
        }
    }
}

/// Entries of such pages that are cleared at once in a window that the kernel does not serve: it may lie inside one of
/// the host's whose pages are smaller, of which each of the guest's takes several.
fn at_once(page: PageShift) -> u64 {
    let host_entries_log2 = page.get().saturating_sub(PageShift::SIZE_4K.get());
    (AT_ONCE >> host_entries_log2).max(LEAST_AT_ONCE)
}
