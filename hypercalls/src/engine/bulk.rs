//! Handing bulk calls over to the kernel's handlers, and taking them back.
//!
//! What is here beyond the scales is not on a call's way: it happens when the policy changes its
//! mind, no more often than [`BackOff`] allows.

use std::sync::Mutex;
use std::time::Duration;

use super::Engine;
use crate::policy::adaptive::{Advice, BackOff, Scales};
use crate::registry::lock;
use crate::stats::BulkCallSnapshot;
use crate::world::{BulkCall, GuestMemory, HostError, HostIommu, KernelHandlers};

/// The bulk calls of a machine whose policy may hand them over.
pub(super) struct BulkCalls {
    /// In the order of [`BulkCall::ALL`].
    scales: [Scales; 2],
    switches: Mutex<Switches>,
}

struct Switches {
    handlers: Box<dyn KernelHandlers>,
    back_offs: [BackOff; 2],
}

const fn index(call: BulkCall) -> usize {
    match call {
        BulkCall::PutIndirect => 0,
        BulkCall::Stuff => 1,
    }
}

impl BulkCalls {
    pub(super) fn new(handlers: Box<dyn KernelHandlers>) -> Self {
        Self {
            scales: [Scales::new(), Scales::new()],
            switches: Mutex::new(Switches {
                handlers,
                back_offs: [BackOff::new(), BackOff::new()],
            }),
        }
    }

    #[inline]
    pub(super) const fn scales(&self, call: BulkCall) -> &Scales {
        &self.scales[index(call)]
    }

    /// Has the kernel handle `call` from now on.
    ///
    /// # Errors
    /// The kernel's refusal; the calls stay here for good.
    fn hand_over(&self, call: BulkCall) -> Result<(), HostError> {
        let scales = self.scales(call);
        let mut switches = lock(&self.switches);
        if !scales.is_here() {
            // Another processor was first.
            return if scales.is_in_kernel() {
                Ok(())
            } else {
                Err(HostError::Refused(0))
            };
        }
        switches
            .handlers
            .set_in_kernel(call, true)
            .inspect_err(|_| scales.refused())?;
        scales.handed_over();
        let now = switches.handlers.now();
        switches.back_offs[index(call)].hand_over(now);
        switches.wake(now);
        Ok(())
    }

    fn take_back(&self) {
        let mut switches = lock(&self.switches);
        let now = switches.handlers.now();
        for call in BulkCall::ALL {
            let back_off = &switches.back_offs[index(call)];
            if back_off.due().is_none_or(|due| due > now) {
                continue;
            }
            let taken = switches.handlers.set_in_kernel(call, false);
            let back_off = &mut switches.back_offs[index(call)];
            if taken.is_ok() {
                back_off.take_back(now);
                self.scales(call).taken_back();
            } else {
                back_off.put_off(now);
            }
        }
        switches.wake(now);
    }

    fn snapshot(&self) -> [BulkCallSnapshot; 2] {
        let switches = lock(&self.switches);
        BulkCall::ALL.map(|call| BulkCallSnapshot {
            call,
            in_kernel: self.scales(call).is_in_kernel(),
            handed_over: switches.back_offs[index(call)].hand_overs(),
            taken_back: switches.back_offs[index(call)].take_backs(),
        })
    }
}

impl Switches {
    /// Asks to be called when the first of the calls is due.
    fn wake(&mut self, now: Duration) {
        let due = self.back_offs.iter().filter_map(BackOff::due).min();
        // At once would be never, for a timer.
        let delay = due.map(|due| due.saturating_sub(now).max(Duration::from_micros(1)));
        self.handlers.wake_after(delay);
    }
}

impl<M: GuestMemory, H: HostIommu> Engine<M, H> {
    /// Lets bulk calls be handed over to `handlers` when that is cheaper for what the guest does,
    /// with [`TcePolicy::Auto`](crate::policy::TcePolicy::Auto).
    #[must_use]
    pub fn with_kernel_handlers(mut self, handlers: impl KernelHandlers + 'static) -> Self {
        if self.policy.tce.adapts_bulk_calls() {
            self.bulk = Some(BulkCalls::new(Box::new(handlers)));
        }
        self
    }

    /// Takes bulk calls back from the kernel's handlers that are due to be looked at again. To be
    /// called when [`KernelHandlers::wake_after`] asked for it; at another time it does no harm.
    pub fn take_back_calls(&self) {
        if let Some(bulk) = &self.bulk {
            bulk.take_back();
        }
    }

    /// Where bulk calls are handled.
    pub(super) fn bulk_calls(&self) -> [BulkCallSnapshot; 2] {
        let fixed = |call| BulkCallSnapshot {
            call,
            in_kernel: self.policy.tce.bulk_calls_in_kernel(),
            handed_over: 0,
            taken_back: 0,
        };
        self.bulk
            .as_ref()
            .map_or(BulkCall::ALL.map(fixed), BulkCalls::snapshot)
    }

    /// Follows the advice on a call that was carried out, or is to be carried out by the kernel;
    /// false when the kernel does not take it.
    #[cold]
    pub(super) fn hand_over(&self, call: BulkCall) -> bool {
        self.bulk
            .as_ref()
            .is_some_and(|bulk| bulk.hand_over(call).is_ok())
    }

    /// Weighs a call of a bound window that costs what `excess` says more here than in the kernel.
    #[inline]
    pub(super) fn weigh(&self, call: BulkCall, excess: impl FnOnce() -> i64) -> Advice {
        self.bulk
            .as_ref()
            .map_or(Advice::Here, |bulk| bulk.scales(call).weigh(excess()))
    }
}
