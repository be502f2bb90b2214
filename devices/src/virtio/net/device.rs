//! The device.

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;
use virtio_queue::desc::split::Descriptor;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::drops::Drops;
use super::filter::Filter;
use super::nic::Nic;
use super::receive::{Interruption, Receiver, Terms};
use super::transmit::Sender;
use super::{CONTROL, RECEIVE, TRANSMIT, config, control};
use crate::dma::DmaMemory;
use crate::net::{Backend, Offloads, StreamError};
use crate::vhost::NetKernel;
use crate::virtio::VhostQueues;
use crate::virtio::device::{Device, Identity, OWN_EVENT, ServeError, Served};

/// Entries of the queue for commands.
const CONTROL_QUEUE_SIZE: u16 = 64;

/// A virtio network card.
pub struct Net {
    nic: Arc<Nic>,
    /// The card's while there is no device.
    backend: Option<Backend>,
    queue_sizes: [u16; 3],
    features: u64,
    /// What the host is to be told to leave to the guest, unless it was.
    untold: Option<Offloads>,
    filter: Filter,
    receiver: Receiver,
    sender: Sender,
    drops: Drops,
    /// With which its thread waits, and what the kernel tells of there.
    thread: Option<Arc<Epoll>>,
    watched: EventSet,
    /// Queues for which there is something, by their bits.
    due: u8,
    buffers: Vec<Descriptor>,
    /// The queues of frames, where the host's kernel passes those.
    kernel: Option<VhostQueues>,
    /// Frames may have come in while the link was down.
    is_stale: bool,
}

impl Net {
    /// The device of `nic`; `None` if that has one already.
    pub fn new(nic: Arc<Nic>) -> Option<Self> {
        let backend = nic.take_backend()?;
        let options = nic.options();
        let filter = Filter::of_card(options.mac);
        nic.set_filter(&filter);
        Some(Self {
            backend: Some(backend),
            queue_sizes: [
                options.receive_entries,
                options.transmit_entries,
                CONTROL_QUEUE_SIZE,
            ],
            features: 0,
            untold: Some(Offloads::empty()),
            filter,
            receiver: Receiver::new(),
            sender: Sender::default(),
            drops: Drops::default(),
            thread: None,
            watched: EventSet::empty(),
            due: 0,
            buffers: Vec::new(),
            kernel: None,
            is_stale: false,
            nic,
        })
    }

    /// The same, in a machine with that memory: where the card has vhost, the host's kernel passes frames.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn in_machine(mut self, ram: &GuestMemoryMmap) -> io::Result<Self> {
        if let Some(vhost) = self.nic.vhost()
            && let Some(Backend::Tap(tap)) = &self.backend
        {
            let (file, has_header) = tap.file();
            let kernel = NetKernel::new(Arc::clone(vhost), ram.clone(), file, has_header);
            self.kernel = Some(VhostQueues::new(Box::new(kernel))?);
        }
        Ok(self)
    }

    /// Has the host leave to the guest what its driver has offered to do, unless that is so.
    fn tell_offloads(&mut self) {
        if let Some(backend) = &self.backend
            && let Some(offloads) = self.untold.take()
            && let Err(error) = backend.set_offloads(offloads)
        {
            // What comes all the same is left out.
            log::debug!("{}: TUNSETOFFLOAD: {error}", self.nic.options().name);
        }
    }

    /// Leaves out the frames that came in while the link was down.
    fn forget_stale(&mut self) {
        let Some(backend) = self.backend.as_mut().filter(|_| self.is_stale) else {
            return;
        };
        self.is_stale = false;
        self.receiver.forget_stale(backend);
    }

    /// Serves a queue of frames.
    fn pass(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, Interruption> {
        self.tell_offloads();
        // What has no network has room for frames that never come: it waits, and is not asked again.
        let Some(backend) = &mut self.backend else {
            return Ok(Served::Full);
        };
        if index == RECEIVE && self.nic.is_lost() {
            return Ok(Served::Full);
        }
        let (name, is_up) = (&self.nic.options().name, self.nic.is_up());
        if index == RECEIVE {
            let terms = Terms {
                name,
                features: self.features,
                filter: &self.filter,
                is_up,
            };
            let drops = &mut self.drops;
            let served = self.receiver.serve(backend, queue, memory, terms, drops);
            if self.kernel.is_some() {
                // It is the kernel's queue: served here all the same, it is left as the kernel knows it.
                self.receiver.give_up_room(queue);
            }
            return served;
        }
        let card = (name.as_str(), is_up);
        let drops = &mut self.drops;
        self.sender.serve(backend, queue, memory, card, drops)
    }

    /// Frames that went nowhere.
    #[cfg(test)]
    pub(super) const fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Whether that queue is due; it is no more.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) const fn take_due(&mut self, queue: usize) -> bool {
        let is_due = self.due & 1 << queue != 0;
        self.due &= !(1 << queue);
        is_due
    }

    /// As when a vhost back end is to serve it next.
    #[cfg(test)]
    pub(super) fn give_up_room(&mut self, queue: &mut Queue) {
        self.receiver.give_up_room(queue);
    }

    /// What its queues wait for.
    pub(super) fn wanted(&self) -> EventSet {
        let mut wanted = EventSet::empty();
        wanted.set(EventSet::IN, self.receiver.waits());
        wanted.set(EventSet::OUT, self.sender.waits());
        wanted
    }

    /// What was `told` makes queues due, and an end that none of them would come upon is one all the same.
    fn note(&mut self, told: EventSet) {
        let is_over = told.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if (is_over || told.contains(EventSet::IN)) && self.receiver.stop_waiting() {
            self.due |= 1 << RECEIVE;
        }
        if (is_over || told.contains(EventSet::OUT)) && self.sender.stop_waiting() {
            self.due |= 1 << TRANSMIT;
        }
        if is_over && self.due & 1 << RECEIVE == 0 {
            self.nic.lose(&StreamError::Closed);
        }
    }

    /// Has the kernel tell of that.
    fn watch(&mut self) -> io::Result<()> {
        let wanted = self.watched | self.wanted();
        // What is waited for no more is told once, and then forgotten.
        if wanted != self.watched && !self.nic.is_lost() {
            self.watch_for(wanted)?;
        }
        Ok(())
    }

    /// Has the kernel tell as long as the backend has, or takes, what is `wanted`; and of its end once.
    fn watch_for(&mut self, wanted: EventSet) -> io::Result<()> {
        if let (Some(thread), Some(backend)) = (&self.thread, &self.backend) {
            let event = EpollEvent::new(wanted | how_told(wanted), OWN_EVENT);
            thread.ctl(ControlOperation::Modify, backend.descriptor(), event)?;
            self.watched = wanted;
        }
        Ok(())
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

impl Device for Net {
    fn identity(&self) -> Identity {
        Identity {
            name: "virtio-net",
            device_id: 1,
            // Ethernet.
            class_code: 0x02_0000,
        }
    }

    fn features(&self) -> u64 {
        config::features(self.nic.has_offloads(), self.nic.options().mtu.is_some())
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mtu = self.nic.options().mtu;
        config::read(self.filter.mac, self.nic.is_up(), mtu, offset, data);
    }

    fn start(&mut self, features: u64) {
        self.features = features;
        // The device's thread tells it: it has the call.
        self.untold = Some(config::offloads(features));
    }

    fn serve(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        match index {
            RECEIVE | TRANSMIT => {
                let passed = self.pass(index, queue, memory);
                self.watch()?;
                match passed {
                    Ok(served) => Ok(served),
                    Err(Interruption::Driver(error)) => Err(error),
                    Err(Interruption::Host(error)) => {
                        self.nic.lose(&error);
                        // What the guest sends from now on is used up; its room for frames is not.
                        Ok(match index {
                            RECEIVE => Served::Full,
                            _ => Served::All,
                        })
                    }
                }
            }
            CONTROL => {
                let buffers = &mut self.buffers;
                let (served, has_changed) =
                    control::serve(queue, memory, buffers, &mut self.filter)?;
                if has_changed {
                    self.nic.set_filter(&self.filter);
                }
                Ok(served)
            }
            _ => Ok(Served::All),
        }
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(Arc::clone(self.nic.event()))
    }

    fn wait_with(&mut self, thread: &Arc<Epoll>) -> io::Result<()> {
        if let Some(backend) = &self.backend {
            let event = EpollEvent::new(self.watched | how_told(self.watched), OWN_EVENT);
            thread.ctl(ControlOperation::Add, backend.descriptor(), event)?;
        }
        self.thread = Some(Arc::clone(thread));
        Ok(())
    }

    fn next_due(&mut self) -> Option<usize> {
        let queue = [RECEIVE, TRANSMIT]
            .into_iter()
            .find(|queue| self.due & 1 << queue != 0)?;
        self.due &= !(1 << queue);
        Some(queue)
    }

    fn heard(&mut self, told: EventSet) -> io::Result<()> {
        // Nobody waits for it any more, or not always: it is not told on and on.
        let mut spent = told & EventSet::OUT;
        spent.set(
            EventSet::IN,
            told.contains(EventSet::IN) && !self.receiver.waits(),
        );
        if self.watched.intersects(spent) {
            self.watch_for(self.watched - spent)?;
        }
        self.note(told);
        if told.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            // That is told of whatever else is wanted, and would be told on and on; and once more for each call.
            return match self.watched.is_empty() {
                true => Ok(()),
                false => self.watch_for(EventSet::empty()),
            };
        }
        self.watch()
    }

    fn vhost_queues(&mut self) -> Option<&mut VhostQueues> {
        self.kernel.as_mut()
    }

    fn lets_vhost_serve(&mut self) -> bool {
        if !self.nic.is_up() {
            self.is_stale = true;
            return false;
        }
        self.tell_offloads();
        self.forget_stale();
        true
    }

    fn config_has_changed(&mut self) -> bool {
        self.nic.take_link_change()
    }

    fn reset(&mut self) {
        self.features = 0;
        self.untold = Some(Offloads::empty());
        self.filter = Filter::of_card(self.nic.options().mac);
        self.nic.set_filter(&self.filter);
        self.receiver.reset();
        self.sender.reset();
        // What the kernel tells of is asked for as before: the caller may be a processor's thread, which has no calls for that.
        self.due = 0;
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Some(backend) = self.backend.take() {
            self.nic.put_backend(backend);
        }
    }
}
