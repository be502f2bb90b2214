//! What management programs set and read of a balloon.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::statistics::Statistics;
use super::{PAGE_BYTES, PAGE_SHIFT};

/// The least time between two words on the balloon's size: a guest changes it as often as it likes.
const BETWEEN_WORDS: Duration = Duration::from_secs(1);

/// Who is told how much memory the guest has left, in bytes.
type Tell = Box<dyn Fn(u64) + Send + Sync>;

/// A balloon, whatever device has it now.
pub struct BalloonControl {
    memory_bytes: u64,
    /// How many pages its driver is to give away, and how many it says that it has.
    wanted: AtomicU32,
    actual: AtomicU32,
    /// Seconds between two sets of statistics; 0 for none.
    interval: AtomicU64,
    statistics: Mutex<Statistics>,
    /// Has the device's thread look at all that.
    event: Arc<EventFd>,
    told: Mutex<(u32, Option<Instant>)>,
    tell: Tell,
}

impl BalloonControl {
    /// A balloon in a guest with `memory_bytes`. `tell` hears how much of it is left when that has changed, at most
    /// once a second.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(memory_bytes: u64, tell: impl Fn(u64) + Send + Sync + 'static) -> io::Result<Self> {
        Ok(Self {
            memory_bytes,
            wanted: AtomicU32::new(0),
            actual: AtomicU32::new(0),
            interval: AtomicU64::new(0),
            statistics: Mutex::default(),
            event: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            told: Mutex::new((0, None)),
            tell: Box::new(tell),
        })
    }

    /// Has the driver leave the guest `bytes` of memory, which it does in its own time, or not at all.
    pub fn leave(&self, bytes: u64) {
        let pages = self.memory_bytes.saturating_sub(bytes) >> PAGE_SHIFT;
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        self.wanted.store(pages, Ordering::Release);
        self.look();
    }

    /// Bytes of memory that the guest has, as its driver says.
    pub fn left_bytes(&self) -> u64 {
        self.left(self.actual.load(Ordering::Acquire))
    }

    fn left(&self, pages: u32) -> u64 {
        let given = u64::from(pages).saturating_mul(PAGE_BYTES);
        self.memory_bytes.saturating_sub(given)
    }

    /// Seconds between two sets of statistics; 0 if the driver is not asked for any.
    pub fn interval_seconds(&self) -> u64 {
        self.interval.load(Ordering::Acquire)
    }

    /// Asks the driver for statistics every so many seconds; 0 for no more.
    pub fn set_interval_seconds(&self, seconds: u64) {
        self.interval.store(seconds, Ordering::Release);
        self.look();
    }

    /// What the driver has told last.
    pub fn statistics(&self) -> Statistics {
        self.statistics.lock().clone()
    }

    pub(super) fn set_statistics(&self, statistics: Statistics) {
        *self.statistics.lock() = statistics;
    }

    pub(super) const fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    pub(super) fn wanted_pages(&self) -> u32 {
        self.wanted.load(Ordering::Acquire)
    }

    /// What the driver says that it has given away.
    pub(super) fn set_actual_pages(&self, pages: u32) {
        self.actual.store(pages, Ordering::Release);
        self.look();
    }

    fn look(&self) {
        // It fails only where 2^64 - 2 words have not been heard.
        let _ = self.event.write(1);
    }

    /// Tells how much is left, if that has changed; if that was told of just now, when to call again.
    pub(super) fn tell(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut told = self.told.lock();
        let actual = self.actual.load(Ordering::Acquire);
        if told.0 == actual {
            return None;
        }
        let since = told.1.map(|at| now.saturating_duration_since(at));
        if let Some(since) = since
            && since < BETWEEN_WORDS
        {
            return Some(BETWEEN_WORDS.saturating_sub(since));
        }
        *told = (actual, Some(now));
        (self.tell)(self.left(actual));
        None
    }

    /// The device is gone, and the next has nothing.
    pub(super) fn end(&self) {
        self.actual.store(0, Ordering::Release);
        *self.statistics.lock() = Statistics::default();
        let mut told = self.told.lock();
        if told.0 != 0 {
            *told = (0, Some(Instant::now()));
            (self.tell)(self.memory_bytes);
        }
    }
}
