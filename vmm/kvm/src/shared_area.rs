//! Memory of a vCPU that the hypervisor reads and writes while it runs (PAPR, "H_REGISTER_VPA").

use kvm_bindings::powerpc64::{KVM_REG_PPC_VPA_ADDR, KVM_REG_PPC_VPA_DTL, KVM_REG_PPC_VPA_SLB};
use vmm_sys_util::errno;

use crate::vcpu::Vcpu;

/// What it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The virtual processor area.
    Vpa,
    /// The SLB shadow buffer.
    SlbShadow,
    /// The dispatch trace log.
    DispatchTraceLog,
}

/// An area that a processor has from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedArea {
    /// What it is for.
    pub kind: Kind,
    /// Where it is in guest memory; 0 if there is none any more.
    pub address: u64,
    /// Its length.
    pub bytes: u64,
}

impl Vcpu {
    /// Tells KVM where an area is that it shares with the vCPU (H_REGISTER_VPA), or that there is none any
    /// more; it takes it up when the vCPU next enters the guest.
    ///
    /// # Errors
    /// EINVAL for an SLB shadow buffer or a dispatch trace log without a virtual processor area, and for the
    /// end of that while one of those is there.
    pub fn set_shared_area(&self, area: &SharedArea) -> errno::Result<()> {
        let SharedArea {
            kind,
            address,
            bytes,
        } = *area;
        // Of the others a register has address and length, one behind the other
        // (`struct vpaval` of `union kvmppc_one_reg`).
        let both = [address.to_ne_bytes(), bytes.to_ne_bytes()].concat();
        match kind {
            Kind::Vpa => self.0.set_one_reg(KVM_REG_PPC_VPA_ADDR, &both[..8]),
            Kind::SlbShadow => self.0.set_one_reg(KVM_REG_PPC_VPA_SLB, &both),
            Kind::DispatchTraceLog => self.0.set_one_reg(KVM_REG_PPC_VPA_DTL, &both),
        }
    }
}
