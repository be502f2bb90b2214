//! What processors and a device's thread share: the device with its registers, and how its queues are served.

use std::fmt::Display;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use log::Level;
use parking_lot::{Condvar, Mutex, MutexGuard};
use virtio_queue::QueueT;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::device::{Device, Identity, ServeError, Served};
use super::layout::ConfigSpace;
use super::msi_x::MsiX;
use super::registers::{Event, Registers};
use super::used;
use crate::dma::DmaMemory;
use crate::error_chain::chain;
use crate::guest_message;

/// What they share.
///
/// Locks: `state` may be held when `msi_x` is taken, not the other way round.
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) identity: Identity,
    pub(super) memory: DmaMemory,
    pub(super) doorbells: Vec<Arc<EventFd>>,
    /// What the host signals when it has done something.
    pub(super) host_event: Option<Arc<EventFd>>,
    /// How many queues a vhost back end serves at the most, the first ones, and what has input when it has something to say.
    pub(super) vhost_queues: usize,
    pub(super) vhost_events: Vec<Arc<dyn AsRawFd + Send + Sync>>,
    /// What has input when the device has something to learn.
    pub(super) watched: Option<Arc<dyn AsRawFd + Send + Sync>>,
    pub(super) state: Mutex<State>,
    /// Signalled when the host works on nothing any more.
    pub(super) idle: Condvar,
    pub(super) msi_x: Mutex<MsiX>,
}

/// The device, and what its driver has made of it.
pub(super) struct State {
    pub(super) config: ConfigSpace,
    pub(super) registers: Registers,
    pub(super) device: Box<dyn Device>,
    /// The machine is paused: memory and rings stay as they are.
    pub(super) held: bool,
    /// The device's thread has ended.
    pub(super) dead: bool,
    /// How often something has changed for the back end, and which of that the device's thread has looked at.
    pub(super) changes: u64,
    pub(super) settled: u64,
}

impl State {
    /// Registers and device as they were at first. The host works on nothing.
    pub(super) fn reset(&mut self) {
        self.registers.reset();
        self.device.reset();
    }

    /// How many of its first queues a vhost back end serves, as its driver has come to terms with it.
    pub(super) fn left_to_vhost(&mut self) -> usize {
        let vhost = self.device.vhost_queues();
        vhost.map_or(0, |queues| queues.served())
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn write_registers(&self, offset: usize, data: &[u8]) -> Event {
        let mut state = self.state();
        let event = state.registers.write(offset, data);
        if self.vhost_queues != 0 {
            if event == Event::Reset {
                self.reset_behind_vhost(&mut state);
                return event;
            }
            if state.registers.is_running() && event == Event::None {
                self.settle(&mut state);
            }
        }
        match event {
            // What the host works on may still be written into memory: the driver waits.
            Event::Reset if state.device.in_flight() != 0 && !state.dead => {
                state.registers.begin_reset();
            }
            Event::Reset => state.reset(),
            Event::DriverOk if state.dead => {
                state.registers.stop();
            }
            Event::DriverOk => {
                let accepted = state.registers.accepted();
                state.device.start(accepted);
            }
            Event::None => {}
        }
        event
    }

    /// Resets registers and device once the back end has let go of its queues: the driver finds memory as it stays.
    pub(super) fn reset_behind_vhost(&self, state: &mut MutexGuard<'_, State>) {
        // Nothing that a driver writes counts until then, so there is no next one to be disturbed.
        state.registers.begin_reset();
        self.settle(state);
        self.end_reset(state);
    }

    /// Resets registers and device if a reset has begun and nobody touches memory for them: until then, a driver waits.
    pub(super) fn end_reset(&self, state: &mut State) {
        let vhost = state.device.vhost_queues();
        let is_touched = vhost.is_some_and(|queues| queues.may_touch_memory());
        // Of several that wait, one does it.
        if state.registers.is_resetting() && !is_touched {
            state.reset();
        }
    }

    /// Does what a driver may have left undone when it is ready: it may have put something in before.
    pub(super) fn begin(&self) {
        self.ring_all();
        self.settle(&mut self.state());
    }

    pub(super) fn ring(&self, queue: usize) {
        if let Some(doorbell) = self.doorbells.get(queue) {
            // It fails only where 2^64 - 2 rings have not been heard.
            let _ = doorbell.write(1);
        }
    }

    pub(super) fn ring_all(&self) {
        (0..self.doorbells.len()).for_each(|queue| self.ring(queue));
    }

    fn ring_due(&self, device: &mut dyn Device) {
        while let Some(queue) = device.next_due() {
            self.ring(queue);
        }
    }

    /// Serves queue `index`, as much as it holds at most; true if there is more.
    pub(super) fn serve(&self, index: usize) -> bool {
        let mut state = self.state();
        // Its doorbell may still be heard here, from before its driver came to terms.
        if index < state.left_to_vhost() {
            return false;
        }
        match self.try_serve(&mut state, index) {
            Ok(Served::Some) => true,
            Ok(Served::All | Served::Full) => false,
            Err(error) => {
                self.stop(state, &error);
                false
            }
        }
    }

    fn try_serve(&self, state: &mut State, index: usize) -> Result<Served, ServeError> {
        let State {
            config,
            registers,
            device,
            held,
            ..
        } = state;
        let is_running = registers.is_running();
        let can_work = config.is_master() && !*held;
        let Some(registers) = registers.queues.get_mut(index).filter(|_| is_running) else {
            return Ok(Served::All);
        };
        let queue = &mut registers.queue;
        if !queue.ready() {
            return Ok(Served::All);
        }
        if !can_work {
            registers.unheard = true;
            return Ok(Served::All);
        }
        let before = queue.next_used();
        queue.disable_notification(&self.memory)?;
        let mut served = device.serve(index, queue, &self.memory)?;
        self.ring_due(device.as_mut());
        if served == Served::All && queue.enable_notification(&self.memory)? {
            served = Served::Some;
        }
        registers.full = served == Served::Full;
        if queue.next_used() != before
            && (queue.needs_notification(&self.memory)?
                || used::are_awaited(queue, &self.memory, before)?)
        {
            self.msi_x.lock().signal(registers.vector.into());
        }
        Ok(served)
    }

    /// Gives back what the host has done, and resets the device if that is what it waits for.
    pub(super) fn finish(&self) {
        let mut state = self.state();
        let result = self.try_finish(&mut state);
        self.ring_due(state.device.as_mut());
        if let Err(error) = result {
            self.stop(state, &error);
        }
    }

    /// The same, and serves the queues that are due then: for the device's thread, which need not ring for itself.
    pub(super) fn finish_and_serve(&self) {
        let mut state = self.state();
        let result = self.try_finish(&mut state);
        if let Err(error) = result.and_then(|()| self.serve_due(&mut state)) {
            self.stop(state, &error);
        }
    }

    /// Has the device learn what it waits for, and serves the queues that are due then.
    pub(super) fn hear_and_serve(&self, which: usize, events: EventSet) {
        let mut state = self.state();
        let result = state.device.heard(which, events);
        if let Err(error) = result
            .map_err(ServeError::Host)
            .and_then(|()| self.serve_due(&mut state))
        {
            self.stop(state, &error);
        }
    }

    fn serve_due(&self, state: &mut State) -> Result<(), ServeError> {
        while let Some(queue) = state.device.next_due() {
            let is_served = queue < state.left_to_vhost();
            if is_served || self.try_serve(state, queue)? == Served::Some {
                self.ring(queue);
            }
        }
        Ok(())
    }

    fn try_finish(&self, state: &mut State) -> Result<(), ServeError> {
        state.device.collect()?;
        let is_idle = state.device.in_flight() == 0;
        if is_idle && state.registers.is_resetting() && self.vhost_queues == 0 {
            state.reset();
        }
        let given_back = self.give_back(state);
        if is_idle {
            // Whoever waits for it finds all rings as they stay.
            self.idle.notify_all();
        }
        if state.device.config_has_changed() {
            let registers = &mut state.registers;
            registers.config_generation = registers.config_generation.wrapping_add(1);
            if registers.driver_is_ready() {
                self.msi_x.lock().signal(registers.config_vector.into());
            }
        }
        given_back
    }

    fn give_back(&self, state: &mut State) -> Result<(), ServeError> {
        let State {
            config,
            registers,
            device,
            ..
        } = state;
        // Until it may, the device keeps what is done.
        if !registers.is_running() || !config.is_master() {
            return Ok(());
        }
        let mut signalled: Option<usize> = None;
        loop {
            let done = device.next_done(&self.memory)?;
            let queue_of_done = done.map(|done| done.queue);
            if let Some(index) = signalled
                && queue_of_done != signalled
                && let Some(registers) = registers.queues.get_mut(index)
                && registers.queue.needs_notification(&self.memory)?
            {
                self.msi_x.lock().signal(registers.vector.into());
            }
            let Some(done) = done else {
                return Ok(());
            };
            signalled = queue_of_done;
            let Some(registers) = registers.queues.get_mut(done.queue) else {
                continue;
            };
            let queue = &mut registers.queue;
            queue.add_used(&self.memory, done.head, done.written)?;
            if std::mem::take(&mut registers.full) {
                self.ring(done.queue);
            }
        }
    }

    /// Waits until the host works on nothing any more; at once if nobody would learn of that.
    pub(super) fn wait_until_idle(&self, state: &mut MutexGuard<'_, State>) {
        self.idle
            .wait_while(state, |state| state.device.in_flight() != 0 && !state.dead);
    }

    /// Whether the host works on something.
    pub(super) fn is_busy(&self) -> bool {
        self.state().device.in_flight() != 0
    }

    /// Says that the device's thread ends, for a reason of the host's, and with it the device.
    #[cold]
    pub(super) fn give_up(&self, reason: &dyn Display) {
        guest_message!(
            Level::Error,
            "{}: the device does not work: {reason}",
            self.name
        );
        let mut state = self.state();
        self.end_vhost(&mut state);
        state.dead = true;
        self.idle.notify_all();
        let error = ServeError::Host(io::Error::other("its thread has ended"));
        self.stop(state, &error);
    }

    /// Stops the device until its driver resets it, which is told, if it runs.
    #[cold]
    pub(super) fn stop(&self, mut state: MutexGuard<'_, State>, reason: &ServeError) {
        if state.registers.stop() {
            let vector = state.registers.config_vector;
            self.msi_x.lock().signal(vector.into());
            drop(state);
            guest_message!(
                Level::Warn,
                "{}: {}; the device waits for a reset",
                self.name,
                chain(reason)
            );
        }
    }

    /// Does what was left undone while the device could not work: rings for the queues whose doorbells rang, and has
    /// what the host has done given back.
    pub(super) fn ring_unheard(&self, state: &mut State) {
        for (index, registers) in state.registers.queues.iter_mut().enumerate() {
            if std::mem::take(&mut registers.unheard) {
                self.ring(index);
            }
        }
        if let Some(event) = &self.host_event {
            // As for a doorbell.
            let _ = event.write(1);
        }
    }
}
