//! Doorbells: eventfds that a guest's write signals (KVM_IOEVENTFD).
//!
//! Without a length, and whatever is written: then KVM signals the event before it fetches the guest's
//! instruction (KVM_FAST_MMIO_BUS in `kvmppc_hv_emulate_mmio`, arch/powerpc/kvm/book3s_64_mmu_hv.c).

use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

use crate::vm::Vm;

impl Vm {
    /// Has `event` signalled whenever the guest writes at guest physical `address`, without an exit to user space.
    ///
    /// # Errors
    /// KVM's refusal; EEXIST if another doorbell is there.
    pub fn connect_doorbell(&self, address: u64, event: &EventFd) -> errno::Result<()> {
        self.0.register_ioeventfd(address, event)
    }

    /// Undoes [`Vm::connect_doorbell`] of that event there.
    ///
    /// # Errors
    /// KVM's refusal; ENOENT if it is not there.
    pub fn disconnect_doorbell(&self, address: u64, event: &EventFd) -> errno::Result<()> {
        self.0.unregister_ioeventfd(address, event)
    }
}
