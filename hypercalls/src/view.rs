//! The guest's view of a window: what H_GET_TCE answers, kept equal to what the hardware maps.
//!
//! With a kernel table the view is that table, which the kernel's own handlers write too; so its
//! entries are read and written one by one, as atomics. Two processors that write one entry at the
//! same time, one of them through the kernel, get either order, as they do between two processors
//! inside the kernel. Ordering is the guest's affair and the entries guard no other memory of ours,
//! so relaxed accesses suffice.
//!
//! Ranges come from [`Geometry::entries_at`](crate::world::Geometry::entries_at), hence lie in the
//! window; what would not is ignored, never a panic.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use crate::binding::Binding;
use crate::sync::AtomicU64;
use crate::world::KernelTable;

impl<K: KernelTable> Binding<K> {
    /// One entry.
    #[inline]
    pub(crate) fn entry(&self, index: usize) -> u64 {
        match self {
            Self::Unlocked => 0,
            Self::Bound(table) => table
                .entries()
                .get(index)
                .map_or(0, |entry| entry.load(Relaxed)),
            Self::UserOnly { entries, .. } => entries.get(index).copied().unwrap_or(0),
        }
    }

    /// Writes `values` from entry `first` on.
    #[inline]
    pub(crate) fn write(&mut self, first: usize, values: &[u64]) {
        match values {
            // Most calls. Copying would use vector registers, which the kernel then saves and loads
            // at each exit.
            [value] => self.write_entry(first, *value),
            values => self.write_list(first, values),
        }
    }

    /// [`write`](Self::write) of one.
    #[inline]
    pub(crate) fn write_entry(&mut self, index: usize, value: u64) {
        match self {
            Self::Unlocked => {}
            Self::Bound(table) => {
                if let Some(entry) = table.entries().get(index) {
                    entry.store(value, Relaxed);
                }
            }
            Self::UserOnly { entries, .. } => {
                if let Some(entry) = entries.get_mut(index) {
                    *entry = value;
                }
            }
        }
    }

    fn write_list(&mut self, first: usize, values: &[u64]) {
        let range = first..first.saturating_add(values.len());
        match self {
            Self::Unlocked => {}
            Self::Bound(table) => {
                let entries = table.entries().get(range).unwrap_or_default();
                for (entry, value) in entries.iter().zip(values) {
                    entry.store(*value, Relaxed);
                }
            }
            Self::UserOnly { entries, .. } => {
                if let Some(entries) = entries.get_mut(range) {
                    entries.copy_from_slice(values);
                }
            }
        }
    }

    /// Writes `value` into all of `range`.
    pub(crate) fn fill(&mut self, range: Range<usize>, value: u64) {
        match self {
            Self::Unlocked => {}
            Self::Bound(table) => {
                for entry in table.entries().get(range).unwrap_or_default() {
                    entry.store(value, Relaxed);
                }
            }
            Self::UserOnly { entries, .. } => {
                if let Some(entries) = entries.get_mut(range) {
                    entries.fill(value);
                }
            }
        }
    }

    /// Replaces the entries from `first` on by `values`, and returns in `was`, of the same length, what
    /// the guest had seen there. In a bound window; of others nothing changes.
    #[inline]
    pub(crate) fn exchange(&self, first: usize, values: Values<'_>, was: &mut [u64]) {
        let entries = self.shared_entries(first, was.len());
        match values {
            Values::Same(value) => {
                for (entry, was) in entries.iter().zip(was) {
                    *was = entry.swap(value, Relaxed);
                }
            }
            Values::List(list) => {
                for ((entry, was), &value) in entries.iter().zip(was).zip(list) {
                    *was = entry.swap(value, Relaxed);
                }
            }
        }
    }

    /// Undoes an exchange, but for entries that another processor has written since.
    #[cold]
    pub(crate) fn put_back(&self, first: usize, values: Values<'_>, was: &[u64]) {
        let entries = self.shared_entries(first, was.len());
        for (index, (entry, &was)) in entries.iter().zip(was).enumerate() {
            let _ = entry.compare_exchange(values.at(index), was, Relaxed, Relaxed);
        }
    }

    /// The entries that the kernel's handlers write too, from `first` on; none of a window that is not bound.
    #[inline]
    fn shared_entries(&self, first: usize, count: usize) -> &[AtomicU64] {
        match self {
            Self::Bound(table) => {
                let entries = table.entries().get(first..).unwrap_or_default();
                entries.get(..count).unwrap_or_default()
            }
            Self::Unlocked | Self::UserOnly { .. } => &[],
        }
    }

    /// The part of `range` from its first to its last entry that is not zero; the rest maps
    /// nothing. `None` when that is all of it.
    pub(crate) fn live_part(&self, range: Range<usize>) -> Option<Range<usize>> {
        let start = range.start;
        let (first, last) = match self {
            Self::Unlocked => None,
            Self::Bound(table) => {
                let entries = table.entries().get(range)?;
                ends(entries, |entry| entry.load(Relaxed))
            }
            Self::UserOnly { entries, .. } => ends(entries.get(range)?, |entry| *entry),
        }?;
        Some(start + first..start + last + 1)
    }
}

/// What is to be written into a range of entries.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    /// The same into each.
    Same(u64),
    /// One for each.
    List(&'a [u64]),
}

impl<'a> Values<'a> {
    /// That for the entry at `index` of the range.
    #[inline]
    pub(crate) fn at(self, index: usize) -> u64 {
        match self {
            Self::Same(value) => value,
            Self::List(list) => list.get(index).copied().unwrap_or(0),
        }
    }

    /// Those from `index` on.
    #[inline]
    pub(crate) fn from(self, index: usize) -> Self {
        match self {
            Self::Same(_) => self,
            Self::List(list) => Self::List(list.get(index..).unwrap_or_default()),
        }
    }
}

/// Index of the first and of the last item whose value is not zero.
fn ends<T>(items: &[T], value: impl Fn(&T) -> u64) -> Option<(usize, usize)> {
    // Four with one branch cost a third of what they cost one by one, written out, as this is compiled for size. With
    // eight the compiler would take vector registers.
    let are_zero = |[a, b, c, d]: &&[T; 4]| value(a) | value(b) | value(c) | value(d) == 0;
    let is_live = |item: &T| value(item) != 0;
    let (fours, _) = items.as_chunks();
    let zero = 4 * fours.iter().take_while(are_zero).count();
    let (_, rest) = items.split_at_checked(zero)?;
    let first = zero + rest.iter().position(is_live)?;
    Some((first, items.iter().rposition(is_live)?))
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_ends_are_those_that_a_look_at_each_item_finds(
            items in proptest::collection::vec(prop_oneof![9 => Just(0), 1 => any::<u64>()], 0..40)
        ) {
            let live = |item: &u64| *item != 0;
            let found = ends(&items, |item| *item);
            prop_assert_eq!(found.map(|it| it.0), items.iter().position(live));
            prop_assert_eq!(found.map(|it| it.1), items.iter().rposition(live));
        }
    }
}
