//! The device.

use std::io;
use std::sync::Arc;

use log::Level;
use virtio_queue::Queue;
use virtio_queue::desc::split::Descriptor;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{Epoll, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::drops::Drops;
use super::end_watch::EndWatch;
use super::filter::Filter;
use super::nic::Nic;
use super::pair::Pair;
use super::receive::{Interruption, Terms};
use super::{RECEIVE, config, control};
use crate::dma::DmaMemory;
use crate::guest_message;
use crate::net::{Backend, Offloads, StreamError};
use crate::vhost::{NetKernel, NetKernels};
use crate::virtio::VhostQueues;
use crate::virtio::device::{Device, Identity, ServeError, Served, own_event};

/// Entries of the queue for commands.
const CONTROL_QUEUE_SIZE: u16 = 64;

/// A virtio network card.
pub struct Net {
    nic: Arc<Nic>,
    /// Its pairs of queues, each with what carries its frames; all are the card's while there is no device.
    pairs: Vec<Pair>,
    /// How many of them its driver uses, the first ones, and whether the host is to be told that.
    used_pairs: usize,
    are_pairs_untold: bool,
    queue_sizes: Vec<u16>,
    features: u64,
    /// What the host is to be told to leave to the guest, unless it was.
    untold: Option<Offloads>,
    filter: Filter,
    drops: Drops,
    /// With which its thread waits, and what the kernel tells of there.
    thread: Option<Arc<Epoll>>,
    buffers: Vec<Descriptor>,
    /// The queues of frames, where the host's kernel passes those.
    kernel: Option<VhostQueues>,
    /// When to look whether its interfaces are still there, then.
    ends: Option<EndWatch>,
    /// Frames may have come in while the link was down.
    is_stale: bool,
}

impl Net {
    /// The device of `nic`; `None` if that has one already.
    pub fn new(nic: Arc<Nic>) -> Option<Self> {
        let backends = nic.take_backends()?;
        let options = nic.options();
        let filter = Filter::of_card(options.mac);
        nic.set_filter(&filter);
        let of_pair = [options.receive_entries, options.transmit_entries];
        let mut queue_sizes = of_pair.repeat(backends.len());
        queue_sizes.push(CONTROL_QUEUE_SIZE);
        let pairs = (0..).zip(backends);
        Some(Self {
            pairs: pairs
                .map(|(number, backend)| Pair::new(number, backend))
                .collect(),
            used_pairs: 1,
            are_pairs_untold: true,
            queue_sizes,
            features: 0,
            untold: Some(Offloads::empty()),
            filter,
            drops: Drops::default(),
            thread: None,
            buffers: Vec::new(),
            kernel: None,
            ends: None,
            is_stale: false,
            nic,
        })
    }

    /// The same, in a machine with that memory: where the card has vhost, the host's kernel passes frames.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn in_machine(mut self, ram: &GuestMemoryMmap) -> io::Result<Self> {
        let pairs = self.pairs.iter().zip(self.nic.vhosts());
        let kernels = pairs.filter_map(|(pair, vhost)| {
            let Backend::Tap(tap) = &pair.backend else {
                return None;
            };
            let (file, has_header) = tap.file();
            Some(NetKernel::new(
                Arc::clone(vhost),
                ram.clone(),
                file,
                has_header,
            ))
        });
        let kernels: Vec<NetKernel> = kernels.collect();
        if !kernels.is_empty() && kernels.len() == self.pairs.len() {
            let mut kernel = VhostQueues::new(Box::new(NetKernels::new(kernels)))?;
            kernel.serve_first(control_queue(self.features, self.pairs.len()));
            self.kernel = Some(kernel);
            self.ends = Some(EndWatch::new()?);
        }
        Ok(self)
    }

    /// The number of its queue for commands, which follows those of the pairs that its driver knows (virtio 5.1.2).
    fn control(&self) -> usize {
        control_queue(self.features, self.pairs.len())
    }

    /// Has the host leave to the guest what its driver has offered to do, and have frames for the pairs that it uses,
    /// unless that is so.
    fn tell_host(&mut self) {
        if let Some(first) = self.pairs.first()
            && let Some(offloads) = self.untold.take()
            && let Err(error) = first.set_offloads(offloads)
        {
            // What comes all the same is left out.
            log::debug!("{}: TUNSETOFFLOAD: {error}", self.nic.options().name);
        }
        if std::mem::take(&mut self.are_pairs_untold) {
            let (pairs, thread) = (&mut self.pairs, self.thread.as_ref());
            if let Err(error) = use_pairs(pairs, self.used_pairs, thread) {
                tell_refusal(&self.nic.options().name, &error);
            }
        }
    }

    /// Looks whether its interfaces are still there.
    fn look_for_ends(&self) {
        if self.pairs.iter().any(|pair| pair.backend.is_over()) {
            self.nic.lose(&StreamError::Closed);
        }
    }

    /// Leaves out the frames that came in while the link was down.
    fn forget_stale(&mut self) {
        if std::mem::take(&mut self.is_stale) {
            let used = self.pairs.iter_mut().take(self.used_pairs);
            used.for_each(Pair::forget_stale);
        }
    }

    /// Serves a queue of frames.
    fn pass(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, Interruption> {
        self.tell_host();
        let way = index % WAYS;
        let mut used = self.pairs.iter_mut().take(self.used_pairs);
        // What is not used waits until it is, and then is due.
        let Some(pair) = used.nth(index / WAYS) else {
            return Ok(Served::Full);
        };
        // What has no network has room for frames that never come: it waits, and is not asked again.
        if way == RECEIVE && self.nic.is_lost() {
            return Ok(Served::Full);
        }
        let terms = Terms {
            name: &self.nic.options().name,
            features: self.features,
            filter: &self.filter,
            is_up: self.nic.is_up(),
        };
        let served = pair.pass(way, queue, memory, terms, &mut self.drops);
        if way == RECEIVE && self.kernel.is_some() {
            // It is the kernel's queue: served here all the same, it is left as the kernel knows it.
            pair.give_up_room(queue);
        }
        served
    }

    /// Does the commands in its queue for those.
    fn obey(&mut self, queue: &mut Queue, memory: &DmaMemory) -> Result<Served, ServeError> {
        self.tell_host();
        let most = match config::has_pairs(self.features) {
            true => self.pairs.len(),
            false => 0,
        };
        let (pairs, used, thread) = (&mut self.pairs, &mut self.used_pairs, self.thread.as_ref());
        let name = &self.nic.options().name;
        let mut has_failed = false;
        let set_pairs = |count: u16| {
            let count = usize::from(count);
            if !(1..=most).contains(&count) {
                return false;
            }
            let done = use_pairs(pairs, count, thread);
            match &done {
                Ok(()) => {
                    let new = pairs.iter_mut().take(count).skip(*used);
                    new.for_each(Pair::begin);
                    *used = count;
                }
                Err(error) => {
                    has_failed = true;
                    tell_refusal(name, error);
                }
            }
            done.is_ok()
        };
        let (buffers, filter) = (&mut self.buffers, &mut self.filter);
        let done = control::serve(queue, memory, buffers, filter, set_pairs);
        // It is told again, next time, of those that are used.
        self.are_pairs_untold |= has_failed;
        let (served, has_changed) = done?;
        if has_changed {
            self.nic.set_filter(&self.filter);
        }
        Ok(served)
    }

    /// Frames that went nowhere.
    #[cfg(test)]
    pub(super) const fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Whether that queue is due; it is no more.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn take_due(&mut self, queue: usize) -> bool {
        let pair = self.pairs.get_mut(queue / WAYS);
        pair.is_some_and(|pair| pair.take_due(queue % WAYS))
    }

    /// As when a vhost back end is to serve it next.
    #[cfg(test)]
    pub(super) fn give_up_room(&mut self, queue: &mut Queue) {
        self.pairs[0].give_up_room(queue);
    }

    /// What its queues wait for.
    #[cfg(test)]
    pub(super) fn wanted(&self) -> EventSet {
        let pairs = self.pairs.iter();
        pairs.fold(EventSet::empty(), |all, pair| all | pair.wanted())
    }

    /// For which pairs the host has frames.
    #[cfg(test)]
    pub(super) fn attached(&self) -> Vec<bool> {
        let pairs = self.pairs.iter();
        pairs.map(|pair| pair.backend.is_attached()).collect()
    }
}

/// Queues of a pair: one for each way.
const WAYS: usize = 2;

/// The number of the queue for commands of a card with so many pairs, whose driver has accepted `features`: it knows of one
/// pair without VIRTIO_NET_F_MQ (virtio 5.1.2).
const fn control_queue(features: u64, pairs: usize) -> usize {
    match config::has_pairs(features) {
        true => WAYS * pairs,
        false => WAYS,
    }
}

/// Says that the host's kernel has frames for other pairs than a driver uses: those go nowhere.
#[cold]
fn tell_refusal(name: &str, error: &io::Error) {
    guest_message!(
        Level::Warn,
        "{name}: the host refuses to use other queues of its interface: {error}"
    );
}

/// Has the host have frames for the first `count` of `pairs`, and for no others.
fn use_pairs(pairs: &mut [Pair], count: usize, thread: Option<&Arc<Epoll>>) -> io::Result<()> {
    for (number, pair) in pairs.iter_mut().enumerate() {
        pair.attach(number < count, thread)?;
    }
    Ok(())
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
        let has_mtu = self.nic.options().mtu.is_some();
        config::features(self.nic.has_offloads(), has_mtu, self.pairs.len() > 1)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let look = config::Look {
            mac: self.filter.mac,
            is_up: self.nic.is_up(),
            mtu: self.nic.options().mtu,
            pairs: self.pairs.len(),
        };
        config::read(look, offset, data);
    }

    fn start(&mut self, features: u64) {
        self.features = features;
        // The device's thread tells it: it has the call.
        self.untold = Some(config::offloads(features));
        let control = self.control();
        if let Some(kernel) = &mut self.kernel {
            kernel.serve_first(control);
        }
    }

    fn serve(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        if index == self.control() {
            return self.obey(queue, memory);
        }
        let passed = self.pass(index, queue, memory);
        if !self.nic.is_lost()
            && let Some(pair) = self.pairs.get_mut(index / WAYS)
        {
            pair.watch(self.thread.as_ref())?;
        }
        match passed {
            Ok(served) => Ok(served),
            Err(Interruption::Driver(error)) => Err(error),
            Err(Interruption::Host(error)) => {
                self.nic.lose(&error);
                // What the guest sends from now on is used up; its room for frames is not.
                Ok(match index % WAYS {
                    RECEIVE => Served::Full,
                    _ => Served::All,
                })
            }
        }
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(Arc::clone(self.nic.event()))
    }

    fn wait_with(&mut self, thread: &Arc<Epoll>) -> io::Result<()> {
        if let Some(ends) = &mut self.ends {
            return match self.nic.is_lost() {
                true => Ok(()),
                false => ends.wait_with(thread, own_event(self.pairs.len())),
            };
        }
        for pair in &mut self.pairs {
            pair.wait_with(thread)?;
        }
        self.thread = Some(Arc::clone(thread));
        Ok(())
    }

    fn next_due(&mut self) -> Option<usize> {
        let mut pairs = self.pairs.iter_mut().enumerate();
        pairs.find_map(|(number, pair)| Some(WAYS * number + pair.next_due()?))
    }

    fn heard(&mut self, which: usize, told: EventSet) -> io::Result<()> {
        if let Some(ends) = &mut self.ends {
            // Its thread looks at what vhost may do next.
            return match self.nic.is_lost() {
                true => ends.end(),
                false => ends.hear(),
            };
        }
        let Some(pair) = self.pairs.get_mut(which) else {
            return Ok(());
        };
        // What was told of one that is not used any more was so before.
        if pair.backend.is_attached()
            && let Some(end) = pair.heard(told, self.thread.as_ref())?
        {
            self.nic.lose(&end);
        }
        Ok(())
    }

    fn vhost_queues(&mut self) -> Option<&mut VhostQueues> {
        self.kernel.as_mut()
    }

    fn lets_vhost_serve(&mut self) -> bool {
        // The kernel would not begin with one that is gone, as if the driver's rings made no sense.
        self.look_for_ends();
        if !self.nic.is_up() {
            self.is_stale = true;
            return false;
        }
        self.tell_host();
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
        self.pairs.iter_mut().for_each(Pair::reset);
        self.used_pairs = 1;
        // The device's thread tells it, as above.
        self.are_pairs_untold = true;
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let pairs = self.pairs.drain(..);
        self.nic
            .put_backends(pairs.map(|pair| pair.backend).collect());
    }
}
