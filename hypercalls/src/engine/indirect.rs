//! H_PUT_TCE_INDIRECT (PAPR "H_PUT_TCE_INDIRECT"): writes entries from a list in guest memory.

use super::transaction::{Failure, Survey, Transaction, Written, code_of};
use super::{Answer, Engine, Place};
use crate::abi::ReturnCode;
use crate::address::{GuestPhysicalAddress, Ioba, PageShift};
use crate::policy::adaptive::{Advice, excess_of_list};
use crate::world::{GuestMemory, HostIommu};

/// The most entries a list can have: it fills one 4 KiB page, to which it is aligned.
const LONGEST: usize = 512;

/// Lists up to this length are copied to a small buffer: clearing 4 KiB first would cost more than
/// all else that is done for them here.
const SHORT: usize = 16;

/// What became of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    /// It was written.
    Written,
    /// It was written, and the kernel should have those after it.
    WrittenThenKernel,
    /// The kernel should have it.
    Left,
    /// This block of the memory that it names is to be locked first.
    Unlocked(usize),
}

impl<M: GuestMemory, H: HostIommu> Engine<M, H> {
    /// The list is read once and before the window is locked; another processor that rewrites it
    /// meanwhile changes what is mapped, never what is validated against what is mapped. A list of
    /// no entries is not read.
    #[inline(never)]
    pub(super) fn put_tce_indirect(
        &self,
        place: &Place<'_, H>,
        ioba: Ioba,
        list: GuestPhysicalAddress,
        count: u64,
    ) -> Answer {
        let mut short = [0; SHORT];
        let mut long;
        let entries = match usize::try_from(count) {
            Ok(length @ ..=SHORT) => &mut short[..length],
            Ok(length @ ..=LONGEST) => {
                long = [0; LONGEST];
                &mut long[..length]
            }
            _ => return Self::refuse_indirect(place),
        };
        let is_aligned = list.0 & PageShift::SIZE_4K.offset_mask() == 0;
        let is_read = entries.is_empty() || self.memory.read_doublewords(list, entries).is_ok();
        if !is_aligned || !is_read {
            return Self::refuse_indirect(place);
        }
        let outcome = match self.write_list(place, ioba, entries, true) {
            // The kernel refused, and calls are not sent to it from now on.
            Ok(List::Left) if !self.hand_lists_over() => {
                self.write_list(place, ioba, entries, false)
            }
            outcome => outcome,
        };
        match outcome {
            Ok(List::Left) => Answer::MakeAgain,
            Ok(List::Unlocked(block)) => {
                self.lock_memory(place, block, |counters| &mut counters.put_indirect)
            }
            Ok(List::Written) => Answer::Code(ReturnCode::SUCCESS),
            Ok(List::WrittenThenKernel) => {
                // Refused, the calls stay here; this one is done.
                self.hand_lists_over();
                Answer::Code(ReturnCode::SUCCESS)
            }
            Err(failure) => Answer::Code(code_of::<()>(Err(failure))),
        }
    }

    /// Writes the list, unless it may be left to the kernel and that is advised.
    fn write_list(
        &self,
        place: &Place<'_, H>,
        ioba: Ioba,
        entries: &[u64],
        may_be_left: bool,
    ) -> Result<List, Failure> {
        let mut state = place.slot.lock();
        state.counters.put_indirect += 1;
        let count = entries.len() as u64;
        let outcome = self.change(place, &mut state, ioba, count, |transaction, range| {
            let survey = transaction.survey(entries)?;
            let advice = if may_be_left {
                self.advice(transaction, survey, entries.len())
            } else {
                Advice::Here
            };
            if advice == Advice::Kernel {
                return Ok(List::Left);
            }
            Ok(match transaction.write(range.start, entries, survey)? {
                Written::Unlocked(block) => List::Unlocked(block),
                Written::All if advice == Advice::HereThenKernel => List::WrittenThenKernel,
                Written::All => List::Written,
            })
        });
        if matches!(outcome, Ok(List::Left | List::Unlocked(_))) {
            // No entry was changed here.
            state.counters.put_indirect -= 1;
            state.counters.entries_written -= count;
        }
        outcome
    }

    /// What the policy thinks of a valid list.
    #[inline]
    fn advice(&self, transaction: &Transaction<'_, H>, survey: Survey, entries: usize) -> Advice {
        let Some(lists) = &self.lists else {
            return Advice::Here;
        };
        let scales = lists.scales();
        if transaction.kernel_can(survey) {
            scales.weigh(excess_of_list(entries, survey.maps))
        } else {
            if survey.clears > 0 {
                scales.favour_here();
            }
            Advice::Here
        }
    }

    fn refuse_indirect(place: &Place<'_, H>) -> Answer {
        let mut state = place.slot.lock();
        state.counters.put_indirect += 1;
        state.counters.refused_to_guest += 1;
        Answer::Code(ReturnCode::PARAMETER)
    }
}
