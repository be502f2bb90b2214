//! Which processors run, and the way to start, stop and interrupt them.
//!
//! A machine starts with its first processor; the guest starts the others by RTAS start-cpu and
//! each stops itself by stop-self (PAPR, "CPU start and stop").

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

/// Where a processor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartAddress {
    /// Address of the first instruction.
    pub entry: u64,
    /// What it finds in r3.
    pub r3: u64,
}

/// Why a processor cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// There is no such processor.
    #[error("there is no processor {0}")]
    NoSuchProcessor(u32),
    /// It runs already.
    #[error("processor {0} runs already")]
    AlreadyRunning(u32),
}

/// Makes a processor leave the guest soon, from any thread.
pub trait Kick: Send + Sync {
    /// Makes it leave the guest, or not enter it, and look at what is asked of it.
    fn kick(&self);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Stopped,
    Started(StartAddress),
    Running,
}

struct Slot {
    state: Mutex<State>,
    /// Whether a system reset interrupt is due; set only while `state` is held and not `Stopped`.
    system_reset: AtomicBool,
    changed: Condvar,
    kick: Mutex<Option<Box<dyn Kick>>>,
}

/// The processors of a machine, by interrupt server number: 0 and up.
pub struct Processors {
    slots: Vec<Slot>,
    over: Mutex<bool>,
}

impl Processors {
    /// `count` processors, all stopped.
    pub fn new(count: u32) -> Self {
        let slot = || Slot {
            state: Mutex::new(State::Stopped),
            system_reset: AtomicBool::new(false),
            changed: Condvar::new(),
            kick: Mutex::new(None),
        };
        Self {
            slots: (0..count).map(|_| slot()).collect(),
            over: Mutex::new(false),
        }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Names the way to interrupt processor `server`; its thread calls this before it waits.
    pub fn set_kick(&self, server: u32, kick: Box<dyn Kick>) {
        if let Some(slot) = self.slot(server) {
            *slot.kick.lock() = Some(kick);
        }
    }

    /// Starts processor `server`.
    ///
    /// # Errors
    /// When it runs, or does not exist.
    pub fn start(&self, server: u32, address: StartAddress) -> Result<(), StartError> {
        let slot = self
            .slot(server)
            .ok_or(StartError::NoSuchProcessor(server))?;
        let mut state = slot.state.lock();
        if *state != State::Stopped {
            return Err(StartError::AlreadyRunning(server));
        }
        // One that was due when it stopped is not meant for what it starts now.
        slot.system_reset.store(false, Ordering::SeqCst);
        *state = State::Started(address);
        slot.changed.notify_all();
        Ok(())
    }

    /// Whether processor `server` is stopped; `None` when there is no such processor.
    pub fn is_stopped(&self, server: u32) -> Option<bool> {
        self.slot(server)
            .map(|slot| *slot.state.lock() == State::Stopped)
    }

    /// Marks processor `server` stopped; its own thread calls this.
    pub fn stopped(&self, server: u32) {
        if let Some(slot) = self.slot(server) {
            *slot.state.lock() = State::Stopped;
        }
    }

    /// Waits until processor `server` is started; `None` when the machine's run is over.
    pub fn wait_for_start(&self, server: u32) -> Option<StartAddress> {
        let slot = self.slot(server)?;
        let mut state = slot.state.lock();
        loop {
            if *self.over.lock() {
                return None;
            }
            if let State::Started(address) = *state {
                *state = State::Running;
                return Some(address);
            }
            slot.changed.wait(&mut state);
        }
    }

    /// Makes a system reset interrupt due at processor `server`, and the processor look for it;
    /// nothing when it is stopped. False when there is no such processor.
    pub fn system_reset(&self, server: u32) -> bool {
        let Some(slot) = self.slot(server) else {
            return false;
        };
        {
            let state = slot.state.lock();
            if *state == State::Stopped {
                return true;
            }
            slot.system_reset.store(true, Ordering::SeqCst);
        }
        if let Some(kick) = &*slot.kick.lock() {
            kick.kick();
        }
        true
    }

    /// [`system_reset`](Self::system_reset) of all processors but `except`.
    pub fn system_reset_all(&self, except: Option<u32>) {
        for server in (0..self.count()).filter(|&server| Some(server) != except) {
            self.system_reset(server);
        }
    }

    /// Whether a system reset interrupt was due at processor `server`, which it is no longer; for
    /// its own thread.
    pub fn take_system_reset(&self, server: u32) -> bool {
        self.slot(server)
            .is_some_and(|slot| slot.system_reset.swap(false, Ordering::SeqCst))
    }

    /// Makes all processors but `except` look at what is asked of them.
    pub fn kick_all(&self, except: Option<u32>) {
        for (server, slot) in (0..).zip(&self.slots) {
            if Some(server) != except
                && let Some(kick) = &*slot.kick.lock()
            {
                kick.kick();
            }
        }
    }

    /// Ends the run: nothing waits for a start any more, and whoever is in the guest leaves it.
    pub fn end(&self) {
        *self.over.lock() = true;
        for slot in &self.slots {
            // Taken so that a thread between its look at `over` and its wait is not missed.
            drop(slot.state.lock());
            slot.changed.notify_all();
        }
        self.kick_all(None);
    }

    /// Whether the run is over.
    pub fn is_over(&self) -> bool {
        *self.over.lock()
    }

    fn slot(&self, server: u32) -> Option<&Slot> {
        self.slots.get(usize::try_from(server).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    const START: StartAddress = StartAddress {
        entry: 0x1000,
        r3: 7,
    };

    #[test]
    fn a_processor_runs_from_start_to_stop_and_can_start_again() {
        let processors = Arc::new(Processors::new(2));
        let waiter = thread::spawn({
            let processors = Arc::clone(&processors);
            move || processors.wait_for_start(1)
        });
        assert_eq!(processors.start(1, START), Ok(()));
        assert_eq!(waiter.join().expect("waiter"), Some(START));
        assert_eq!(processors.is_stopped(1), Some(false));
        assert_eq!(
            processors.start(1, START),
            Err(StartError::AlreadyRunning(1))
        );
        processors.stopped(1);
        assert_eq!(processors.is_stopped(1), Some(true));
        assert_eq!(processors.start(1, START), Ok(()));
    }

    #[test]
    fn processors_that_do_not_exist_are_refused() {
        let processors = Processors::new(1);
        assert_eq!(
            processors.start(1, START),
            Err(StartError::NoSuchProcessor(1))
        );
        assert_eq!(processors.is_stopped(u32::MAX), None);
        assert_eq!(processors.wait_for_start(9), None);
    }

    #[test]
    fn a_system_reset_is_due_once_and_only_at_a_processor_that_has_started() {
        let processors = Processors::new(1);
        let kicks = Arc::new(AtomicU32::new(0));
        processors.set_kick(0, Box::new(Counter(Arc::clone(&kicks))));
        assert!(processors.system_reset(0));
        assert!(!processors.take_system_reset(0), "stopped");
        assert!(!processors.system_reset(1), "no such processor");
        assert!(!processors.take_system_reset(1), "no such processor");

        assert_eq!(processors.start(0, START), Ok(()));
        assert!(processors.system_reset(0));
        assert_eq!(kicks.load(Ordering::Relaxed), 1);
        assert_eq!(processors.wait_for_start(0), Some(START));
        assert!(processors.take_system_reset(0));
        assert!(!processors.take_system_reset(0));

        processors.system_reset_all(Some(0));
        assert!(!processors.take_system_reset(0), "spared");
        processors.system_reset_all(None);
        assert!(processors.take_system_reset(0));

        assert!(processors.system_reset(0));
        processors.stopped(0);
        assert_eq!(processors.start(0, START), Ok(()));
        assert!(
            !processors.take_system_reset(0),
            "it was for the last start"
        );
    }

    struct Counter(Arc<AtomicU32>);

    impl Kick for Counter {
        fn kick(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_end_wakes_those_who_wait_and_kicks_all() {
        let processors = Arc::new(Processors::new(2));
        let kicks = Arc::new(AtomicU32::new(0));
        for server in 0..2 {
            processors.set_kick(server, Box::new(Counter(Arc::clone(&kicks))));
        }
        let waiter = thread::spawn({
            let processors = Arc::clone(&processors);
            move || processors.wait_for_start(1)
        });
        processors.kick_all(Some(0));
        assert_eq!(kicks.load(Ordering::Relaxed), 1);
        processors.end();
        assert_eq!(waiter.join().expect("waiter"), None);
        assert_eq!(kicks.load(Ordering::Relaxed), 3);
        assert!(processors.is_over());
    }
}
