//! What a device's thread waits for.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::device::OWN_EVENT;
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
    /// What the device waits for itself has that.
    Own(EventSet),
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
            Self::Own(_) => OWN_EVENT,
            Self::Doorbell(queue) => queue as u64,
        }
    }

    fn of(event: &EpollEvent) -> Self {
        match event.data() {
            END => Self::End,
            HOST => Self::Host,
            VHOST => Self::Vhost,
            OWN_EVENT => Self::Own(event.event_set()),
            queue => Self::Doorbell(usize::try_from(queue).unwrap_or(usize::MAX)),
        }
    }
}

/// Descriptors, and the events of those that were heard.
pub(super) struct Signals {
    epoll: Arc<Epoll>,
    events: Vec<EpollEvent>,
}

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
        // Each write of an eventfd is an edge: what is heard once need not be read, which is a system call less.
        let edges = EventSet::EDGE_TRIGGERED;
        let doorbells = shared.doorbells.iter().enumerate();
        // Those of queues that a vhost back end serves it hears itself.
        for (queue, bell) in doorbells.skip(shared.vhost_queues) {
            add(bell.as_ref(), Signal::Doorbell(queue), edges)?;
        }
        if let Some(event) = &shared.host_event {
            add(event.as_ref(), Signal::Host, edges)?;
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
        })
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
