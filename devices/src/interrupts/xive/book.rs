//! What is known of sources and queues: as the guest configured them.

use std::collections::BTreeMap;

use spapr_hypercalls::address::GuestPhysicalAddress;

use super::super::{Lisn, Trigger};
use super::{EventData, QUEUE_BYTES, QueueName};

/// How often sources can be sent to a queue: KVM counts that against the queue's entries, less a few,
/// and never counts down, not at a reset either (`xive_try_pick_queue` in
/// arch/powerpc/kvm/book3s_xive.c).
pub(super) const MOST_TARGETED: u64 = QUEUE_BYTES / 4 - 2;

/// A source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) trigger: Trigger,
    /// Where its events go; nowhere at first.
    pub(super) queue: Option<QueueName>,
    /// What they are.
    pub(super) data: EventData,
}

/// All sources and queues.
#[derive(Debug, Default)]
pub(super) struct Book {
    sources: BTreeMap<Lisn, Source>,
    queues: BTreeMap<QueueName, GuestPhysicalAddress>,
    /// How often sources were sent to each queue.
    targeted: BTreeMap<QueueName, u64>,
}

impl Book {
    /// A source that is masked, in place of one that there may be.
    pub(super) fn add_source(&mut self, lisn: Lisn, trigger: Trigger) {
        let source = Source {
            trigger,
            queue: None,
            data: EventData::default(),
        };
        self.sources.insert(lisn, source);
    }

    pub(super) fn source(&self, lisn: Lisn) -> Option<&Source> {
        self.sources.get(&lisn)
    }

    pub(super) fn source_mut(&mut self, lisn: Lisn) -> Option<&mut Source> {
        self.sources.get_mut(&lisn)
    }

    /// Where `queue` is.
    pub(super) fn queue(&self, queue: QueueName) -> Option<GuestPhysicalAddress> {
        self.queues.get(&queue).copied()
    }

    pub(super) fn add_queue(&mut self, queue: QueueName, address: GuestPhysicalAddress) {
        self.queues.insert(queue, address);
    }

    /// `queue`, if sources can still be sent there, or else another processor's of the same priority:
    /// so does KVM, with a warning in the host's log for each processor that has none.
    pub(super) fn queue_with_room(&self, queue: QueueName) -> Option<QueueName> {
        let has_room = |queue: &QueueName| {
            let targeted = self.targeted.get(queue).copied().unwrap_or(0);
            targeted < MOST_TARGETED
        };
        let mut others = self.queues.keys().copied();
        has_room(&queue)
            .then_some(queue)
            .or_else(|| others.find(|other| other.priority == queue.priority && has_room(other)))
    }

    /// A source was sent to `queue`.
    pub(super) fn count_targeted(&mut self, queue: QueueName) {
        *self.targeted.entry(queue).or_default() += 1;
    }

    pub(super) fn remove_queue(&mut self, queue: QueueName) {
        self.queues.remove(&queue);
    }

    /// All sources are masked, and there are no queues.
    pub(super) fn reset(&mut self) {
        self.queues.clear();
        for source in self.sources.values_mut() {
            source.queue = None;
            source.data = EventData::default();
        }
    }
}
