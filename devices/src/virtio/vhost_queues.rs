//! Queues of a device that a vhost back end serves, the host's kernel or another program: it takes doorbells and signals
//! vectors by itself, and no thread of this process has a part in that.
//!
//! The device's thread alone tells the back end what to do. Others say that something has changed, and wait until it has
//! looked ([`Shared::settle`]): when a pause, a reset or a mask is done, the back end heeds it.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use log::Level;
use parking_lot::MutexGuard;
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::ServeError;
use super::msi_x::{MsiX, Target};
use super::registers::QueueRegisters;
use super::shared::{Shared, State};
use crate::guest_message;
use crate::vhost::{BackEnd, Ring};

/// The first queues of a device, which a back end serves.
pub struct VhostQueues {
    back_end: Box<dyn BackEnd>,
    queues: Vec<VhostQueue>,
    /// Signalled for a queue without a vector; nobody listens.
    nobody: Arc<EventFd>,
    is_running: bool,
    /// How many of them it is to serve.
    served: usize,
}

/// One of them.
struct VhostQueue {
    /// Signalled while its vector is masked.
    masked: Arc<EventFd>,
    /// Signalled when its rings make no sense.
    error: Arc<EventFd>,
    /// What the back end signals at present.
    call: Arc<EventFd>,
    /// The back end knows it.
    is_placed: bool,
}

impl VhostQueues {
    /// Those that `back_end` serves.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn new(back_end: Box<dyn BackEnd>) -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK).map(Arc::new);
        let queues = (0..back_end.queues()).map(|_| {
            let masked = event()?;
            Ok(VhostQueue {
                call: Arc::clone(&masked),
                masked,
                error: event()?,
                is_placed: false,
            })
        });
        Ok(Self {
            served: back_end.queues(),
            queues: queues.collect::<io::Result<_>>()?,
            nobody: event()?,
            back_end,
            is_running: false,
        })
    }

    /// How many they are.
    pub(super) fn count(&self) -> usize {
        self.queues.len()
    }

    /// How many of them, the first ones, it is to serve at present.
    pub(super) const fn served(&self) -> usize {
        self.served
    }

    /// Has it serve the first `count` of them alone, or all that there are, when it next begins.
    pub(super) fn serve_first(&mut self, count: usize) {
        self.served = count.min(self.queues.len());
    }

    /// What has input when the back end has something to say.
    pub(super) fn events(&self) -> Vec<Arc<dyn AsRawFd + Send + Sync>> {
        let events = self.queues.iter();
        let events = events.flat_map(|queue| [&queue.masked, &queue.error]);
        let events =
            events.map(|event| -> Arc<dyn AsRawFd + Send + Sync> { Arc::<EventFd>::clone(event) });
        events.chain(self.back_end.end()).collect()
    }

    /// Begins with what a driver has accepted and placed.
    fn start(
        &mut self,
        features: u64,
        registers: &[QueueRegisters],
        doorbells: &[Arc<EventFd>],
        msi_x: &MsiX,
    ) -> io::Result<()> {
        // From here on there may be something to stop.
        self.is_running = true;
        self.back_end.begin(features)?;
        let all = registers.iter().zip(doorbells).enumerate();
        for ((index, (registers, kick)), queue) in all.zip(&mut self.queues).take(self.served) {
            let rings = &registers.queue;
            if !rings.ready() {
                continue;
            }
            queue.call = target(queue, &self.nobody, registers.vector, msi_x);
            self.back_end.place(&Ring {
                index,
                entries: rings.size(),
                addresses: [rings.desc_table(), rings.avail_ring(), rings.used_ring()],
                next_avail: rings.next_avail(),
                kick,
                call: &queue.call,
                error: &queue.error,
            })?;
            queue.is_placed = true;
        }
        self.back_end.run(&self.placed())?;
        // What the driver has rung for before may be forgotten.
        for index in self.placed() {
            if let Some(doorbell) = doorbells.get(index) {
                let _ = doorbell.write(1);
            }
        }
        Ok(())
    }

    /// Ends, with queues at where the back end got to.
    fn stop(&mut self, registers: &mut [QueueRegisters]) -> io::Result<()> {
        let placed = self.placed();
        self.is_running = false;
        self.queues
            .iter_mut()
            .for_each(|queue| queue.is_placed = false);
        self.back_end.halt(&placed)?;
        for index in placed {
            let next = self.back_end.next_avail(index)?;
            if let Some(registers) = registers.get_mut(index) {
                registers.queue.set_next_avail(next);
            }
        }
        Ok(())
    }

    /// Whether the back end may touch guest memory although it was told to serve nothing.
    pub(super) fn may_touch_memory(&self) -> bool {
        self.back_end.may_touch_memory()
    }

    fn placed(&self) -> Vec<usize> {
        let queues = self.queues.iter().enumerate();
        let placed = queues.filter(|(_, queue)| queue.is_placed);
        placed.map(|(index, _)| index).collect()
    }

    /// Has queues signal what their vectors are at present, and signals those that were to be meanwhile.
    fn connect(&mut self, registers: &[QueueRegisters], msi_x: &mut MsiX) -> io::Result<()> {
        for (index, (queue, registers)) in self.queues.iter_mut().zip(registers).enumerate() {
            let wanted = target(queue, &self.nobody, registers.vector, msi_x);
            if queue.is_placed && !Arc::ptr_eq(&wanted, &queue.call) {
                self.back_end.set_call(index, &wanted)?;
                queue.call = wanted;
            }
            // After that, so that none is missed.
            if queue.masked.read().is_ok() {
                msi_x.signal(registers.vector.into());
            }
        }
        Ok(())
    }

    /// Why the back end serves nothing any more, if it has said so since this was last asked.
    fn failure(&mut self) -> Option<io::Error> {
        // Each is heard: who waits for them is not to be woken for it again.
        let failed = self.queues.iter().filter(|it| it.error.read().is_ok());
        let has_failed = failed.count() != 0;
        let sense = has_failed.then(|| io::Error::other("it came upon one that makes no sense"));
        self.back_end.has_ended().or(sense)
    }
}

/// What is to be signalled for a queue with that vector.
fn target(queue: &VhostQueue, nobody: &Arc<EventFd>, vector: u16, msi_x: &MsiX) -> Arc<EventFd> {
    Arc::clone(match msi_x.target(vector.into()) {
        Target::Event(event) => event,
        Target::Masked => &queue.masked,
        Target::Nothing => nobody,
    })
}

impl Shared {
    /// Has the device's thread look at what has changed for the back end, and waits until it has, or will not any more.
    pub(super) fn settle(&self, state: &mut MutexGuard<'_, State>) {
        if state.device.vhost_queues().is_none() || state.dead {
            return;
        }
        state.changes = state.changes.wrapping_add(1);
        let wanted = state.changes;
        // A later look is one at this change, too.
        let is_open = |state: &mut State| {
            let left = wanted.wrapping_sub(state.settled);
            left != 0 && left <= u64::MAX / 2 && !state.dead
        };
        if let Some(event) = &self.host_event {
            let _ = event.write(1);
        }
        self.idle.wait_while(state, is_open);
    }

    /// Has the back end serve its queues as they are to be served at this moment. By the device's thread, which is told how
    /// many of the first ones it is to leave to it.
    pub(super) fn steer(&self) -> usize {
        let mut state = self.state();
        let outcome = self.try_steer(&mut state);
        state.settled = state.changes;
        // One that was waited for has ended.
        self.end_reset(&mut state);
        self.idle.notify_all();
        let left = state.left_to_vhost();
        if let Err(error) = outcome {
            self.stop(state, &error);
        }
        left
    }

    fn try_steer(&self, state: &mut State) -> Result<(), ServeError> {
        let may_run = state.registers.is_running() && state.config.is_master() && !state.held;
        let is_wanted = may_run && state.device.lets_vhost_serve();
        let State {
            registers, device, ..
        } = state;
        let Some(vhost) = device.vhost_queues() else {
            return Ok(());
        };
        let accepted = registers.accepted();
        let queues = &mut registers.queues;
        let mut msi_x = self.msi_x.lock();
        let outcome = match vhost.failure() {
            Some(error) if vhost.is_running => Err(error),
            _ if is_wanted && !vhost.is_running => {
                vhost.start(accepted, queues, &self.doorbells, &msi_x)
            }
            _ => Ok(()),
        };
        let mut outcome = outcome.and_then(|()| vhost.connect(queues, &mut msi_x));
        if vhost.is_running && (!is_wanted || outcome.is_err()) {
            let stopped = vhost.stop(queues);
            outcome = outcome.and(stopped);
        }
        outcome.map_err(|source| ServeError::Vhost {
            who: vhost.back_end.name(),
            source,
        })
    }

    /// Has the back end serve nothing any more: the device's thread ends.
    pub(super) fn end_vhost(&self, state: &mut State) {
        let State {
            registers, device, ..
        } = state;
        if let Some(vhost) = device.vhost_queues()
            && vhost.is_running
            && let Err(error) = vhost.stop(&mut registers.queues)
        {
            guest_message!(
                Level::Error,
                "{}: {} does not let go of its queues: {error}",
                self.name,
                vhost.back_end.name()
            );
        }
    }
}
