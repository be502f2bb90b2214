//! The control plane: one thread that waits for what ends the guest, while processors run.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{pipe, unregister};

use crate::machine::lifecycle::{End, Lifecycle};

/// Signals that ask for the end, with their names.
const SIGNALS: [(i32, &str); 3] = [(SIGTERM, "SIGTERM"), (SIGINT, "SIGINT"), (SIGHUP, "SIGHUP")];

/// Why the control plane does not work.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no event loop.
    #[error("cannot set up the event loop")]
    EventManager(#[source] event_manager::Error),
    /// A signal cannot be caught.
    #[error("cannot catch {signal}")]
    Signal {
        /// Its name.
        signal: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A descriptor cannot be watched.
    #[error("cannot watch {what}")]
    Watch {
        /// What it is of.
        what: &'static str,
        /// Why.
        source: event_manager::Error,
    },
    /// Waiting failed.
    #[error("the event loop failed")]
    Wait(#[source] event_manager::Error),
}

/// The signals that ask for the end, caught from the time this is made. One that comes while no
/// machine runs, as between two lives of one that reboots, is kept for the next.
pub struct Control {
    signals: Vec<CaughtSignal>,
}

impl Control {
    /// Catches the signals.
    ///
    /// # Errors
    /// When one cannot be caught.
    pub fn new() -> Result<Self, ControlError> {
        let signals = SIGNALS.map(|(signal, name)| CaughtSignal::new(signal, name));
        Ok(Self {
            signals: signals.into_iter().collect::<Result<_, _>>()?,
        })
    }

    /// Waits until the machine's run has ended, by the guest's doing or by a signal.
    ///
    /// # Errors
    /// When events cannot be waited for; the run may not have ended then.
    pub fn wait_for_end(&self, lifecycle: &Arc<Lifecycle>) -> Result<End, ControlError> {
        let mut manager = EventManager::new().map_err(ControlError::EventManager)?;
        let watch_end = Subscriber::End {
            lifecycle: Arc::clone(lifecycle),
            failed: None,
        };
        let mut ids = vec![("the machine's end", manager.add_subscriber(watch_end))];
        for signal in &self.signals {
            let watch = signal.watch(lifecycle)?;
            ids.push((
                signal.name,
                manager.add_subscriber(Subscriber::Signal(watch)),
            ));
        }
        for (what, id) in ids {
            let subscriber = manager
                .subscriber_mut(id)
                .map_err(|source| ControlError::Watch { what, source })?;
            if let Some(source) = subscriber.take_failure() {
                return Err(ControlError::Watch { what, source });
            }
        }
        loop {
            if let Some(end) = lifecycle.ended() {
                return Ok(end);
            }
            manager.run().map_err(ControlError::Wait)?;
        }
    }
}

/// What the loop watches.
enum Subscriber {
    End {
        lifecycle: Arc<Lifecycle>,
        failed: Option<event_manager::Error>,
    },
    Signal(SignalWatch),
}

impl Subscriber {
    fn take_failure(&mut self) -> Option<event_manager::Error> {
        match self {
            Self::End { failed, .. } | Self::Signal(SignalWatch { failed, .. }) => failed.take(),
        }
    }
}

impl MutEventSubscriber for Subscriber {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        match self {
            // The loop looks at the end by itself; reading keeps the event from staying ready.
            Self::End { lifecycle, .. } => drop(lifecycle.event().read()),
            Self::Signal(signal) => signal.arrived(),
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        match self {
            Self::End { lifecycle, failed } => {
                *failed = ops.add(Events::new(lifecycle.event(), EventSet::IN)).err();
            }
            Self::Signal(signal) => {
                signal.failed = ops.add(Events::new(&signal.pipe, EventSet::IN)).err();
            }
        }
    }
}

/// A signal that becomes readable as a pipe.
struct CaughtSignal {
    name: &'static str,
    pipe: UnixStream,
    id: signal_hook::SigId,
}

impl CaughtSignal {
    fn new(signal: i32, name: &'static str) -> Result<Self, ControlError> {
        let error = |source| ControlError::Signal {
            signal: name,
            source,
        };
        let (pipe, write_end) = UnixStream::pair().map_err(error)?;
        pipe.set_nonblocking(true).map_err(error)?;
        let id = pipe::register(signal, write_end).map_err(error)?;
        Ok(Self { name, pipe, id })
    }

    fn watch(&self, lifecycle: &Arc<Lifecycle>) -> Result<SignalWatch, ControlError> {
        let pipe = self.pipe.try_clone();
        Ok(SignalWatch {
            name: self.name,
            pipe: pipe.map_err(|source| ControlError::Signal {
                signal: self.name,
                source,
            })?,
            lifecycle: Arc::clone(lifecycle),
            failed: None,
        })
    }
}

impl Drop for CaughtSignal {
    fn drop(&mut self) {
        unregister(self.id);
    }
}

/// A caught signal and the machine that it ends.
struct SignalWatch {
    name: &'static str,
    pipe: UnixStream,
    lifecycle: Arc<Lifecycle>,
    failed: Option<event_manager::Error>,
}

impl SignalWatch {
    fn arrived(&mut self) {
        let mut marks = [0; 16];
        while matches!(self.pipe.read(&mut marks), Ok(length) if length != 0) {}
        self.lifecycle.end(End::Asked(self.name));
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn lifecycle() -> Arc<Lifecycle> {
        Arc::new(Lifecycle::new().expect("eventfd"))
    }

    #[test]
    fn the_guests_end_and_a_signal_both_end_the_wait() {
        let control = Control::new().expect("signals");
        let first = lifecycle();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| control.wait_for_end(&first));
            first.end(End::PowerOff);
            let end = waiter.join().expect("waiter").expect("wait");
            assert_eq!(end, End::PowerOff);
        });
        // Between two lives of the machine: it counts for the next.
        signal_hook::low_level::raise(SIGHUP).expect("raise");
        let end = control.wait_for_end(&lifecycle()).expect("wait");
        assert_eq!(end, End::Asked("SIGHUP"));
    }
}
