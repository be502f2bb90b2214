//! A pair of a card's queues, with what carries its frames.

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::drops::Drops;
use super::receive::{Interruption, Receiver, Terms};
use super::transmit::Sender;
use super::{RECEIVE, TRANSMIT};
use crate::dma::DmaMemory;
use crate::net::{Backend, Offloads, StreamError};
use crate::virtio::device::{Served, own_event};

/// A pair.
pub(super) struct Pair {
    /// Which of the card's it is.
    number: usize,
    pub(super) backend: Backend,
    receiver: Receiver,
    sender: Sender,
    /// What the device's thread is told of, if anything: nothing of one whose queue the interface does not use.
    watched: Option<EventSet>,
    /// Whether there is something for either of its queues.
    due: [bool; 2],
}

impl Pair {
    /// The card's pair of that number.
    pub(super) fn new(number: usize, backend: Backend) -> Self {
        Self {
            number,
            backend,
            receiver: Receiver::new(),
            sender: Sender::default(),
            watched: None,
            due: [false; 2],
        }
    }

    /// Passes frames one way: by [`RECEIVE`] or [`TRANSMIT`].
    pub(super) fn pass(
        &mut self,
        way: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
        terms: Terms<'_>,
        drops: &mut Drops,
    ) -> Result<Served, Interruption> {
        let backend = &mut self.backend;
        if way == RECEIVE {
            return self.receiver.serve(backend, queue, memory, terms, drops);
        }
        let card = (terms.name, terms.is_up);
        self.sender.serve(backend, queue, memory, card, drops)
    }

    /// Leaves its queue for received frames as somebody else finds it who serves it next.
    pub(super) fn give_up_room(&mut self, queue: &mut Queue) {
        self.receiver.give_up_room(queue);
    }

    /// Leaves out the frames that came in while the link was down.
    pub(super) fn forget_stale(&mut self) {
        self.receiver.forget_stale(&mut self.backend);
    }

    /// What its queues wait for.
    pub(super) fn wanted(&self) -> EventSet {
        let mut wanted = EventSet::empty();
        wanted.set(EventSet::IN, self.receiver.waits());
        wanted.set(EventSet::OUT, self.sender.waits());
        wanted
    }

    /// Begins to have a thread told of what its queues wait for, and of the backend's end.
    pub(super) fn wait_with(&mut self, thread: &Epoll) -> io::Result<()> {
        if self.watched.is_none() && self.backend.is_attached() {
            let nothing = EventSet::empty();
            self.tell(thread, ControlOperation::Add, nothing)?;
            self.watched = Some(nothing);
        }
        Ok(())
    }

    /// Has the host have frames for it, or none. Its queues are due then: what they hold may be served.
    pub(super) fn attach(
        &mut self,
        is_attached: bool,
        thread: Option<&Arc<Epoll>>,
    ) -> io::Result<()> {
        if self.backend.is_attached() == is_attached {
            return Ok(());
        }
        if let Some(thread) = thread.filter(|_| self.watched.is_some()) {
            self.tell(thread, ControlOperation::Delete, EventSet::empty())?;
            self.watched = None;
        }
        let done = self.backend.attach(is_attached);
        // Also of one that is attached still, because the host refused.
        if let Some(thread) = thread {
            self.wait_with(thread)?;
        }
        if let Err(error) = done {
            // It may go on as it was.
            self.watch(thread)?;
            return Err(error);
        }
        self.due = [is_attached; 2];
        Ok(())
    }

    /// Its driver begins to use it: what its queues hold may be served, which it was not before.
    pub(super) const fn begin(&mut self) {
        self.due = [true; 2];
    }

    /// Has the kernel tell of what its queues wait for, too.
    pub(super) fn watch(&mut self, thread: Option<&Arc<Epoll>>) -> io::Result<()> {
        let Some(watched) = self.watched else {
            return Ok(());
        };
        let wanted = watched | self.wanted();
        // What is waited for no more is told once, and then forgotten.
        if wanted != watched {
            self.watch_for(thread, wanted)?;
        }
        Ok(())
    }

    /// Has the kernel tell as long as the backend has, or takes, what is `wanted`; and of its end once.
    fn watch_for(&mut self, thread: Option<&Arc<Epoll>>, wanted: EventSet) -> io::Result<()> {
        if let Some(thread) = thread.filter(|_| self.watched.is_some()) {
            self.tell(thread, ControlOperation::Modify, wanted)?;
            self.watched = Some(wanted);
        }
        Ok(())
    }

    fn tell(&self, thread: &Epoll, how: ControlOperation, wanted: EventSet) -> io::Result<()> {
        let event = EpollEvent::new(wanted | how_told(wanted), own_event(self.number));
        thread.ctl(how, self.backend.descriptor(), event)
    }

    /// What was `told` makes its queues due; why the backend is at its end, if none of them would come upon that.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn heard(
        &mut self,
        told: EventSet,
        thread: Option<&Arc<Epoll>>,
    ) -> io::Result<Option<StreamError>> {
        let watched = self.watched.unwrap_or(EventSet::empty());
        // Nobody waits for it any more, or not always: it is not told on and on.
        let mut spent = told & EventSet::OUT;
        spent.set(
            EventSet::IN,
            told.contains(EventSet::IN) && !self.receiver.waits(),
        );
        if watched.intersects(spent) {
            self.watch_for(thread, watched - spent)?;
        }
        let is_over = told.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if (is_over || told.contains(EventSet::IN)) && self.receiver.stop_waiting() {
            self.due[RECEIVE] = true;
        }
        if (is_over || told.contains(EventSet::OUT)) && self.sender.stop_waiting() {
            self.due[TRANSMIT] = true;
        }
        if !is_over {
            self.watch(thread)?;
            return Ok(None);
        }
        // That is told of whatever else is wanted, and would be told on and on; and once more for each call.
        if self.watched.is_some_and(|watched| !watched.is_empty()) {
            self.watch_for(thread, EventSet::empty())?;
        }
        Ok((!self.due[RECEIVE]).then_some(StreamError::Closed))
    }

    /// Its next queue that is due, by its way.
    pub(super) fn next_due(&mut self) -> Option<usize> {
        [RECEIVE, TRANSMIT]
            .into_iter()
            .find(|way| std::mem::take(&mut self.due[*way]))
    }

    /// Whether that queue is due; it is no more.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) const fn take_due(&mut self, way: usize) -> bool {
        std::mem::replace(&mut self.due[way], false)
    }

    /// Has the host leave that work with its frames to the guest.
    pub(super) fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.backend.set_offloads(offloads)
    }

    /// As at first. What the kernel tells of is asked for as before: the caller may be a processor's thread, which has no
    /// calls for that.
    pub(super) fn reset(&mut self) {
        self.receiver.reset();
        self.sender.reset();
        self.due = [false; 2];
    }
}

/// Level-triggered where frames are wanted: epoll reports a frame again that was left with the host. Edge-triggered where
/// nothing is: epoll reports the end whatever it was asked for, and would report it for ever.
fn how_told(wanted: EventSet) -> EventSet {
    match wanted.is_empty() {
        true => EventSet::EDGE_TRIGGERED,
        false => EventSet::empty(),
    }
}
