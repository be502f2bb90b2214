//! The kernel's switch for its handlers of bulk calls, and a clock that stands still.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::Mutex;
use crate::world::{BulkCall, HostError, KernelHandlers};

#[derive(Debug, Default)]
struct State {
    in_kernel: Vec<BulkCall>,
    now: Duration,
    wake_at: Option<Duration>,
    refuses: bool,
    requests: u64,
}

/// A switch of which clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct FakeHandlers(Arc<Mutex<State>>);

impl FakeHandlers {
    /// Whether the kernel has its handler of `call` enabled.
    pub fn is_in_kernel(&self, call: BulkCall) -> bool {
        self.0.lock().in_kernel.contains(&call)
    }

    /// Lets time go by, as far as the moment for which a wake-up was asked; false when none was.
    pub fn sleep(&self) -> bool {
        let mut state = self.0.lock();
        let Some(wake_at) = state.wake_at else {
            return false;
        };
        state.now = wake_at;
        true
    }

    /// The time.
    pub fn time(&self) -> Duration {
        self.0.lock().now
    }

    /// From now on, says no to everything, or again yes.
    pub fn refuse(&self, refuses: bool) {
        self.0.lock().refuses = refuses;
    }

    /// How often it was asked.
    pub fn requests(&self) -> u64 {
        self.0.lock().requests
    }
}

impl KernelHandlers for FakeHandlers {
    fn set_in_kernel(&mut self, call: BulkCall, in_kernel: bool) -> Result<(), HostError> {
        let mut state = self.0.lock();
        state.requests += 1;
        if state.refuses {
            return Err(HostError::Refused(22));
        }
        state.in_kernel.retain(|enabled| *enabled != call);
        if in_kernel {
            state.in_kernel.push(call);
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.time()
    }

    fn wake_after(&mut self, delay: Option<Duration>) {
        let mut state = self.0.lock();
        state.wake_at = delay.map(|delay| state.now + delay);
    }
}
