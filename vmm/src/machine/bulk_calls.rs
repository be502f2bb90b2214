//! The kernel's handlers of bulk TCE calls, enabled and disabled while the guest runs.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_ioctls::VmFd;
use spapr_hypercalls::abi;
use spapr_hypercalls::world::{BulkCall, HostError, KernelHandlers};
use vmm_sys_util::timerfd::TimerFd;

use crate::error_chain::chain;
use crate::kvm::vm::PseriesVm;

/// KVM_CAP_PPC_ENABLE_HCALL of a VM, and a timer that says when to look at it again.
pub(super) struct BulkCallSwitch {
    vm: Arc<VmFd>,
    timer: TimerFd,
    made: Instant,
}

impl BulkCallSwitch {
    /// A switch, and what becomes readable when the engine's `take_back_calls` is to be called. It
    /// is not to be read: the call sets the timer anew.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub(super) fn new(vm: Arc<VmFd>) -> io::Result<(Self, OwnedFd)> {
        let timer = TimerFd::new()?;
        // SAFETY: the descriptor is the timer's, which lives until the end of this function.
        let due = unsafe { BorrowedFd::borrow_raw(timer.as_raw_fd()) }.try_clone_to_owned()?;
        let made = Instant::now();
        Ok((Self { vm, timer, made }, due))
    }
}

impl KernelHandlers for BulkCallSwitch {
    fn set_in_kernel(&mut self, call: BulkCall, in_kernel: bool) -> Result<(), HostError> {
        let number = call.number();
        let name = abi::name(number).unwrap_or_default();
        self.vm.enable_hcall(number, in_kernel).map_err(|error| {
            // The engine does not ask again for a call that the kernel refused to take.
            log::warn!(
                "{name} stays {}: {}",
                if in_kernel {
                    "in user space, also where the kernel would be cheaper"
                } else {
                    "in the kernel"
                },
                chain(&error)
            );
            HostError::Refused(error.errno().unwrap_or_default())
        })?;
        log::debug!(
            "{name} is handled in {} now",
            if in_kernel {
                "the kernel"
            } else {
                "user space"
            }
        );
        Ok(())
    }

    fn now(&self) -> Duration {
        self.made.elapsed()
    }

    fn wake_after(&mut self, delay: Option<Duration>) {
        let set = match delay {
            Some(delay) => self.timer.reset(delay, None),
            None => self.timer.clear(),
        };
        if let Err(error) = set {
            log::warn!("bulk TCE calls stay where they are: the timer cannot be set: {error}");
        }
    }
}
