//! What is known of sources and queues: as the guest configured them.

use std::collections::BTreeMap;

use spapr_hypercalls::address::GuestPhysicalAddress;

use super::super::{Lisn, Trigger};
use super::{EventData, QueueName};

/// A source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) trigger: Trigger,
    /// Whether its line is raised; of a level-triggered one.
    pub(super) raised: bool,
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
}

impl Book {
    /// A source that is masked, in place of one that there may be.
    pub(super) fn add_source(&mut self, lisn: Lisn, trigger: Trigger) {
        let raised = self.sources.get(&lisn).is_some_and(|source| source.raised);
        let source = Source {
            trigger,
            raised: raised && trigger == Trigger::Level,
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

    pub(super) fn level_source_mut(&mut self, lisn: Lisn) -> Option<&mut Source> {
        self.source_mut(lisn)
            .filter(|source| source.trigger == Trigger::Level)
    }

    /// Where `queue` is.
    pub(super) fn queue(&self, queue: QueueName) -> Option<GuestPhysicalAddress> {
        self.queues.get(&queue).copied()
    }

    pub(super) fn add_queue(&mut self, queue: QueueName, address: GuestPhysicalAddress) {
        self.queues.insert(queue, address);
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
