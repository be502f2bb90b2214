//! What becomes of requests that the host fails, and how others hear of it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::image::Kind;

/// What is done about a request that the host fails, as QEMU's `werror` and `rerror` have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The guest is told that it failed.
    Report,
    /// The guest is told that it was done.
    Ignore,
    /// The machine is to pause, and the request is tried again when it goes on.
    Stop,
    /// As `Stop` when the host has no room left (ENOSPC), else as `Report`.
    Enospc,
}

/// What is done about reads, and about all other requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// Reads.
    pub read: OnError,
    /// Writes, flushes, discards and zeroes.
    pub write: OnError,
}

impl Default for ErrorPolicy {
    /// As QEMU's: a guest whose disk is full on the host's side waits for room.
    fn default() -> Self {
        Self {
            read: OnError::Report,
            write: OnError::Enospc,
        }
    }
}

impl ErrorPolicy {
    /// Whether it pauses the machine for some error.
    pub const fn may_stop(self) -> bool {
        matches!(self.read, OnError::Stop) || matches!(self.write, OnError::Stop | OnError::Enospc)
    }

    /// What is done when a request of that kind fails with `error`.
    pub(super) fn action(self, kind: Kind, error: &io::Error) -> Action {
        let policy = match kind {
            Kind::Read => self.read,
            Kind::Write | Kind::Flush | Kind::Discard | Kind::Zero => self.write,
        };
        match policy {
            OnError::Ignore => Action::Ignore,
            OnError::Stop => Action::Stop,
            OnError::Enospc if is_no_space(error) => Action::Stop,
            OnError::Report | OnError::Enospc => Action::Report,
        }
    }
}

/// Whether the host has no room left.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOSPC)
}

/// What was done about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The guest was told.
    Report,
    /// The guest was told that it was done.
    Ignore,
    /// It waits for the machine to pause and go on.
    Stop,
}

/// A request that the host has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFailure {
    /// The disk's number among those of the machine.
    pub disk: usize,
    /// What the request was.
    pub kind: Kind,
    /// What was done about it.
    pub action: Action,
    /// Whether the host has no room left.
    pub is_no_space: bool,
    /// The host's words.
    pub reason: String,
}

/// Failures that were not heard of yet, at most: disks tell of one a second, or of one before a pause.
const MOST_WAITING: usize = 256;

/// Where disks tell of failures, and others hear of them.
pub struct DiskFailures {
    waiting: Mutex<Vec<DiskFailure>>,
    event: EventFd,
}

impl DiskFailures {
    /// With none so far.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            waiting: Mutex::default(),
            event: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Readable when there is one.
    pub const fn event(&self) -> &EventFd {
        &self.event
    }

    /// All that came since, in their order.
    pub fn take(&self) -> Vec<DiskFailure> {
        let _nothing_to_read = self.event.read();
        std::mem::take(&mut *self.waiting.lock())
    }

    fn tell(&self, failure: DiskFailure) {
        let mut waiting = self.waiting.lock();
        // One that has the machine pause is heard whatever there is: a disk has one at a time.
        if failure.action == Action::Stop || waiting.len() < MOST_WAITING {
            waiting.push(failure);
        }
        drop(waiting);
        // It fails only where 2^64 - 2 signals have not been heard.
        let _ = self.event.write(1);
    }
}

/// How often a disk tells of failures for which the machine does not pause: a guest decides how many there are.
const BETWEEN: Duration = Duration::from_secs(1);

/// A disk's way to tell.
pub(super) struct Teller {
    pub(super) failures: Arc<DiskFailures>,
    /// The disk's number among those of the machine.
    pub(super) disk: usize,
    /// When it last told of one without a pause.
    pub(super) last: Mutex<Option<Instant>>,
}

impl Teller {
    /// Tells of a failure; of one without a pause once a second.
    pub(super) fn tell(&self, kind: Kind, action: Action, error: &io::Error) {
        if action != Action::Stop {
            let now = Instant::now();
            let mut last = self.last.lock();
            if last.is_some_and(|last| now.duration_since(last) < BETWEEN) {
                return;
            }
            *last = Some(now);
        }
        self.failures.tell(DiskFailure {
            disk: self.disk,
            kind,
            action,
            is_no_space: is_no_space(error),
            reason: error.to_string(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_about_an_error_is_what_qemu_does() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        let broken = io::Error::from_raw_os_error(libc::EIO);
        let usual = ErrorPolicy::default();
        assert_eq!(usual.action(Kind::Read, &full), Action::Report);
        for kind in [Kind::Write, Kind::Flush, Kind::Discard, Kind::Zero] {
            assert_eq!(usual.action(kind, &full), Action::Stop);
            assert_eq!(usual.action(kind, &broken), Action::Report);
        }
        let policy = ErrorPolicy {
            read: OnError::Stop,
            write: OnError::Ignore,
        };
        assert_eq!(policy.action(Kind::Read, &broken), Action::Stop);
        assert_eq!(policy.action(Kind::Flush, &broken), Action::Ignore);
        let reports = ErrorPolicy {
            read: OnError::Report,
            write: OnError::Report,
        };
        assert_eq!(reports.action(Kind::Write, &full), Action::Report);
        assert!(usual.may_stop() && policy.may_stop() && !reports.may_stop());
    }

    #[test]
    fn of_failures_that_the_guest_is_told_of_others_hear_once_a_second() {
        let failures = Arc::new(DiskFailures::new().unwrap());
        let teller = Teller {
            failures: Arc::clone(&failures),
            disk: 2,
            last: Mutex::new(None),
        };
        let error = io::Error::from_raw_os_error(libc::ENOSPC);
        for _ in 0..10 {
            teller.tell(Kind::Write, Action::Report, &error);
        }
        teller.tell(Kind::Write, Action::Stop, &error);
        assert!(failures.event().read().is_ok());
        let actions: Vec<Action> = failures.take().iter().map(|it| it.action).collect();
        assert_eq!(actions, [Action::Report, Action::Stop]);
        assert!(failures.take().is_empty());
    }
}
