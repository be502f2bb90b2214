//! Whether interfaces are still there whose frames the host's kernel passes (vhost).

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

/// How long one may be gone at most before the guest hears of it.
const INTERVAL: Duration = Duration::from_secs(5);

/// When to look.
///
/// Nobody waits for such an interface itself: the kernel calls whoever waits for one when it has a frame, and only then
/// looks what he wants to hear of (`ep_poll_callback()` in fs/eventpoll.c), which took 200 instructions for each frame.
pub(super) struct EndWatch {
    timer: TimerFd,
    /// Which thread hears of it.
    thread: Option<Arc<Epoll>>,
}

impl EndWatch {
    /// From now on, after each [`INTERVAL`].
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(super) fn new() -> io::Result<Self> {
        let mut timer = TimerFd::new()?;
        timer.reset(INTERVAL, Some(INTERVAL))?;
        Ok(Self {
            timer,
            thread: None,
        })
    }

    /// Has a thread hear when to look, by events of that number.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn wait_with(&mut self, thread: &Arc<Epoll>, number: u64) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, number);
        thread.ctl(ControlOperation::Add, self.timer.as_raw_fd(), event)?;
        self.thread = Some(Arc::clone(thread));
        Ok(())
    }

    /// It was heard.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn hear(&mut self) -> io::Result<()> {
        self.timer.wait()?;
        Ok(())
    }

    /// Nobody hears of it any more.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn end(&mut self) -> io::Result<()> {
        match self.thread.take() {
            Some(thread) => thread.ctl(
                ControlOperation::Delete,
                self.timer.as_raw_fd(),
                EpollEvent::default(),
            ),
            None => Ok(()),
        }
    }
}
