//! Whether interfaces are still there whose frames the host's kernel passes (vhost).

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

/// How long one may be gone before the guest hears of it, at most.
const INTERVAL: Duration = Duration::from_secs(5);

/// When to look.
///
/// Nobody waits for such an interface itself: the kernel wakes whoever waits for one as it has a frame, and asks only
/// then what he wants to hear (`ep_poll_callback()` in fs/eventpoll.c). That took 200 instructions for each frame.
pub(super) struct EndWatch(TimerFd);

impl EndWatch {
    /// From now on, after each [`INTERVAL`].
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(super) fn new() -> io::Result<Self> {
        let mut timer = TimerFd::new()?;
        timer.reset(INTERVAL, Some(INTERVAL))?;
        Ok(Self(timer))
    }

    /// Has a thread hear when to look, by events of that number.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn wait_with(&self, thread: &Epoll, number: u64) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, number);
        thread.ctl(ControlOperation::Add, self.0.as_raw_fd(), event)
    }

    /// It was heard.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn hear(&mut self) -> io::Result<()> {
        self.0.wait()?;
        Ok(())
    }
}
