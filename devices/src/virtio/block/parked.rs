//! Requests that wait for the machine to go on, because the host has failed them.

use super::device::Pending;
use crate::image::Failure;

/// A request that waits.
#[derive(Debug)]
struct Parked {
    pending: Pending,
    failure: Failure,
    slot: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct ParkedRequests {
    requests: Vec<Parked>,
    /// The machine goes on: they are to be tried again.
    are_due: bool,
}

impl ParkedRequests {
    /// Adds one, which keeps its slot.
    pub(super) fn park(&mut self, slot: usize, pending: Pending, failure: Failure) {
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

    /// The machine goes on.
    pub(super) fn go_on(&mut self) {
        self.are_due = !self.is_empty();
    }

    /// The machine pauses, perhaps before what was due was tried.
    pub(super) fn stay(&mut self) {
        self.are_due = false;
    }

    /// Takes those that are to be tried again now, in the order in which their driver made them.
    pub(super) fn take_due(&mut self) -> Vec<(usize, Pending, Failure)> {
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

    /// Forgets all; their slots are free.
    pub(super) fn forget(&mut self) -> Vec<(usize, Pending)> {
        self.are_due = false;
        let all = self.requests.drain(..);
        all.map(|parked| (parked.slot, parked.pending)).collect()
    }
}
