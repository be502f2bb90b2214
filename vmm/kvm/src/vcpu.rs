//! A pseries vCPU: its registers, and KVM_RUN.

use kvm_bindings::powerpc64::{
    KVM_CAP_PPC_PAPR, KVM_REG_PPC_ARCH_COMPAT, KVM_REG_PPC_LPCR_64, KVM_REG_PPC_ONLINE,
    kvm_enable_cap,
};
use vmm_sys_util::errno;

use crate::exit::{self, Exit, PaprHcall};
use crate::kernel::VcpuFd;

/// The registers that KVM gets and sets all at once (KVM_GET_REGS, KVM_SET_REGS).
pub use kvm_bindings::powerpc64::kvm_regs as GeneralRegisters;

/// Bits of the machine state register (Power ISA, III 3.2.1).
pub mod msr {
    /// 64-bit mode.
    pub const SF: u64 = 1 << 63;
    /// External interrupts and the decrementer's enabled.
    pub const EE: u64 = 1 << 15;
    /// Machine check interrupts enabled.
    pub const ME: u64 = 1 << 12;
    /// Little-endian mode.
    pub const LE: u64 = 1;
}

/// Bits of the logical partitioning control register that user space may change, beside those that
/// the guest chooses (`partition::modes`)
/// (`kvmppc_set_lpcr` in arch/powerpc/kvm/book3s_hv.c; Power ISA, III 2.2).
pub mod lpcr {
    /// Large decrementer.
    pub const LD: u64 = 0x0002_0000;
}

/// What KVM refused to do for a vCPU.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM refused PAPR mode.
    #[error("KVM cannot run the vCPU in PAPR mode (KVM_CAP_PPC_PAPR)")]
    Papr(#[source] errno::Error),
    /// The special registers could not be read.
    #[error("KVM_GET_SREGS failed")]
    GetSregs(#[source] errno::Error),
    /// The general registers could not be read or set.
    #[error("KVM cannot {action} the vCPU's registers")]
    Registers {
        /// "read" or "set".
        action: &'static str,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// What the vCPU last stopped for could not be brought to its end.
    #[error("KVM cannot complete what the vCPU last stopped for (KVM_RUN with immediate_exit)")]
    Complete(#[source] errno::Error),
    /// A register could not be read.
    #[error("KVM cannot read register {register} (KVM_GET_ONE_REG)")]
    GetRegister {
        /// Its name.
        register: &'static str,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// A register could not be set.
    #[error("KVM refused {value:#x} for register {register} (KVM_SET_ONE_REG)")]
    SetRegister {
        /// Its name.
        register: &'static str,
        /// The value.
        value: u64,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
}

/// The registers with which a vCPU enters guest code; all others are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRegisters {
    /// Next instruction address.
    pub pc: u64,
    /// Machine state register: bits of [`msr`].
    pub msr: u64,
    /// General purpose registers.
    pub gpr: [u64; 32],
}

impl EntryRegisters {
    fn to_kvm(self) -> GeneralRegisters {
        GeneralRegisters {
            pc: self.pc,
            msr: self.msr,
            gpr: self.gpr,
            ..Default::default()
        }
    }
}

/// A pseries vCPU.
#[derive(Debug)]
pub struct Vcpu(pub(crate) VcpuFd);

impl Vcpu {
    /// KVM_RUN. It keeps this thread's floating-point and vector registers.
    ///
    /// # Errors
    /// EINTR after a kick; else KVM's refusal.
    // Inlined for the sake of `VcpuFd::run`, which says why.
    #[inline(always)]
    pub fn run_guest(&mut self) -> errno::Result<Exit<'_>> {
        self.0.run()?;
        Ok(exit::of(self.0.kvm_run()))
    }

    /// The hypercall the vCPU stopped at, if that is why KVM_RUN last returned successfully.
    #[inline]
    pub fn papr_hcall(&mut self) -> Option<PaprHcall<'_>> {
        exit::papr_hcall(self.0.kvm_run())
    }

    /// Has hypercalls do what PAPR says: handled in the kernel, or an exit to user space.
    ///
    /// # Errors
    /// [`VcpuError::Papr`].
    pub fn enable_papr(&self) -> Result<(), VcpuError> {
        let cap = kvm_enable_cap {
            cap: KVM_CAP_PPC_PAPR,
            ..Default::default()
        };
        self.0.enable_cap(&cap).map_err(VcpuError::Papr)
    }

    /// The processor version register. An HV guest has that of the host.
    ///
    /// # Errors
    /// [`VcpuError::GetSregs`].
    pub fn pvr(&self) -> Result<u32, VcpuError> {
        let sregs = self.0.sregs().map_err(VcpuError::GetSregs)?;
        Ok(sregs.pvr)
    }

    /// Makes the processor behave as an older one; `logical_pvr` is a logical processor version,
    /// for example 0x0f000005 for Power ISA 3.0, or 0 for the processor as it is. To be the same
    /// on every vCPU.
    ///
    /// # Errors
    /// [`VcpuError::SetRegister`].
    pub fn set_arch_compat(&self, logical_pvr: u32) -> Result<(), VcpuError> {
        self.set_u32(KVM_REG_PPC_ARCH_COMPAT, "ARCH_COMPAT", logical_pvr)
    }

    /// The logical partitioning control register: bits of [`lpcr`], among others.
    ///
    /// # Errors
    /// [`VcpuError::GetRegister`].
    pub fn lpcr(&self) -> Result<u64, VcpuError> {
        let mut lpcr = [0; 8];
        self.0
            .one_reg(KVM_REG_PPC_LPCR_64, &mut lpcr)
            .map_err(|source| VcpuError::GetRegister {
                register: "LPCR",
                source,
            })?;
        Ok(u64::from_ne_bytes(lpcr))
    }

    /// Sets the logical partitioning control register. KVM ignores bits that are not the
    /// guest's.
    ///
    /// # Errors
    /// [`VcpuError::SetRegister`].
    pub fn set_lpcr(&self, lpcr: u64) -> Result<(), VcpuError> {
        self.0
            .set_one_reg(KVM_REG_PPC_LPCR_64, &lpcr.to_ne_bytes())
            .map_err(|source| VcpuError::SetRegister {
                register: "LPCR",
                value: lpcr,
                source,
            })
    }

    /// Sets the bits of `mask` in the logical partitioning control register to those of `value`.
    ///
    /// # Errors
    /// [`VcpuError::GetRegister`] or [`VcpuError::SetRegister`].
    pub fn modify_lpcr(&self, mask: u64, value: u64) -> Result<(), VcpuError> {
        self.set_lpcr(self.lpcr()? & !mask | value & mask)
    }

    /// Tells KVM whether the vCPU runs or is stopped (RTAS start-cpu, stop-self); it shares the
    /// core's time accounting among those that run.
    ///
    /// # Errors
    /// [`VcpuError::SetRegister`].
    pub fn set_online(&self, online: bool) -> Result<(), VcpuError> {
        self.set_u32(KVM_REG_PPC_ONLINE, "ONLINE", u32::from(online))
    }

    /// Sets the registers with which the vCPU enters guest code.
    ///
    /// If the vCPU stopped at a hypercall or an MMIO access before, that is completed first
    /// ([`complete_exit`](Self::complete_exit)): KVM would else do it at the next KVM_RUN, and put
    /// its results over these registers.
    ///
    /// # Errors
    /// [`VcpuError::Complete`] or [`VcpuError::Registers`].
    pub fn set_entry(&mut self, entry: &EntryRegisters) -> Result<(), VcpuError> {
        if exit::is_to_be_completed(self.0.kvm_run()) {
            self.complete_exit()?;
        }
        self.set_general_registers(&entry.to_kvm())
    }

    /// Has KVM complete the hypercall or MMIO access the vCPU stopped at, without running the
    /// guest. For a vCPU that is to be stopped, reset or looked at.
    ///
    /// Leaves `immediate_exit` set, so that no kick that comes meanwhile is lost: the next KVM_RUN
    /// returns EINTR, as after a kick, until `VcpuKick::acknowledge`.
    ///
    /// # Errors
    /// [`VcpuError::Complete`].
    pub fn complete_exit(&mut self) -> Result<(), VcpuError> {
        self.0.kvm_run().immediate_exit = 1;
        loop {
            match self.run_guest() {
                // A vector access comes in pieces, and the next one was asked for.
                Ok(_) => {}
                Err(error) if error.errno() == libc::EINTR => return Ok(()),
                Err(error) => return Err(VcpuError::Complete(error)),
            }
        }
    }

    /// Lets the vCPU run after [`complete_exit`](Self::complete_exit), where nobody kicks it.
    pub(crate) fn clear_immediate_exit(&mut self) {
        self.0.kvm_run().immediate_exit = 0;
    }

    /// Puts the guest back on the `sc 1` of the hypercall it stopped at, to make it again: at once, or, where KVM had
    /// it take an interrupt meanwhile, when it comes back from that. Of the hypercall, `ret` must be its number again
    /// and `args` what it is to be made with.
    ///
    /// # Errors
    /// [`VcpuError::Registers`].
    pub fn rewind_to_hypercall(&self) -> Result<(), VcpuError> {
        self.change_registers(|registers| {
            let behind_call = if was_interrupted_behind_call(registers) {
                &mut registers.srr0
            } else {
                &mut registers.pc
            };
            *behind_call = behind_call.wrapping_sub(4);
        })
    }

    /// Address of the next instruction.
    ///
    /// # Errors
    /// [`VcpuError::Registers`].
    pub fn pc(&self) -> Result<u64, VcpuError> {
        self.general_registers().map(|registers| registers.pc)
    }

    /// Changes some of the general registers and leaves the others.
    ///
    /// # Errors
    /// [`VcpuError::Registers`].
    pub fn change_registers(
        &self,
        change: impl FnOnce(&mut GeneralRegisters),
    ) -> Result<(), VcpuError> {
        let mut registers = self.general_registers()?;
        change(&mut registers);
        self.set_general_registers(&registers)
    }

    pub(crate) fn general_registers(&self) -> Result<GeneralRegisters, VcpuError> {
        self.0.regs().map_err(|source| VcpuError::Registers {
            action: "read",
            source,
        })
    }

    fn set_general_registers(&self, registers: &GeneralRegisters) -> Result<(), VcpuError> {
        self.0
            .set_regs(registers)
            .map_err(|source| VcpuError::Registers {
                action: "set",
                source,
            })
    }

    fn set_u32(&self, id: u64, register: &'static str, value: u32) -> Result<(), VcpuError> {
        self.0
            .set_one_reg(id, &value.to_ne_bytes())
            .map_err(|source| VcpuError::SetRegister {
                register,
                value: value.into(),
                source,
            })
    }
}

/// Vectors of the interrupts that may wait for a guest while it makes a hypercall: external ones, which KVM's XICS
/// has wait, and the decrementer's.
const VECTORS: [u64; 2] = [0x500, 0x900];
/// What is added to a vector while translation is on and the guest wants its interrupts taken so (LPCR\[AIL\] = 3).
const TRANSLATED: u64 = 0xc000_0000_0000_4000;

/// Whether a vCPU that stopped at a hypercall is at an interrupt's vector, and SRR0 is what follows its `sc 1`.
///
/// KVM delivers what is pending before KVM_RUN returns for a hypercall (`kvmppc_vcpu_run_hv` calls
/// `kvmppc_core_prepare_to_enter`, which ends in `kvmppc_inject_interrupt_hv`; arch/powerpc/kvm). The interrupt
/// needs MSR\[EE\], keeps it in SRR1 and clears it. So does no guest but one that makes a hypercall right before a
/// vector, with interrupts disabled and an SRR1 like that: it comes back to where it does not expect, and harms
/// itself alone.
fn was_interrupted_behind_call(registers: &GeneralRegisters) -> bool {
    let vector = registers.pc.checked_sub(TRANSLATED).unwrap_or(registers.pc);
    VECTORS.contains(&vector) && registers.msr & msr::EE == 0 && registers.srr1 & msr::EE != 0
}

#[cfg(test)]
mod tests {
    use kvm_bindings::powerpc64::{KVM_REG_PPC, KVM_REG_SIZE_U32, KVM_REG_SIZE_U64};

    use super::*;

    #[test]
    fn register_ids_are_those_of_the_kernel_and_carry_their_size() {
        assert_eq!(KVM_REG_PPC_LPCR_64, KVM_REG_PPC | KVM_REG_SIZE_U64 | 0xb5);
        assert_eq!(KVM_REG_PPC_ONLINE, KVM_REG_PPC | KVM_REG_SIZE_U32 | 0xbf);
        assert_eq!(
            KVM_REG_PPC_ARCH_COMPAT,
            KVM_REG_PPC | KVM_REG_SIZE_U32 | 0xb7
        );
    }

    #[test]
    fn entry_sets_what_it_names_and_clears_the_rest() {
        let mut gpr = [0; 32];
        gpr[3] = 0x100_0000;
        let registers = EntryRegisters {
            pc: 0x40_0000,
            msr: msr::SF | msr::ME,
            gpr,
        }
        .to_kvm();
        assert_eq!(registers.msr, 0x8000_0000_0000_1000);
        assert_eq!(
            registers,
            GeneralRegisters {
                pc: 0x40_0000,
                msr: 0x8000_0000_0000_1000,
                gpr,
                ..Default::default()
            }
        );
    }
}
