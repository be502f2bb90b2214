//! Handing lists (H_PUT_TCE_INDIRECT) over to the kernel's handler, and taking them back.
//!
//! Only under a kernel that has been shown to check where a list's range ends: the guest that brings a
//! hand-over about decides what it passes next. H_STUFF_TCE is never handed over.
//!
//! What is here beyond the scales is not on a call's way: it happens when the policy changes its
//! mind, no more often than [`BackOff`] allows.

use std::time::Duration;

use super::Engine;
use crate::policy::adaptive::{BackOff, Scales};
use crate::stats::BulkCallSnapshot;
use crate::sync::Mutex;
use crate::world::{BulkCall, GuestMemory, HostError, HostIommu, KernelHandlers};

/// The lists of a machine whose policy may hand them over.
pub(super) struct Lists {
    scales: Scales,
    switch: Mutex<Switch>,
}

struct Switch {
    handlers: Box<dyn KernelHandlers>,
    back_off: BackOff,
}

impl Lists {
    pub(super) fn new(handlers: Box<dyn KernelHandlers>) -> Self {
        Self {
            scales: Scales::new(),
            switch: Mutex::new(Switch {
                handlers,
                back_off: BackOff::new(),
            }),
        }
    }

    #[inline]
    pub(super) const fn scales(&self) -> &Scales {
        &self.scales
    }

    /// Has the kernel handle lists from now on.
    ///
    /// # Errors
    /// The kernel's refusal; they stay here for good.
    fn hand_over(&self) -> Result<(), HostError> {
        let mut switch = self.switch.lock();
        if !self.scales.is_here() {
            // Another processor was first.
            return if self.scales.is_in_kernel() {
                Ok(())
            } else {
                Err(HostError::Refused(0))
            };
        }
        switch
            .handlers
            .set_in_kernel(BulkCall::PutIndirect, true)
            .inspect_err(|_| self.scales.refused())?;
        self.scales.handed_over();
        let now = switch.handlers.now();
        switch.back_off.hand_over(now);
        switch.wake(now);
        Ok(())
    }

    fn take_back(&self) {
        let mut switch = self.switch.lock();
        let now = switch.handlers.now();
        if switch.back_off.due().is_some_and(|due| due <= now) {
            let taken = switch.handlers.set_in_kernel(BulkCall::PutIndirect, false);
            if taken.is_ok() {
                switch.back_off.take_back(now);
                self.scales.taken_back();
            } else {
                switch.back_off.put_off(now);
            }
        }
        switch.wake(now);
    }

    fn snapshot(&self) -> BulkCallSnapshot {
        let switch = self.switch.lock();
        BulkCallSnapshot {
            call: BulkCall::PutIndirect,
            in_kernel: self.scales.is_in_kernel(),
            handed_over: switch.back_off.hand_overs(),
            taken_back: switch.back_off.take_backs(),
        }
    }
}

impl Switch {
    /// Asks to be called when lists are due.
    fn wake(&mut self, now: Duration) {
        let due = self.back_off.due();
        // At once would be never, for a timer.
        let delay = due.map(|due| due.saturating_sub(now).max(Duration::from_micros(1)));
        self.handlers.wake_after(delay);
    }
}

impl<M: GuestMemory, H: HostIommu> Engine<M, H> {
    /// Lets lists be handed over to the kernel's handler when that is cheaper for what the guest does,
    /// with [`TcePolicy::Auto`](crate::policy::TcePolicy::Auto). To be used with a kernel alone that
    /// checks both ends of a list's range.
    #[must_use]
    pub fn with_kernel_handlers(mut self, handlers: impl KernelHandlers + 'static) -> Self {
        if self.policy.tce.adapts_bulk_calls() {
            self.lists = Some(Lists::new(Box::new(handlers)));
        }
        self
    }

    /// Takes lists back from the kernel's handler if they are due to be looked at again. To be
    /// called when [`KernelHandlers::wake_after`] asked for it; at another time it does no harm.
    pub fn take_back_calls(&self) {
        if let Some(lists) = &self.lists {
            lists.take_back();
        }
    }

    /// Where bulk calls are handled.
    pub(super) fn bulk_calls(&self) -> [BulkCallSnapshot; 2] {
        BulkCall::ALL.map(|call| match (&self.lists, call) {
            (Some(lists), BulkCall::PutIndirect) => lists.snapshot(),
            _ => BulkCallSnapshot {
                call,
                in_kernel: self.policy.tce.bulk_calls_in_kernel(),
                handed_over: 0,
                taken_back: 0,
            },
        })
    }

    /// Follows the advice on a list that was carried out, or is to be carried out by the kernel;
    /// false when the kernel does not take it.
    #[cold]
    pub(super) fn hand_lists_over(&self) -> bool {
        self.lists
            .as_ref()
            .is_some_and(|lists| lists.hand_over().is_ok())
    }
}
