//! What a kind of virtio device is.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_queue::Queue;
use vmm_sys_util::epoll::{Epoll, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::vhost_queues::VhostQueues;
use crate::dma::DmaMemory;

/// What a driver knows a kind of device by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// How messages name it, such as `virtio-rng`.
    pub name: &'static str,
    /// Its device ID (virtio 5).
    pub device_id: u16,
    /// Its PCI class, subclass and programming interface.
    pub class_code: u32,
}

/// How far serving a queue got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// There is nothing left.
    All,
    /// There is more, which waits for the next turn.
    Some,
    /// There may be more, which waits until one of the queue's requests is done.
    Full,
}

/// A request that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The queue that it came from.
    pub queue: usize,
    /// By which it is given back.
    pub head: u16,
    /// Bytes that were written into its buffers.
    pub written: u32,
}

/// What a driver did that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A ring makes no sense, or lies where the device reaches no memory.
    #[error("its driver's ring is broken")]
    Ring(#[from] virtio_queue::Error),
    /// A buffer lies where the device reaches no memory.
    #[error("its driver's buffer is out of reach")]
    Buffer(#[from] vm_memory::GuestMemoryError),
    /// A request lacks what each of its kind has.
    #[error("its driver's request has {0}")]
    Request(&'static str),
    /// A vhost back end cannot serve its rings.
    #[error("{who} does not serve its driver's rings")]
    Vhost {
        /// How messages name it.
        who: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The host cannot do what is asked for.
    #[error("the host refused")]
    Host(#[from] io::Error),
}

/// How many things a device may wait for itself.
pub(super) const OWN_EVENTS: u64 = 256;
/// The number of the first of them; the others' are below.
const FIRST_OWN_EVENT: u64 = u64::MAX - 3;

/// The number of what a device waits for itself as its `which`th thing, from 0 on.
pub(super) const fn own_event(which: usize) -> u64 {
    FIRST_OWN_EVENT - which as u64
}

/// Which of the things that a device waits for itself has that number.
pub(super) fn which_own(number: u64) -> Option<usize> {
    let which = FIRST_OWN_EVENT.checked_sub(number)?;
    usize::try_from(which).ok().filter(|_| which < OWN_EVENTS)
}

/// A kind of virtio device.
///
/// A device that can answer at once does so as it serves a queue. One that has the host work for it takes requests as
/// it serves, and has them done later: the host signals [`Device::host_event`], [`Device::collect`] learns what is
/// done, and [`Device::next_done`] gives it back. All calls but those for the configuration are made by the device's
/// thread, which waits for nothing else meanwhile: what takes long is for the host to do.
pub trait Device: Send {
    /// What a driver knows it by.
    fn identity(&self) -> Identity;

    /// Features of its kind that it offers (virtio 5, bits 0 to 23 and 50 to 127 of which the first 64).
    fn features(&self) -> u64 {
        0
    }

    /// The most entries of each of its queues, powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Reads its own configuration at `offset`; what lies beyond it reads 0.
    fn read_config(&self, _offset: usize, data: &mut [u8]) {
        data.fill(0);
    }

    /// Writes its own configuration at `offset`.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    /// Its driver is ready, and has accepted `features`.
    fn start(&mut self, _features: u64) {}

    /// Serves what its driver has put into queue number `index`, as much as the queue holds at most.
    ///
    /// # Errors
    /// The driver did what cannot be; the device then stops until it is reset.
    fn serve(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError>;

    /// What the host signals when it has done something, if it does anything.
    fn host_event(&self) -> Option<Arc<EventFd>> {
        None
    }

    /// What has input when there is something for [`Device::collect`] to learn, beside the host's event: a timer, or
    /// an epoll instance.
    fn watched(&self) -> Option<Arc<dyn AsRawFd + Send + Sync>> {
        None
    }

    /// The epoll instance with which its thread waits, for a device that is to hear of something of its own at once:
    /// what it adds to that has the number [`own_event`], and comes to [`Device::heard`].
    ///
    /// # Errors
    /// The kernel's refusal.
    fn wait_with(&mut self, _thread: &Arc<Epoll>) -> io::Result<()> {
        Ok(())
    }

    /// The `which`th thing that it waits for itself has `events`.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn heard(&mut self, _which: usize, _events: EventSet) -> io::Result<()> {
        Ok(())
    }

    /// The next queue that is to be served although its driver did not ring: what it waited for is there. Asked after
    /// each call that could have found that.
    fn next_due(&mut self) -> Option<usize> {
        None
    }

    /// Learns what the host has done.
    ///
    /// # Errors
    /// The host cannot tell.
    fn collect(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// How many requests the host still works on: it may touch their buffers.
    fn in_flight(&self) -> usize {
        0
    }

    /// Finishes the next request that is done in `memory`, for the driver to get back.
    ///
    /// # Errors
    /// As [`Device::serve`].
    fn next_done(&mut self, _memory: &DmaMemory) -> Result<Option<Done>, ServeError> {
        Ok(None)
    }

    /// Its first queues, if a vhost back end serves them: the host's kernel, or another program. They are not served
    /// otherwise then, and there is a [`Device::host_event`].
    fn vhost_queues(&mut self) -> Option<&mut VhostQueues> {
        None
    }

    /// Whether the back end is to serve them at present, as far as the device knows. Asked by its thread, which has the
    /// back end do so next if it may.
    fn lets_vhost_serve(&mut self) -> bool {
        true
    }

    /// Whether the configuration has changed by itself since this was last asked.
    fn config_has_changed(&mut self) -> bool {
        false
    }

    /// The machine goes on after a pause: what has waited for that is begun with by the next [`Device::collect`], which
    /// follows. Called by whoever has it go on, who may do nothing else.
    fn go_on(&mut self) {}

    /// The machine pauses: what has waited, and was not begun with since [`Device::go_on`], waits on.
    fn stay(&mut self) {}

    /// Everything as it was at first; nothing is in flight.
    fn reset(&mut self) {}
}

/// Reads a device's configuration at `offset`; what lies beyond it reads 0.
pub(super) fn read_config(config: &[u8], offset: usize, data: &mut [u8]) {
    for (at, byte) in (offset..).zip(data) {
        *byte = config.get(at).copied().unwrap_or(0);
    }
}
