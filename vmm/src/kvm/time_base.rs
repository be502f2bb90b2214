//! The time base, and how far a guest's is from the host's.

use std::arch::asm;

use kvm_bindings::KVM_REG_PPC_TB_OFFSET;
use kvm_ioctls::VcpuFd;

use super::vcpu::VcpuError;

/// The host's time base (Power ISA, Book II, "Time Base").
pub fn now() -> u64 {
    let ticks;
    // SAFETY: reads a register that user space may read, and touches nothing else.
    unsafe { asm!("mfspr {}, 268", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

/// Has a guest's time base be `ticks` behind the host's; KVM rounds that to some milliseconds, to
/// the guest's future (`KVM_REG_PPC_TB_OFFSET` in arch/powerpc/kvm/book3s_hv.c).
///
/// # Errors
/// KVM's refusal.
pub fn set_behind(vcpu: &VcpuFd, ticks: u64) -> Result<(), VcpuError> {
    let offset = ticks.wrapping_neg();
    vcpu.set_one_reg(KVM_REG_PPC_TB_OFFSET, &offset.to_ne_bytes())
        .map(drop)
        .map_err(|source| VcpuError::SetRegister {
            register: "TB_OFFSET",
            value: offset,
            source,
        })
}
