//! Level-triggered sources of an interrupt controller that does not say when an interrupt has ended.
//!
//! The kernel serves XICS's H_EOI and, on hosts with XIVE, tells nobody (KVM_CAP_IRQFD_RESAMPLE is
//! missing there, and `kvmhv_p9_guest_entry` serves the call before it looks whether user space wants it).
//! So a line that has signalled, and is masked by that, is sampled a short time later, and again and again
//! until it is no longer raised.
//!
//! Each time that it is found raised is an event of a source that the controller takes for an
//! edge-triggered one: it remembers one event while the guest serves another, and no more. So nothing is
//! lost, whatever the guest does meanwhile; nothing storms; and an interrupt that takes the guest
//! longer than the time to the next sample is followed by one that finds nothing to do.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::Level;
use parking_lot::{Mutex, MutexGuard};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{LevelLine, Lisn};
use crate::guest_message;
use crate::poll::{polled_for_input, wait};

/// Between a signal and the first sample: about what a guest takes to serve a device.
const SHORTEST: Duration = Duration::from_micros(50);
/// Between samples of a line that stays raised: as late may a device be heard that is busy all the time.
const LONGEST: Duration = Duration::from_micros(250);
/// A line that is raised for so long has nobody who serves it, as far as anyone can tell.
const FORSAKEN_AFTER: Duration = Duration::from_secs(1);
/// Between samples of such a one.
const FORSAKEN: Duration = Duration::from_millis(1);
/// Between samples, in times of what one takes: what is left of a processor is the guest's.
const REST: u32 = 8;

/// How long to wait with the next sample of a line that was found raised for this long so far, by
/// samples of which the last took `cost`.
fn pause(raised_for: Duration, cost: Duration) -> Duration {
    let pause = if raised_for >= FORSAKEN_AFTER {
        FORSAKEN
    } else {
        (raised_for / 4).clamp(SHORTEST, LONGEST)
    };
    pause.max(cost.saturating_mul(REST))
}

/// A source with the lines that share it.
struct Source {
    /// What interrupts the guest.
    interrupt: Arc<EventFd>,
    lines: Vec<Weak<dyn LevelLine>>,
    /// What the lines signal that are connected.
    events: Vec<Arc<EventFd>>,
    /// Since when each sample has found it raised.
    raised_since: Option<Instant>,
    /// When it is to be sampled next, if it has signalled.
    due: Option<Instant>,
    /// How long the last sample took.
    cost: Duration,
}

impl Source {
    /// Interrupts the guest if a line has signalled, and has it sampled some time later.
    fn hear(&mut self, now: Instant) {
        // All are read: one interrupt is for whatever came before it.
        let heard = self.events.iter().filter(|event| event.read().is_ok());
        if heard.count() == 0 {
            return;
        }
        // It fails only when 2^64 events are pending.
        let _ = self.interrupt.write(1);
        let since = *self.raised_since.get_or_insert(now);
        let pause = pause(now.saturating_duration_since(since), self.cost);
        self.due.get_or_insert(now + pause);
    }
}

#[derive(Default)]
struct Sources {
    by_number: BTreeMap<Lisn, Source>,
    has_ended: bool,
}

impl Sources {
    /// What is to be waited for, and how long at most.
    fn awaited(&self, now: Instant) -> (Vec<Arc<EventFd>>, Option<Duration>) {
        let sources = || self.by_number.values();
        let events = sources().flat_map(|source| source.events.iter().map(Arc::clone));
        let next = sources().filter_map(|source| source.due).min();
        let timeout = next.map(|due| due.saturating_duration_since(now));
        (events.collect(), timeout)
    }

    fn hear(&mut self, now: Instant) {
        for source in self.by_number.values_mut() {
            source.hear(now);
        }
    }

    /// The sources that are due, with their lines.
    fn due(&self, now: Instant) -> Vec<(Lisn, Vec<Arc<dyn LevelLine>>)> {
        let is_due = |source: &Source| source.due.is_some_and(|due| due <= now);
        let due = self.by_number.iter().filter(|(_, source)| is_due(source));
        due.map(|(lisn, source)| {
            let lines = source.lines.iter().filter_map(Weak::upgrade);
            (*lisn, lines.collect())
        })
        .collect()
    }

    /// A source's lines have been sampled, which took from `begun` to `now`.
    fn sampled(&mut self, lisn: Lisn, begun: Instant, now: Instant) {
        let Some(source) = self.by_number.get_mut(&lisn) else {
            return;
        };
        source.cost = now.saturating_duration_since(begun);
        source.due = None;
        source.hear(now);
        if source.due.is_none() {
            source.raised_since = None;
        }
    }
}

struct Shared {
    sources: Mutex<Sources>,
    /// Signalled when there is something else to wait for.
    changed: EventFd,
}

impl Shared {
    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock()
    }

    fn notify(&self) {
        // As of a source's interrupt.
        let _ = self.changed.write(1);
    }
}

/// The level-triggered sources of a machine, and the thread that samples their lines, which ends when this
/// is dropped.
pub struct SampledLines {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SampledLines {
    /// None so far. The thread does `prepare` first.
    ///
    /// # Errors
    /// When there is no thread or no descriptor left.
    pub fn new(prepare: fn() -> io::Result<()>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            sources: Mutex::default(),
            changed: EventFd::new(EFD_NONBLOCK)?,
        });
        let work = Arc::clone(&shared);
        let run = move || match prepare().and_then(|()| run(&work)) {
            Ok(()) => (),
            Err(error) => guest_message!(
                Level::Error,
                "interrupt lines (INTx) no longer work: {error}"
            ),
        };
        let thread = thread::Builder::new().name("lines".to_owned()).spawn(run)?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Adds a line of source `lisn`. A source that is new gets its interrupt from `make`.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn add(
        &self,
        lisn: Lisn,
        line: Weak<dyn LevelLine>,
        make: impl FnOnce() -> io::Result<EventFd>,
    ) -> io::Result<()> {
        let mut sources = self.shared.sources();
        if let Some(source) = sources.by_number.get_mut(&lisn) {
            source.lines.push(line);
            return Ok(());
        }
        let source = Source {
            interrupt: Arc::new(make()?),
            lines: vec![line],
            events: Vec::new(),
            raised_since: None,
            due: None,
            cost: Duration::ZERO,
        };
        sources.by_number.insert(lisn, source);
        Ok(())
    }

    /// Has signals of `event` interrupt by source `lisn`, one that was added.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] for a source that is not there.
    pub fn connect(&self, lisn: Lisn, event: &Arc<EventFd>) -> io::Result<()> {
        let mut sources = self.shared.sources();
        let source = sources.by_number.get_mut(&lisn);
        let source = source.ok_or(io::ErrorKind::NotFound)?;
        source.events.push(Arc::clone(event));
        drop(sources);
        self.shared.notify();
        Ok(())
    }

    /// Undoes [`SampledLines::connect`]: from when this returns, the event interrupts nobody.
    pub fn disconnect(&self, lisn: Lisn, event: &Arc<EventFd>) {
        let mut sources = self.shared.sources();
        if let Some(source) = sources.by_number.get_mut(&lisn) {
            source.events.retain(|other| !Arc::ptr_eq(other, event));
        }
        drop(sources);
        self.shared.notify();
    }

    /// Samples no line any more, from when this returns: devices can go.
    pub fn end(&self) {
        self.shared.sources().has_ended = true;
        self.shared.notify();
        if let Some(thread) = self.thread.lock().take() {
            // It does not panic: what it is given comes as errors.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for SampledLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SampledLines").finish_non_exhaustive()
    }
}

impl Drop for SampledLines {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(shared: &Shared) -> io::Result<()> {
    loop {
        let (events, timeout) = shared.sources().awaited(Instant::now());
        let descriptors = events.iter().map(|event| event.as_raw_fd());
        let mut polled: Vec<libc::pollfd> = descriptors
            .chain([shared.changed.as_raw_fd()])
            .map(polled_for_input)
            .collect();
        wait(&mut polled, timeout)?;
        // Nothing to read is no error.
        let _ = shared.changed.read();
        let due = {
            let mut sources = shared.sources();
            if sources.has_ended {
                return Ok(());
            }
            let now = Instant::now();
            sources.hear(now);
            sources.due(now)
        };
        for (lisn, lines) in due {
            // Without the lock: a line has its own, and connects while it holds that.
            let begun = Instant::now();
            lines.iter().for_each(|line| line.sample_again());
            shared.sources().sampled(lisn, begun, Instant::now());
        }
    }
}

#[cfg(test)]
#[path = "sampled_tests.rs"]
mod tests;
