//! The kernel's handlers of bulk TCE calls, enabled and disabled while the guest runs.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Once, OnceLock};
use std::time::{Duration, Instant};

use log::Level;
use spapr_devices::error_chain::chain;
use spapr_devices::{guest_activity, guest_message};
use spapr_hypercalls::abi;
use spapr_hypercalls::world::{BulkCall, HostError, KernelHandlers};
use spapr_kvm::host::{Capabilities, Kvm};
use spapr_kvm::list_check;
use spapr_kvm::vm::Vm;
use vmm_sys_util::timerfd::TimerFd;

/// Whether a guest's lists (H_PUT_TCE_INDIRECT) may be handed over to the kernel's handler: it has been shown
/// to check where they end. Tried once in the life of this process, before the first guest is there.
pub(super) fn kernel_may_take_lists(kvm: &Kvm, capabilities: &Capabilities) -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        if !(capabilities.spapr_tce_64 && capabilities.spapr_multitce && capabilities.enable_hcall) {
            return false;
        }
        let checks = list_check::checks_where_lists_end(kvm).inspect_err(|error| {
            guest_message!(Level::Warn, "cannot test whether this kernel checks where a list of TCEs ends: {}",
                chain(error)
            );
        });
        let checks = checks.unwrap_or(false);
        if !checks {
            guest_message!(Level::Info, "H_PUT_TCE_INDIRECT is served in user space alone: this kernel has not been shown to check \
                 where a list ends"
            );
        }
        checks
    })
}

/// Says once what it means that the kernel serves all bulk calls.
pub(super) fn warn_of_risk() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        guest_message!(Level::Warn, "the kernel serves all TCE calls (tce=kernel): one that does not check where a range ends, as \
             those before Linux 7, lets the guest write over this host's memory; only for guests that you \
             trust"
        );
    });
}

/// KVM_CAP_PPC_ENABLE_HCALL of a VM, and a timer that says when to look at it again.
pub(super) struct BulkCallSwitch {
    vm: Arc<Vm>,
    timer: TimerFd,
    made: Instant,
}

impl BulkCallSwitch {
    /// A switch, and what becomes readable when the engine's `take_back_calls` is to be called. It
    /// is not to be read: the call sets the timer anew.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub(super) fn new(vm: Arc<Vm>) -> io::Result<(Self, OwnedFd)> {
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
            guest_message!(
                Level::Warn,
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
        guest_activity!(
            Level::Debug,
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
            guest_message!(
                Level::Warn,
                "bulk TCE calls stay where they are: the timer cannot be set: {error}"
            );
        }
    }
}
