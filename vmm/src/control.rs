//! The control plane: one thread that waits for what ends the guest, while processors run.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{pipe, unregister};

use crate::lifecycle::{End, Lifecycle};

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
    /// There is nothing to learn of an end by.
    #[error("cannot get an eventfd")]
    Event(#[source] io::Error),
    /// Waiting failed.
    #[error("the event loop failed")]
    Wait(#[source] event_manager::Error),
}

/// Something to do whenever a descriptor is readable.
pub struct Alarm {
    ready: OwnedFd,
    ring: Box<dyn FnMut() + Send>,
    failed: Option<event_manager::Error>,
}

impl Alarm {
    /// Has `ring` called whenever `ready` is readable; it has to see to it that `ready` is not
    /// afterwards.
    pub fn new(ready: OwnedFd, ring: impl FnMut() + Send + 'static) -> Self {
        Self {
            ready,
            ring: Box::new(ring),
            failed: None,
        }
    }

    /// The same for a descriptor that stays open elsewhere.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn watching(ready: &impl AsRawFd, ring: impl FnMut() + Send + 'static) -> io::Result<Self> {
        // SAFETY: the descriptor is open, and stays so while it is borrowed.
        let ready = unsafe { BorrowedFd::borrow_raw(ready.as_raw_fd()) };
        Ok(Self::new(ready.try_clone_to_owned()?, ring))
    }
}

/// The signals that ask for the end, caught from the time this is made. One that comes while no
/// machine runs, as between two lives of one that reboots, is kept for the next.
pub struct Control {
    signals: Vec<CaughtSignal>,
}

impl Control {
    /// Catches the signals, but those that whoever started this process had it ignore, as nohup
    /// does.
    ///
    /// # Errors
    /// When one cannot be caught.
    pub fn new() -> Result<Self, ControlError> {
        let wanted = SIGNALS
            .into_iter()
            .filter(|&(signal, _)| !is_ignored(signal));
        let signals = wanted.map(|(signal, name)| CaughtSignal::new(signal, name));
        Ok(Self {
            signals: signals.collect::<Result<_, _>>()?,
        })
    }

    /// Waits for a signal, or for what whoever is shown the lifecycle by `attach` reports to it, while no
    /// machine runs.
    ///
    /// # Errors
    /// When there are no descriptors left or events cannot be waited for.
    pub fn wait_while_none_runs(
        &self,
        attach: impl FnOnce(&Arc<Lifecycle>),
    ) -> Result<End, ControlError> {
        let lifecycle = Arc::new(Lifecycle::new().map_err(ControlError::Event)?);
        attach(&lifecycle);
        self.wait_for_end(&lifecycle, Vec::new())
    }

    /// Waits until the machine's run has ended, by the guest's doing or by a signal, and answers
    /// the `alarms` meanwhile.
    ///
    /// # Errors
    /// When events cannot be waited for; the run may not have ended then.
    pub fn wait_for_end(
        &self,
        lifecycle: &Arc<Lifecycle>,
        alarms: Vec<Alarm>,
    ) -> Result<End, ControlError> {
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
        for alarm in alarms {
            let id = manager.add_subscriber(Subscriber::Alarm(alarm));
            ids.push(("a timer or a device", id));
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

/// Whether the process ignores `signal` now.
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: null asks for no change, and the pointer is good for one sigaction.
    if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: sigaction succeeded, so it filled the struct.
    unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// What the loop watches.
enum Subscriber {
    End {
        lifecycle: Arc<Lifecycle>,
        failed: Option<event_manager::Error>,
    },
    Signal(SignalWatch),
    Alarm(Alarm),
}

impl Subscriber {
    fn take_failure(&mut self) -> Option<event_manager::Error> {
        match self {
            Self::End { failed, .. }
            | Self::Signal(SignalWatch { failed, .. })
            | Self::Alarm(Alarm { failed, .. }) => failed.take(),
        }
    }
}

impl MutEventSubscriber for Subscriber {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        match self {
            // The loop looks at the end by itself; reading keeps the event from staying ready.
            Self::End { lifecycle, .. } => drop(lifecycle.event().read()),
            Self::Signal(signal) => signal.arrived(),
            Self::Alarm(alarm) => (alarm.ring)(),
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
            Self::Alarm(alarm) => {
                alarm.failed = ops.add(Events::new(&alarm.ready, EventSet::IN)).err();
            }
        }
    }
}

/// A signal that becomes readable as a pipe.
pub struct CaughtSignal {
    name: &'static str,
    pipe: UnixStream,
    id: signal_hook::SigId,
}

impl CaughtSignal {
    /// Catches it from now on.
    ///
    /// # Errors
    /// When it cannot be caught.
    pub fn new(signal: i32, name: &'static str) -> Result<Self, ControlError> {
        let error = |source| ControlError::Signal {
            signal: name,
            source,
        };
        let (pipe, write_end) = UnixStream::pair().map_err(error)?;
        pipe.set_nonblocking(true).map_err(error)?;
        let id = pipe::register(signal, write_end).map_err(error)?;
        Ok(Self { name, pipe, id })
    }

    /// Has `ring` called when it came, once however often it did.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn alarm(&self, mut ring: impl FnMut() + Send + 'static) -> Result<Alarm, ControlError> {
        let error = |source| ControlError::Signal {
            signal: self.name,
            source,
        };
        let mut pipe = self.pipe.try_clone().map_err(error)?;
        let ready = pipe.try_clone().map_err(error)?;
        Ok(Alarm::new(ready.into(), move || {
            forget_marks(&mut pipe);
            ring();
        }))
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

/// Takes all that the arrival of a signal has written.
fn forget_marks(pipe: &mut UnixStream) {
    let mut marks = [0; 16];
    while matches!(pipe.read(&mut marks), Ok(length) if length != 0) {}
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
        // One that comes when the run has ended already, as by a reboot, is kept for the next life.
        if self.lifecycle.end(End::Asked(self.name)) {
            forget_marks(&mut self.pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
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
            let waiter = scope.spawn(|| control.wait_for_end(&first, Vec::new()));
            first.end(End::PowerOff);
            let end = waiter.join().expect("waiter").expect("wait");
            assert_eq!(end, End::PowerOff);
        });
        // Between two lives of the machine: it counts for the next.
        signal_hook::low_level::raise(SIGTERM).expect("raise");
        let end = control
            .wait_for_end(&lifecycle(), Vec::new())
            .expect("wait");
        assert_eq!(end, End::Asked("SIGTERM"));
    }

    #[test]
    fn a_signal_in_the_same_moment_as_a_reboot_ends_the_next_life() {
        let signal = CaughtSignal::new(signal_hook::consts::SIGUSR1, "SIGUSR1").expect("signal");
        let first = lifecycle();
        let mut watch = signal.watch(&first).expect("descriptor");
        let control = Control {
            signals: vec![signal],
        };
        first.end(End::Reboot);
        signal_hook::low_level::raise(signal_hook::consts::SIGUSR1).expect("raise");
        watch.arrived();
        assert_eq!(first.ended(), Some(End::Reboot));
        let end = control
            .wait_for_end(&lifecycle(), Vec::new())
            .expect("wait");
        assert_eq!(end, End::Asked("SIGUSR1"));
    }

    #[test]
    fn an_alarm_rings_until_it_is_no_longer_ready() {
        let lifecycle = lifecycle();
        let (mut reader, mut writer) = UnixStream::pair().expect("sockets");
        let ready = OwnedFd::from(reader.try_clone().expect("descriptor"));
        let rung = Arc::clone(&lifecycle);
        let mut marks = Vec::new();
        let alarm = Alarm::new(ready, move || {
            let mut mark = [0];
            reader.read_exact(&mut mark).expect("read");
            marks.push(mark[0]);
            if marks == *b"123" {
                rung.end(End::Reboot);
            }
        });
        writer.write_all(b"123").expect("write");
        let control = Control {
            signals: Vec::new(),
        };
        let end = control.wait_for_end(&lifecycle, vec![alarm]);
        assert_eq!(end.expect("wait"), End::Reboot);
    }
}
