//! The time base, and how far a guest's is from the host's.

use kvm_bindings::powerpc64::KVM_REG_PPC_TB_OFFSET;

use crate::kernel;
use crate::vcpu::{Vcpu, VcpuError};

/// The host's time base (Power ISA, Book II, "Time Base").
pub fn now() -> u64 {
    kernel::time_base()
}

/// Has a guest's time base be `ticks` behind the host's; KVM rounds that to some milliseconds, to
/// the guest's future (`KVM_REG_PPC_TB_OFFSET` in arch/powerpc/kvm/book3s_hv.c).
///
/// # Errors
/// KVM's refusal.
pub fn set_behind(vcpu: &Vcpu, ticks: u64) -> Result<(), VcpuError> {
    let offset = ticks.wrapping_neg();
    vcpu.0
        .set_one_reg(KVM_REG_PPC_TB_OFFSET, &offset.to_ne_bytes())
        .map_err(|source| VcpuError::SetRegister {
            register: "TB_OFFSET",
            value: offset,
            source,
        })
}
