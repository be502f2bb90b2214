//! What a device's thread waits for.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::device::{own_event, which_own};
use super::shared::Shared;

/// What there is to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// The thread is to end.
    End,
    /// The host has done something for the device, or the device has something to learn.
    Host,
    /// A vhost back end has something to say of the queues that it serves.
    Vhost,
    /// One of the things that the device waits for itself has that.
    Own(usize, EventSet),
    /// A queue has something to serve.
    Doorbell(usize),
}

/// Numbers below are queues'.
const END: u64 = u64::MAX;
const HOST: u64 = END - 1;
const VHOST: u64 = END - 2;

impl Signal {
    const fn number(self) -> u64 {
        match self {
            Self::End => END,
            Self::Host => HOST,
            Self::Vhost => VHOST,
            Self::Own(which, _) => own_event(which),
            Self::Doorbell(queue) => queue as u64,
        }
    }

    fn of(event: &EpollEvent) -> Self {
        match event.data() {
            END => Self::End,
            HOST => Self::Host,
            VHOST => Self::Vhost,
            number => match which_own(number) {
                Some(which) => Self::Own(which, event.event_set()),
                None => Self::Doorbell(usize::try_from(number).unwrap_or(usize::MAX)),
            },
        }
    }
}

/// Descriptors, and the events of those that were heard.
pub(super) struct Signals {
    epoll: Arc<Epoll>,
    events: Vec<EpollEvent>,
    /// The first doorbell that is heard here: those below it a vhost back end hears itself.
    first_doorbell: usize,
}

/// Each write of an eventfd is an edge: what is heard once need not be read, which is a system call less.
const EDGES: EventSet = EventSet::EDGE_TRIGGERED;

impl Signals {
    /// Those of a device, and the one that ends its thread.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub(super) fn new(shared: &Shared, end: &EventFd) -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new()?);
        shared.state().device.wait_with(&epoll)?;
        // One for that.
        let mut count = 1;
        let mut add = |descriptor: &dyn AsRawFd, signal: Signal, how: EventSet| {
            count += 1;
            let event = EpollEvent::new(EventSet::IN | how, signal.number());
            epoll.ctl(ControlOperation::Add, descriptor.as_raw_fd(), event)
        };
        let doorbells = shared.doorbells.iter().enumerate();
        // Those of queues that a vhost back end serves it hears itself.
        for (queue, bell) in doorbells.skip(shared.vhost_queues) {
            add(bell.as_ref(), Signal::Doorbell(queue), EDGES)?;
        }
        if let Some(event) = &shared.host_event {
            add(event.as_ref(), Signal::Host, EDGES)?;
        }
        // What these tell is told until somebody has seen to it.
        let levels = EventSet::empty();
        if let Some(watched) = &shared.watched {
            add(watched.as_ref(), Signal::Host, levels)?;
        }
        for event in &shared.vhost_events {
            add(event.as_ref(), Signal::Vhost, levels)?;
        }
        add(end, Signal::End, levels)?;
        Ok(Self {
            epoll,
            events: vec![EpollEvent::default(); count],
            first_doorbell: shared.vhost_queues,
        })
    }

    /// Hears the doorbells of all queues but the first `vhost_queues`, which a back end serves at present.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn leave_to_vhost(
        &mut self,
        shared: &Shared,
        vhost_queues: usize,
    ) -> io::Result<()> {
        let first = std::mem::replace(&mut self.first_doorbell, vhost_queues);
        let is_less = vhost_queues < first;
        let changed = first.min(vhost_queues)..first.max(vhost_queues);
        for (queue, bell) in shared.doorbells.iter().enumerate() {
            if !changed.contains(&queue) {
                continue;
            }
            let operation = match is_less {
                true => ControlOperation::Add,
                false => ControlOperation::Delete,
            };
            let event = EpollEvent::new(EventSet::IN | EDGES, Signal::Doorbell(queue).number());
            self.epoll.ctl(operation, bell.as_raw_fd(), event)?;
        }
        Ok(())
    }

    /// Waits for some.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn wait(&mut self) -> io::Result<impl Iterator<Item = Signal> + Clone> {
        loop {
            match self.epoll.wait(-1, &mut self.events) {
                Ok(count) => return Ok(self.events[..count].iter().map(Signal::of)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
