//! Requests that wait for the machine to go on, because the host has failed them.

use super::work::Pending;
use crate::image::Failure;

/// A request that waits.
#[derive(Debug)]
struct Parked<T> {
    pending: Pending<T>,
    failure: Failure,
    slot: usize,
}

/// All of them.
#[derive(Debug)]
pub(super) struct ParkedRequests<T> {
    requests: Vec<Parked<T>>,
    /// The machine goes on: they are to be tried again.
    are_due: bool,
}

impl<T> Default for ParkedRequests<T> {
    fn default() -> Self {
        Self {
            requests: Vec::new(),
            are_due: false,
        }
    }
}

impl<T> ParkedRequests<T> {
    /// Adds one, which keeps its slot.
    pub(super) fn park(&mut self, slot: usize, pending: Pending<T>, failure: Failure) {
        self.requests.push(Parked {
            pending,
            failure,
            slot,
        });
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// What the device knows of each.
    pub(super) fn tasks(&self) -> impl Iterator<Item = &T> {
        self.requests.iter().map(|parked| &parked.pending.task)
    }

    /// As [`ParkedRequests::tasks`], to be changed.
    pub(super) fn tasks_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let requests = self.requests.iter_mut();
        requests.map(|parked| &mut parked.pending.task)
    }

    /// The machine goes on.
    pub(super) fn go_on(&mut self) {
        self.are_due = !self.is_empty();
    }

    /// The machine pauses, perhaps before what was due was tried.
    pub(super) fn stay(&mut self) {
        self.are_due = false;
    }

    /// Takes those that are to be tried again now, in the order in which their driver made them.
    pub(super) fn take_due(&mut self) -> Vec<(usize, Pending<T>, Failure)> {
        if !std::mem::take(&mut self.are_due) {
            return Vec::new();
        }
        let mut due = std::mem::take(&mut self.requests);
        due.sort_by_key(|parked| parked.pending.number);
        let parts = due.into_iter();
        parts
            .map(|parked| (parked.slot, parked.pending, parked.failure))
            .collect()
    }

    /// Takes away those for which `is_it`; their slots are free.
    pub(super) fn withdraw(
        &mut self,
        mut is_it: impl FnMut(&T) -> bool,
    ) -> Vec<(usize, Pending<T>)> {
        let withdrawn = self
            .requests
            .extract_if(.., |parked| is_it(&parked.pending.task));
        withdrawn
            .map(|parked| (parked.slot, parked.pending))
            .collect()
    }
}
