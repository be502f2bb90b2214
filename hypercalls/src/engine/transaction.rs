//! One change of a window's entries: validated whole, then carried out so that the guest's view and
//! the hardware stay equal whatever the host refuses.

use std::ops::Range;

use super::coalesce::{Run, Runs, Target};
use crate::abi::ReturnCode;
use crate::binding::{Binding, Lingering, Use};
use crate::locking::Regions;
use crate::policy::TcePolicy;
use crate::registry::Bridge;
use crate::stats::Counters;
use crate::tce::Tce;
use crate::view::Values;
use crate::window::Window;
use crate::world::{Geometry, HostError, HostIommu, HostRange};

/// Entries that are cleared with one request to the host, if they are few: what the view showed is kept
/// on the stack meanwhile, and clearing more of that would cost more than all else.
const SHORT: usize = 16;
/// The same if they are many: as many as a list has.
const LONG: usize = 512;

/// EINVAL, the same on every Linux architecture.
const EINVAL: i32 = 22;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The guest asked for what cannot be.
    Parameter,
    /// The host refused a window, a region or a map.
    ///
    /// The guest gets H_NOT_ENOUGH_RESOURCES for every errno, not for a limit alone: it is the only
    /// failure on which a Linux guest undoes its mapping, and any other one it takes for success
    /// (`tce_build_pSeriesLP` in arch/powerpc/platforms/pseries/iommu.c).
    HostRefused,
    /// The host refused to unmap.
    UnmapRefused,
}

impl Failure {
    const fn code(self) -> ReturnCode {
        match self {
            Self::Parameter => ReturnCode::PARAMETER,
            Self::HostRefused => ReturnCode::NOT_ENOUGH_RESOURCES,
            Self::UnmapRefused => ReturnCode::HARDWARE,
        }
    }
}

impl Survey {
    const NOTHING: Self = Self {
        maps: 0,
        clears: 0,
        needs_registration: false,
        last: Target::Clear,
    };
}

/// What the guest gets.
pub(super) fn code_of<T>(outcome: Result<T, Failure>) -> ReturnCode {
    outcome.err().map_or(ReturnCode::SUCCESS, Failure::code)
}

/// How far a change got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is done.
    All,
    /// This block of the memory that it names is not locked, and no entry has changed. The window is to be let
    /// go before the block is locked: other processors would wait for it that long.
    Unlocked(usize),
}

/// A window open for change, under its slot's lock.
pub(super) struct Transaction<'a, H: HostIommu> {
    pub(super) bridge: &'a Bridge<H>,
    pub(super) regions: &'a Regions,
    pub(super) policy: TcePolicy,
    pub(super) window: &'a mut Window<H::KernelTable>,
    pub(super) lingering: &'a mut Lingering,
    pub(super) counters: &'a mut Counters,
}

/// What a valid list asks for.
#[derive(Clone, Copy)]
pub(super) struct Survey {
    /// Runs that map.
    pub(super) maps: usize,
    /// Runs that unmap.
    pub(super) clears: usize,
    needs_registration: bool,
    /// What the last run is for: all of the list when it has one run.
    last: Target,
}

impl<H: HostIommu> Transaction<'_, H> {
    /// Writes `list`, of which `survey` is the survey, into the window from entry `first` on; the
    /// range has been checked.
    ///
    /// Nothing is touched before all of the list has been found valid and all of the memory that it
    /// names is locked. If the host then refuses to map a run, every entry of the range ends
    /// unmapped and zero: guests take a failed call for one that mapped nothing, and free the
    /// entries (`tce_buildmulti_pSeriesLP` undoes the calls before the failed one, not that one).
    /// Should the host refuse even to unmap, the view keeps what it last confirmed of every entry,
    /// so that no mapping is live that the view does not show.
    #[inline(always)]
    pub(super) fn write(
        &mut self,
        first: usize,
        list: &[u64],
        survey: Survey,
    ) -> Result<Written, Failure> {
        if self.window.binding.is_unlocked() {
            if list.iter().all(|&tce| tce == 0) {
                return Ok(Written::All);
            }
            self.activate()?;
        }
        if survey.needs_registration
            && let Some(block) = self.first_unlocked(list)
        {
            return Ok(Written::Unlocked(block));
        }
        match self.apply(first, list, survey) {
            Ok(()) => Ok(Written::All),
            Err(_) if survey.maps > 0 => {
                self.clear_after_failure(first..first + list.len());
                Err(Failure::HostRefused)
            }
            Err(_) => Err(Failure::UnmapRefused),
        }
    }

    /// Writes `value`, which has no permission, into `entries` of the window.
    pub(super) fn stuff(&mut self, entries: Range<usize>, value: u64) -> Result<(), Failure> {
        if self.window.binding.is_unlocked() {
            if value == 0 || entries.is_empty() {
                return Ok(());
            }
            self.activate()?;
        }
        self.clear(entries, Values::Same(value))
            .map_err(|_| Failure::UnmapRefused)
    }

    /// [`stuff`](Self::stuff) of one entry.
    #[inline(always)]
    pub(super) fn put_clear(&mut self, entry: usize, value: u64) -> Result<(), Failure> {
        if self.window.binding.is_unlocked() {
            if value == 0 {
                return Ok(());
            }
            self.activate()?;
        }
        self.clear_entry(entry, value)
            .map_err(|_| Failure::UnmapRefused)
    }

    /// Whether the kernel's own handler could do what `survey` says: the window is bound to it, and
    /// all memory is registered.
    ///
    /// Lists with entries that have no permission are better left to us, although it takes them: for
    /// each, it holds on to the registered memory that the entry's address bits name and never lets
    /// go of it, or refuses the call when they name none (`kvmppc_tce_iommu_do_map` in
    /// arch/powerpc/kvm/book3s_64_vio.c).
    pub(super) const fn kernel_can(&self, survey: Survey) -> bool {
        self.window.binding.is_bound() && !survey.needs_registration && survey.clears == 0
    }

    fn runs<'a>(&'a self, list: &'a [u64]) -> Runs<'a> {
        Runs::new(list, self.window.geometry.page_shift, self.regions)
    }

    /// Goes through all of `list`.
    ///
    /// # Errors
    /// An entry makes no sense.
    #[inline(always)]
    pub(super) fn survey(&self, list: &[u64]) -> Result<Survey, Failure> {
        match list {
            [tce] => {
                let mut survey = Survey::NOTHING;
                let (target, _) = self.runs(list).target(Tce(*tce));
                self.note(&mut survey, target)?;
                Ok(survey)
            }
            _ => self.survey_runs(list),
        }
    }

    fn survey_runs(&self, list: &[u64]) -> Result<Survey, Failure> {
        let mut survey = Survey::NOTHING;
        for run in self.runs(list) {
            self.note(&mut survey, run.target)?;
        }
        Ok(survey)
    }

    #[inline]
    fn note(&self, survey: &mut Survey, target: Target) -> Result<(), Failure> {
        survey.last = target;
        match target {
            Target::Invalid => return Err(Failure::Parameter),
            Target::Clear => survey.clears += 1,
            Target::Map { block, .. } => {
                survey.maps += 1;
                survey.needs_registration |= !self.bridge.locks.is_registered(block);
            }
        }
        Ok(())
    }

    /// Makes the window at the host. It stays made if the call fails later on: it holds none of the
    /// guest's memory, and the next attempt has less to do.
    #[cold]
    fn activate(&mut self) -> Result<(), Failure> {
        let Window {
            liobn,
            geometry,
            binding,
        } = &mut *self.window;
        binding
            .activate(
                &self.bridge.host,
                *liobn,
                *geometry,
                self.policy,
                Use::Possible,
                self.lingering,
            )
            .map_err(|_| Failure::HostRefused)
    }

    /// The first block that `list` names and that is not locked.
    #[cold]
    fn first_unlocked(&self, list: &[u64]) -> Option<usize> {
        self.runs(list).find_map(|run| match run.target {
            Target::Map { block, .. } if !self.bridge.locks.is_registered(block) => Some(block),
            _ => None,
        })
    }

    #[inline(always)]
    fn apply(&mut self, first: usize, list: &[u64], survey: Survey) -> Result<(), HostError> {
        if survey.maps + survey.clears == 1 {
            self.apply_run(first, list, survey.last)
        } else {
            self.apply_runs(first, list)
        }
    }

    /// The view shows what runs that follow each other have mapped in one piece, before entries are cleared, at the
    /// end, or when the host refuses: for each of its own, a list that is all over memory would pay more than for
    /// finding them.
    ///
    /// Never over entries that were cleared: as soon as they are, another processor can map them in the kernel,
    /// and what it maps has to stay shown.
    // Not inlined: in a list that is all over memory each run pays for registers that the caller keeps.
    #[inline(never)]
    fn apply_runs(&mut self, first: usize, list: &[u64]) -> Result<(), HostError> {
        let page = self.window.geometry.page_shift;
        // The first entry of the list that is mapped and not shown; so are those from it on.
        let mut hidden = 0;
        for Run {
            start,
            count,
            target,
        } in Runs::new(list, page, self.regions)
        {
            if target == Target::Clear {
                self.show(first, list, hidden..start);
                hidden = start + count;
                let values = Values::List(&list[start..hidden]);
                self.clear(first + start..first + hidden, values)?;
            } else if let Err(refusal) = self.map_run(first + start, count, target) {
                self.show(first, list, hidden..start);
                return Err(refusal);
            }
        }
        self.show(first, list, hidden..list.len());
        Ok(())
    }

    /// Carries out one run, whose entries are `list`, from entry `first` on.
    #[inline(always)]
    fn apply_run(&mut self, first: usize, list: &[u64], target: Target) -> Result<(), HostError> {
        if target == Target::Clear {
            return self.clear(first..first + list.len(), Values::List(list));
        }
        self.map_run(first, list.len(), target)?;
        self.window.binding.write(first, list);
        Ok(())
    }

    /// Has the host map `count` entries from entry `first` on; the view does not show them yet.
    #[inline(always)]
    fn map_run(&mut self, first: usize, count: usize, target: Target) -> Result<(), HostError> {
        let Target::Map {
            start, permission, ..
        } = target
        else {
            // The survey has seen no other, and the list is ours alone.
            return Err(HostError::Refused(EINVAL));
        };
        let geometry = self.window.geometry;
        self.counters.map_calls += 1;
        let host = HostRange {
            start,
            bytes: geometry.bytes_of(count),
        };
        self.bridge
            .host
            .map(geometry.ioba_of(first), host, permission)
    }

    /// Has the view show `part` of `list`, whose first entry is `first` of the window.
    fn show(&mut self, first: usize, list: &[u64], part: Range<usize>) {
        let start = first + part.start;
        if let Some(entries @ [_, ..]) = list.get(part) {
            self.window.binding.write(start, entries);
        }
    }

    /// Unmaps `entries` and has the view show `values` there, none of which has permission. If the
    /// host refuses, the view shows what it did.
    #[inline]
    fn clear(&mut self, entries: Range<usize>, values: Values<'_>) -> Result<(), HostError> {
        if entries.len() == 1 {
            self.clear_one(entries.start, values.at(0))
        } else {
            self.clear_several(entries, values)
        }
    }

    // Not inlined: a list does without its registers.
    #[inline(never)]
    fn clear_one(&mut self, entry: usize, value: u64) -> Result<(), HostError> {
        self.clear_entry(entry, value)
    }

    /// [`clear`](Self::clear) of one entry: what ends most short transfers.
    #[inline(always)]
    fn clear_entry(&mut self, entry: usize, value: u64) -> Result<(), HostError> {
        let geometry = self.window.geometry;
        let view = match &mut self.window.binding {
            Binding::Bound(_) => return self.clear_one_bound(entry, value),
            Binding::Unlocked => return Ok(()),
            Binding::UserOnly { entries, .. } => entries.get_mut(entry),
        };
        // The range was checked.
        let Some(shown) = view else { return Ok(()) };
        // The view equals the hardware here.
        if *shown != 0 {
            unmap(self.bridge, self.counters, geometry, entry, 1)?;
        }
        *shown = value;
        Ok(())
    }

    // Not inlined: with a view of our own, one entry does without its registers.
    #[inline(never)]
    fn clear_one_bound(&mut self, entry: usize, value: u64) -> Result<(), HostError> {
        self.clear_bound::<1>(entry..entry + 1, Values::Same(value))
    }

    /// [`clear`](Self::clear) of any other number.
    // Not inlined: one entry does without its registers and its stack.
    #[inline(never)]
    fn clear_several(
        &mut self,
        entries: Range<usize>,
        values: Values<'_>,
    ) -> Result<(), HostError> {
        if self.window.binding.is_bound() {
            return match entries.len() {
                ..=SHORT => self.clear_bound::<SHORT>(entries, values),
                _ => self.clear_bound::<LONG>(entries, values),
            };
        }
        // The view equals the hardware here, and what is clear is not cleared again: guests do
        // that to a whole window before they remove it.
        if let Some(live) = self.window.binding.live_part(entries.clone()) {
            self.unmap(live.start, live.len())?;
        }
        match values {
            Values::Same(value) => self.window.binding.fill(entries, value),
            Values::List(list) => self.window.binding.write(entries.start, list),
        }
        Ok(())
    }

    /// Clears entries of a window in which other processors map at the same time, in the kernel,
    /// `AT_ONCE` with each request to the host.
    ///
    /// The view goes first: the kernel's handler changes the hardware's entry and then the view's, so
    /// whatever it does in between, an entry that ends up mapped ends up shown. The other way round, it
    /// could map after the hardware was cleared and show it before the view is.
    ///
    /// All entries are asked for, whatever the view shows: two processors in the kernel that map and
    /// clear one entry at once can leave it mapped and not shown, as it takes no lock.
    #[inline]
    fn clear_bound<const AT_ONCE: usize>(
        &mut self,
        entries: Range<usize>,
        values: Values<'_>,
    ) -> Result<(), HostError> {
        let mut was = [0; AT_ONCE];
        for start in entries.clone().step_by(AT_ONCE) {
            let part = start..entries.end.min(start + AT_ONCE);
            let values = values.from(start - entries.start);
            let was = &mut was[..part.len()];
            self.window.binding.exchange(start, values, was);
            if let Err(refusal) = self.unmap(start, part.len()) {
                self.window.binding.put_back(start, values, was);
                return Err(refusal);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn unmap(&mut self, first: usize, count: usize) -> Result<(), HostError> {
        let geometry = self.window.geometry;
        unmap(self.bridge, self.counters, geometry, first, count)
    }

    /// What a refused map left behind is not known: unmaps all of `entries`, whatever the view says.
    #[cold]
    pub(super) fn clear_after_failure(&mut self, entries: Range<usize>) {
        if self.window.binding.is_bound() {
            // A refusal has been counted; the view shows what it did.
            let _ = self.clear(entries, Values::Same(0));
        } else if self.unmap(entries.start, entries.len()).is_ok() {
            self.window.binding.fill(entries, 0);
        }
    }
}

/// Has the host clear `count` entries from entry `first` on.
// A start and a count: a range's length is a comparison more.
#[inline(always)]
fn unmap<H: HostIommu>(
    bridge: &Bridge<H>,
    counters: &mut Counters,
    geometry: Geometry,
    first: usize,
    count: usize,
) -> Result<(), HostError> {
    counters.unmap_calls += 1;
    bridge
        .host
        .unmap(geometry.ioba_of(first), geometry.bytes_of(count))
        .inspect_err(|_| counters.unmap_failures += 1)
}
