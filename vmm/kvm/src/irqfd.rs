//! Interrupts by eventfd (KVM_IRQFD).
//!
//! On powerpc an interrupt is named by its number in the guest (PAPR "LISN") alone: there are no
//! routing tables (`kvm_irq_map_gsi` in arch/powerpc/kvm/book3s.c).

use std::os::fd::AsRawFd;

use kvm_bindings::powerpc64::{
    KVM_CAP_IRQFD_RESAMPLE, KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE, kvm_irqfd,
};
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

use crate::vm::Vm;

/// Why an interrupt could not be connected or raised.
#[derive(Debug, thiserror::Error)]
pub enum IrqfdError {
    /// An eventfd could not be connected.
    #[error(
        "KVM cannot connect an eventfd to interrupt {lisn:#x} (KVM_IRQFD): the VM needs an \
         in-kernel interrupt controller, and the eventfd has one user"
    )]
    Assign {
        /// The interrupt.
        lisn: u32,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// The end of a level-triggered interrupt is not told.
    #[error(
        "KVM does not tell when the guest has handled level-triggered interrupt {lisn:#x} (no \
         KVM_CAP_IRQFD_RESAMPLE): on hosts with XIVE, have the device use MSI"
    )]
    NoResample {
        /// The interrupt.
        lisn: u32,
    },
    /// An eventfd could not be disconnected.
    #[error("KVM cannot disconnect the eventfd of interrupt {lisn:#x} (KVM_IRQFD)")]
    Deassign {
        /// The interrupt.
        lisn: u32,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
}

/// Interrupts of a VM with an in-kernel interrupt controller.
impl Vm {
    /// Raises interrupt `lisn` whenever `trigger` is signalled, without a detour through user
    /// space.
    ///
    /// With `resample`, the interrupt is level-triggered: it stays raised until the guest has
    /// handled it, which then signals `resample`. Only on hosts without XIVE
    /// (`Capabilities::irqfd_resample`); the others would take the eventfd and never signal it.
    ///
    /// # Errors
    /// [`IrqfdError::Assign`] or [`IrqfdError::NoResample`].
    pub fn assign_irqfd(
        &self,
        lisn: u32,
        trigger: &EventFd,
        resample: Option<&EventFd>,
    ) -> Result<(), IrqfdError> {
        if resample.is_some() && self.0.check_extension(KVM_CAP_IRQFD_RESAMPLE) <= 0 {
            return Err(IrqfdError::NoResample { lisn });
        }
        self.0
            .set_irqfd(&request(lisn, trigger, resample))
            .map_err(|source| IrqfdError::Assign { lisn, source })
    }

    /// Undoes [`Vm::assign_irqfd`]. What is not connected is no error.
    ///
    /// # Errors
    /// [`IrqfdError::Deassign`].
    pub fn deassign_irqfd(&self, lisn: u32, trigger: &EventFd) -> Result<(), IrqfdError> {
        let request = kvm_irqfd {
            flags: KVM_IRQFD_FLAG_DEASSIGN,
            ..request(lisn, trigger, None)
        };
        self.0
            .set_irqfd(&request)
            .map_err(|source| IrqfdError::Deassign { lisn, source })
    }
}

/// What connects `trigger`, and `resample` if given, to `lisn`.
fn request(lisn: u32, trigger: &EventFd, resample: Option<&EventFd>) -> kvm_irqfd {
    kvm_irqfd {
        fd: trigger.as_raw_fd().cast_unsigned(),
        gsi: lisn,
        flags: resample.map_or(0, |_| KVM_IRQFD_FLAG_RESAMPLE),
        resamplefd: resample.map_or(0, |fd| fd.as_raw_fd().cast_unsigned()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resample_eventfd_is_announced_by_its_flag() {
        let [trigger, resample] = [0; 2].map(|_| EventFd::new(0).unwrap());

        let edge = request(0x1300, &trigger, None);
        assert_eq!(edge.fd, trigger.as_raw_fd().cast_unsigned());
        assert_eq!((edge.gsi, edge.flags, edge.resamplefd), (0x1300, 0, 0));

        let level = request(0x1200, &trigger, Some(&resample));
        assert_eq!(level.flags, KVM_IRQFD_FLAG_RESAMPLE);
        assert_eq!(level.resamplefd, resample.as_raw_fd().cast_unsigned());
    }

    #[test]
    fn errors_name_the_interrupt_and_what_to_do() {
        let error = IrqfdError::NoResample { lisn: 0x1200 };
        assert!(error.to_string().contains("0x1200") && error.to_string().contains("MSI"));
    }
}
