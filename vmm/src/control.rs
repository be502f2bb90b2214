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

/// Waits until the machine's run has ended, by the guest's doing or by a signal.
///
/// # Errors
/// When events cannot be waited for; the run may not have ended then.
pub fn wait_for_end(lifecycle: &Arc<Lifecycle>) -> Result<End, ControlError> {
    let mut manager = EventManager::new().map_err(ControlError::EventManager)?;
    let watch_end = Subscriber::End {
        lifecycle: Arc::clone(lifecycle),
        failed: None,
    };
    let mut ids = vec![("the machine's end", manager.add_subscriber(watch_end))];
    for (signal, name) in SIGNALS {
        let watch = SignalWatch::new(signal, name, Arc::clone(lifecycle))?;
        ids.push((name, manager.add_subscriber(Subscriber::Signal(watch))));
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
struct SignalWatch {
    name: &'static str,
    pipe: UnixStream,
    id: signal_hook::SigId,
    lifecycle: Arc<Lifecycle>,
    failed: Option<event_manager::Error>,
}

impl SignalWatch {
    fn new(
        signal: i32,
        name: &'static str,
        lifecycle: Arc<Lifecycle>,
    ) -> Result<Self, ControlError> {
        let error = |source| ControlError::Signal {
            signal: name,
            source,
        };
        let (pipe, write_end) = UnixStream::pair().map_err(error)?;
        pipe.set_nonblocking(true).map_err(error)?;
        let id = pipe::register(signal, write_end).map_err(error)?;
        Ok(Self {
            name,
            pipe,
            id,
            lifecycle,
            failed: None,
        })
    }

    fn arrived(&mut self) {
        let mut marks = [0; 16];
        while matches!(self.pipe.read(&mut marks), Ok(length) if length != 0) {}
        self.lifecycle.end(End::Asked(self.name));
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        unregister(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_guests_end_and_a_signal_both_end_the_wait() {
        let lifecycle = Arc::new(Lifecycle::new().expect("eventfd"));
        let waiter = thread::spawn({
            let lifecycle = Arc::clone(&lifecycle);
            move || wait_for_end(&lifecycle)
        });
        lifecycle.end(End::PowerOff);
        assert_eq!(waiter.join().expect("waiter").expect("wait"), End::PowerOff);

        let lifecycle = Arc::new(Lifecycle::new().expect("eventfd"));
        // Held over the wait, so that the signal is never without a handler.
        let _caught = SignalWatch::new(SIGHUP, "SIGHUP", Arc::clone(&lifecycle)).expect("signal");
        let waiter = thread::spawn({
            let lifecycle = Arc::clone(&lifecycle);
            move || wait_for_end(&lifecycle)
        });
        while !waiter.is_finished() {
            signal_hook::low_level::raise(SIGHUP).expect("raise");
            thread::yield_now();
        }
        assert_eq!(
            waiter.join().expect("waiter").expect("wait"),
            End::Asked("SIGHUP")
        );
    }
}
