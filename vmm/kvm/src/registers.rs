//! A vCPU's registers, as a core file has them.

use kvm_bindings::powerpc64::{
    KVM_REG_PPC_DAR, KVM_REG_PPC_DSISR, KVM_REG_PPC_FPSCR, KVM_REG_PPC_VR0, KVM_REG_PPC_VRSAVE,
    KVM_REG_PPC_VSCR, KVM_REG_PPC_VSR0,
};
use vmm_sys_util::errno;

use crate::vcpu::{Vcpu, VcpuError};

/// The registers of a processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// General purpose registers.
    pub gpr: [u64; 32],
    /// Next instruction address.
    pub nip: u64,
    /// Machine state register.
    pub msr: u64,
    /// Count register.
    pub ctr: u64,
    /// Link register.
    pub link: u64,
    /// Fixed-point exception register.
    pub xer: u64,
    /// Condition register.
    pub cr: u64,
    /// Data address register.
    pub dar: u64,
    /// Data storage interrupt status register.
    pub dsisr: u64,
    /// Floating-point and vector registers, where the processor has them.
    pub vectors: Option<Box<VectorRegisters>>,
}

/// Floating-point and vector registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VectorRegisters {
    /// Floating-point registers: the first halves of VSR0 to VSR31.
    pub fpr: [u64; 32],
    /// The second halves of VSR0 to VSR31.
    pub vsr_second: [u64; 32],
    /// Floating-point status and control register.
    pub fpscr: u64,
    /// Vector registers: VSR32 to VSR63.
    pub vr: [u128; 32],
    /// Vector status and control register.
    pub vscr: u32,
    /// Vector save register.
    pub vrsave: u32,
}

/// Reads the registers of a vCPU that is not in the guest; for the thread that runs it.
///
/// # Errors
/// When KVM refuses to tell others than floating-point and vector registers.
pub fn read(vcpu: &Vcpu) -> Result<Registers, VcpuError> {
    let registers = vcpu.general_registers()?;
    let named = |register| move |source| VcpuError::GetRegister { register, source };
    Ok(Registers {
        gpr: registers.gpr,
        nip: registers.pc,
        msr: registers.msr,
        ctr: registers.ctr,
        link: registers.lr,
        xer: registers.xer,
        cr: registers.cr,
        dar: doubleword(vcpu, KVM_REG_PPC_DAR).map_err(named("DAR"))?,
        dsisr: word(vcpu, KVM_REG_PPC_DSISR)
            .map_err(named("DSISR"))?
            .into(),
        // A host's processor may lack them.
        vectors: vectors(vcpu).ok().map(Box::new),
    })
}

fn vectors(vcpu: &Vcpu) -> errno::Result<VectorRegisters> {
    let mut vectors = VectorRegisters {
        fpscr: doubleword(vcpu, KVM_REG_PPC_FPSCR)?,
        vscr: word(vcpu, KVM_REG_PPC_VSCR)?,
        vrsave: word(vcpu, KVM_REG_PPC_VRSAVE)?,
        ..VectorRegisters::default()
    };
    let halves = vectors.fpr.iter_mut().zip(&mut vectors.vsr_second);
    for (id, (first, second)) in (KVM_REG_PPC_VSR0..).zip(halves) {
        // A quadword of KVM's has its halves in the order of the host's bytes
        // (`kvmppc_get_one_reg` in arch/powerpc/kvm/powerpc.c): the first, which is the
        // floating-point register, is the more significant.
        let value = quadword(vcpu, id)?.to_le_bytes();
        let (less, more) = value.split_at(8);
        *first = u64::from_le_bytes(more.try_into().unwrap_or_default());
        *second = u64::from_le_bytes(less.try_into().unwrap_or_default());
    }
    for (id, vr) in (KVM_REG_PPC_VR0..).zip(&mut vectors.vr) {
        *vr = quadword(vcpu, id)?;
    }
    Ok(vectors)
}

fn word(vcpu: &Vcpu, id: u64) -> errno::Result<u32> {
    let mut value = [0; 4];
    vcpu.0.one_reg(id, &mut value)?;
    Ok(u32::from_ne_bytes(value))
}

fn doubleword(vcpu: &Vcpu, id: u64) -> errno::Result<u64> {
    let mut value = [0; 8];
    vcpu.0.one_reg(id, &mut value)?;
    Ok(u64::from_ne_bytes(value))
}

fn quadword(vcpu: &Vcpu, id: u64) -> errno::Result<u128> {
    let mut value = [0; 16];
    vcpu.0.one_reg(id, &mut value)?;
    Ok(u128::from_ne_bytes(value))
}
