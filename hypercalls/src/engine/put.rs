//! H_PUT_TCE (PAPR "H_PUT_TCE"): writes one entry.

use std::slice;

use super::transaction::{Failure, Written, code_of};
use super::{Answer, Engine, Place};
use crate::address::Ioba;
use crate::registry::SlotState;
use crate::sync::MutexGuard;
use crate::tce::Tce;
use crate::world::{GuestMemory, HostIommu, HostRange};

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
        match self.put_map_at_once(place, &mut state, ioba, tce) {
            Some(outcome) => Answer::Code(code_of(outcome)),
            None => self.put_map_otherwise(place, state, ioba, tce),
        }
    }

    /// What is nearly always so: the window is made, the page is one of RAM and locked. `None`, with nothing done,
    /// where it is not, or may not be.
    // By itself, as all else would cost each call the registers for what it does not do.
    #[inline(always)]
    fn put_map_at_once(
        &self,
        place: &Place<'_, H>,
        state: &mut SlotState<H::KernelTable>,
        ioba: Ioba,
        tce: Tce,
    ) -> Option<Result<(), Failure>> {
        let bridge = place.bridge;
        let window = state.window.as_mut()?;
        let geometry = window.geometry;
        let entry = geometry.entries_at(ioba, 1)?.start;
        let found = self.regions.guess(tce.address())?;
        if !tce.is_page_aligned(geometry.page_shift)
            || found.host.bytes < geometry.bytes_of(1)
            || !bridge.locks.is_registered(found.block)
            || window.binding.is_unlocked()
        {
            return None;
        }
        state.counters.put += 1;
        state.counters.map_calls += 1;
        let host = HostRange {
            start: found.host.start,
            bytes: geometry.bytes_of(1),
        };
        let mapped = bridge
            .host
            .map(geometry.ioba_of(entry), host, tce.permission());
        if mapped.is_err() {
            return Some(self.put_map_refused(place, state, ioba));
        }
        window.binding.write_entry(entry, tce.0);
        state.counters.entries_written += 1;
        Some(Ok(()))
    }

    /// The host has refused a map.
    #[cold]
    #[inline(never)]
    fn put_map_refused(
        &self,
        place: &Place<'_, H>,
        state: &mut SlotState<H::KernelTable>,
        ioba: Ioba,
    ) -> Result<(), Failure> {
        self.change(place, state, ioba, 1, |transaction, entries| {
            transaction.clear_after_failure(entries);
            Err(Failure::HostRefused)
        })
    }

    /// Whatever there is to be done first.
    #[cold]
    #[inline(never)]
    fn put_map_otherwise(
        &self,
        place: &Place<'_, H>,
        mut state: MutexGuard<'_, SlotState<H::KernelTable>>,
        ioba: Ioba,
        tce: Tce,
    ) -> Answer {
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
