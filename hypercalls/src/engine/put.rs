//! H_PUT_TCE (PAPR "H_PUT_TCE"): writes one entry.

use std::slice;

use super::transaction::{Written, code_of};
use super::{Answer, Engine, Place};
use crate::address::Ioba;
use crate::tce::Tce;
use crate::world::{GuestMemory, HostIommu};

impl<M: GuestMemory, H: HostIommu> Engine<M, H> {
    /// An entry with permission maps the page that it names, which must be RAM and aligned to the
    /// window's page; one without unmaps, and is stored as it is, address bits included, as the
    /// kernel's handler does (guests poison entries with it).
    #[inline(always)]
    pub(super) fn put_tce(&self, place: &Place<'_, H>, ioba: Ioba, tce: Tce) -> Answer {
        if tce.permission().is_none() {
            self.put_clear(place, ioba, tce)
        } else {
            self.put_map(place, ioba, tce)
        }
    }

    /// An entry with permission.
    // Not inlined, so that a call of one kind does not pay for the registers and the stack that those
    // of the others need: the same holds for the others.
    #[inline(never)]
    fn put_map(&self, place: &Place<'_, H>, ioba: Ioba, tce: Tce) -> Answer {
        let mut state = place.slot.lock();
        state.counters.put += 1;
        let outcome = self.change(place, &mut state, ioba, 1, |transaction, entries| {
            let list = slice::from_ref(&tce.0);
            let survey = transaction.survey(list)?;
            transaction.write(entries.start, list, survey)
        });
        if let Ok(Written::Unlocked(block)) = outcome {
            // No entry was changed.
            state.counters.put -= 1;
            state.counters.entries_written -= 1;
            drop(state);
            return self.lock_memory(place, block, |counters| &mut counters.put);
        }
        Answer::Code(code_of(outcome))
    }
    /// An entry without permission.
    // Not inlined, for the same reason.
    #[inline(never)]
    fn put_clear(&self, place: &Place<'_, H>, ioba: Ioba, tce: Tce) -> Answer {
        let mut state = place.slot.lock();
        state.counters.put += 1;
        let outcome = self.change(place, &mut state, ioba, 1, |transaction, entries| {
            transaction.put_clear(entries.start, tce.0)
        });
        Answer::Code(code_of(outcome))
    }
}
