//! Requests that a disk's image is at work on.

use std::io;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use log::Level;
use vm_memory::{GuestAddress, GuestMemoryError};

use super::disk::Disk;
use super::failures::Action;
use super::parked::ParkedRequests;
use crate::dma::DmaMemory;
use crate::guest_message;
use crate::image::{Completion, Engine, Failure, Operation};

/// A request that is under way, of which the device knows `task`.
#[derive(Debug)]
pub(super) struct Pending<T> {
    pub(super) task: T,
    /// Counts up with each request.
    pub(super) number: u64,
}

/// What a device's thread has a disk's image do.
pub(in crate::virtio) struct Work<T> {
    disk: Arc<Disk>,
    /// The disk's while there is no device.
    engine: ManuallyDrop<Engine>,
    /// Requests under way, by the engine's slots, and the slots that are free.
    pending: Vec<Option<Pending<T>>>,
    free: Vec<usize>,
    completions: Vec<Completion>,
    /// What waits for the machine to go on.
    parked: ParkedRequests<T>,
    /// Requests so far.
    number: u64,
}

/// Where in the image something is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::virtio) struct Place {
    pub(in crate::virtio) offset: u64,
    pub(in crate::virtio) bytes: u64,
}

/// An operation that the host was given.
#[must_use = "what is done of an operation that is nobody's is lost"]
pub(in crate::virtio) struct Given(usize);

impl<T> Work<T> {
    /// What has `disk` at work, with DMA by way of `memory`; `None` if another device has it.
    pub(in crate::virtio) fn new(disk: Arc<Disk>, memory: DmaMemory) -> Option<Self> {
        let mut engine = disk.take_engine()?;
        engine.set_memory(memory);
        let slots = engine.slots();
        Some(Self {
            engine: ManuallyDrop::new(engine),
            pending: (0..slots).map(|_| None).collect(),
            free: (0..slots).collect(),
            completions: Vec::new(),
            parked: ParkedRequests::default(),
            number: 0,
            disk,
        })
    }

    /// The disk.
    pub(in crate::virtio) const fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Does here and now what waits for a thread that the disk has not.
    #[cfg(feature = "fuzz")]
    pub(in crate::virtio) fn work(&self) {
        self.engine.work();
    }

    /// Whether requests wait for the machine to go on: those that would come then wait, too.
    pub(in crate::virtio) fn waits(&self) -> bool {
        !self.parked.is_empty()
    }

    /// How many requests the host works on.
    pub(in crate::virtio) fn in_flight(&self) -> usize {
        self.engine.in_flight()
    }

    /// Gives the host an operation, with `pieces` of memory of as many bytes as are moved. It begins with the next
    /// [`Work::start`] at the latest; whose it is has to be said before, by [`Work::note`]. `None` where as many are
    /// under way as can be.
    ///
    /// # Errors
    /// Memory is out of the device's reach.
    pub(in crate::virtio) fn give(
        &mut self,
        operation: Operation,
        place: Place,
        pieces: impl Iterator<Item = (GuestAddress, usize)>,
    ) -> Result<Option<Given>, GuestMemoryError> {
        let Some(slot) = self.free.pop() else {
            return Ok(None);
        };
        let Place { offset, bytes } = place;
        if let Err(error) = self.engine.give(slot, operation, offset, bytes, pieces) {
            self.free.push(slot);
            return Err(error);
        }
        Ok(Some(Given(slot)))
    }

    /// Whose an operation is.
    pub(in crate::virtio) fn note(&mut self, Given(slot): Given, task: T) {
        self.number += 1;
        self.pending[slot] = Some(Pending {
            number: self.number,
            task,
        });
    }

    /// Has the host begin with what it was given.
    ///
    /// # Errors
    /// The host's.
    pub(in crate::virtio) fn start(&mut self) -> io::Result<()> {
        self.engine.start()
    }

    /// Tries again what has waited for the machine to go on; true if there was something.
    pub(in crate::virtio) fn try_again(&mut self) -> bool {
        let due = self.parked.take_due();
        if due.is_empty() {
            return false;
        }
        self.disk.set_waits(false);
        for (slot, pending, failure) in due {
            self.pending[slot] = Some(pending);
            self.engine.give_again(slot, failure);
        }
        true
    }

    /// Learns what the host has done; `over` is told of each request that is over, and why if the driver is to know
    /// that it failed.
    ///
    /// # Errors
    /// The host cannot tell.
    pub(in crate::virtio) fn collect(
        &mut self,
        mut over: impl FnMut(T, io::Result<()>),
    ) -> io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        self.engine.collect(&mut completions)?;
        for Completion { slot, result } in completions.drain(..) {
            let Some(pending) = self.pending.get_mut(slot).and_then(Option::take) else {
                continue;
            };
            match result {
                Ok(()) => {
                    self.free.push(slot);
                    over(pending.task, Ok(()));
                }
                Err(failure) => {
                    if let Some((task, result)) = self.fails(slot, pending, failure) {
                        over(task, result);
                    }
                }
            }
        }
        self.completions = completions;
        Ok(())
    }

    /// What comes of a request that the host has failed, unless it waits.
    fn fails(
        &mut self,
        slot: usize,
        pending: Pending<T>,
        failure: Failure,
    ) -> Option<(T, io::Result<()>)> {
        let kind = failure.operation.kind();
        let action = self.disk.action(kind, &failure.error);
        let path = self.disk.image().options().path.display();
        let error = &failure.error;
        if action == Action::Stop {
            // One is told of for all that the host fails before the machine has paused.
            if self.parked.is_empty() {
                self.disk.set_waits(true);
                self.disk.tell(kind, action, error);
                guest_message!(
                    Level::Warn,
                    "{path}: {error}: the machine pauses, and the request is tried again when it goes on"
                );
            }
            self.parked.park(slot, pending, failure);
            return None;
        }
        guest_message!(
            Level::Warn,
            "{path}: the host fails a request, and {}: {error}",
            match action {
                Action::Ignore => "the guest is told that it was done",
                _ => "so the disk does",
            }
        );
        self.disk.tell(kind, action, error);
        self.free.push(slot);
        let result = match action {
            Action::Ignore => Ok(()),
            _ => Err(failure.error),
        };
        Some((pending.task, result))
    }

    /// The requests that the host works on or that wait for the machine to go on.
    pub(in crate::virtio) fn tasks(&self) -> impl Iterator<Item = &T> {
        let pending = self.pending.iter().flatten();
        pending
            .map(|pending| &pending.task)
            .chain(self.parked.tasks())
    }

    /// As [`Work::tasks`], to be changed.
    pub(in crate::virtio) fn tasks_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let pending = self.pending.iter_mut().flatten();
        pending
            .map(|pending| &mut pending.task)
            .chain(self.parked.tasks_mut())
    }

    /// Takes away requests that wait for the machine to go on, those for which `is_it`.
    pub(in crate::virtio) fn withdraw(&mut self, is_it: impl FnMut(&T) -> bool) -> Vec<T> {
        let withdrawn = self.parked.withdraw(is_it);
        if !withdrawn.is_empty() && self.parked.is_empty() {
            self.disk.set_waits(false);
        }
        let tasks = withdrawn.into_iter().map(|(slot, pending)| {
            self.free.push(slot);
            pending.task
        });
        tasks.collect()
    }

    /// The machine goes on.
    pub(in crate::virtio) fn go_on(&mut self) {
        self.parked.go_on();
    }

    /// The machine pauses.
    pub(in crate::virtio) fn stay(&mut self) {
        self.parked.stay();
    }

    /// Forgets what waits; nothing is in flight.
    pub(in crate::virtio) fn reset(&mut self) {
        self.withdraw(|_| true);
        self.parked.stay();
        self.disk.set_waits(false);
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        // SAFETY: nothing uses it here any more.
        let engine = unsafe { ManuallyDrop::take(&mut self.engine) };
        self.disk.set_waits(false);
        // What is under way has this device's slots; dropping waits for it.
        if engine.in_flight() == 0 {
            self.disk.put_engine(engine);
        }
    }
}
