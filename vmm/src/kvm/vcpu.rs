//! What a pseries vCPU needs of KVM beyond what `kvm-ioctls` gives.

use kvm_bindings::{
    KVM_CAP_PPC_PAPR, KVM_EXIT_MMIO, KVM_EXIT_PAPR_HCALL, KVM_REG_PPC_ARCH_COMPAT,
    KVM_REG_PPC_LPCR_64, KVM_REG_PPC_ONLINE, KVM_REG_PPC_VPA_ADDR, KVM_REG_PPC_VPA_DTL,
    KVM_REG_PPC_VPA_SLB, kvm_enable_cap, kvm_regs, kvm_sregs,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};

use super::ioctls::{KVM_ENABLE_CAP, KVM_GET_SREGS, check};
use crate::shared_areas::{Kind, SharedArea};

/// Bits of the machine state register (Power ISA, III 3.2.1).
pub mod msr {
    /// 64-bit mode.
    pub const SF: u64 = 1 << 63;
    /// Machine check interrupts enabled.
    pub const ME: u64 = 1 << 12;
    /// Little-endian mode.
    pub const LE: u64 = 1;
}

/// Bits of the logical partitioning control register that user space may change, beside those that
/// the guest chooses (`vcpu::modes`)
/// (`kvmppc_set_lpcr` in arch/powerpc/kvm/book3s_hv.c; Power ISA, III 2.2).
pub mod lpcr {
    /// Large decrementer.
    pub const LD: u64 = 0x0002_0000;
}

/// What KVM refused to do for a vCPU.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// PAPR mode is not to be had.
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
    fn to_kvm(self) -> kvm_regs {
        kvm_regs {
            pc: self.pc,
            msr: self.msr,
            gpr: self.gpr,
            ..Default::default()
        }
    }
}

/// A hypercall that a vCPU stopped at (KVM_EXIT_PAPR_HCALL).
///
/// At the next KVM_RUN, KVM puts [`ret`](Self::ret) into r3 and [`args`](Self::args) into r4 to
/// r12, all of them, whatever the hypercall (`kvm_arch_vcpu_ioctl_run` in
/// arch/powerpc/kvm/powerpc.c): outputs are written over the arguments, the rest is left alone.
#[derive(Debug)]
pub struct PaprHcall<'a> {
    /// The hypercall's number, r3.
    pub nr: u64,
    /// The return code, r3.
    pub ret: &'a mut u64,
    /// The arguments and results, r4 to r12.
    pub args: &'a mut [u64; 9],
}

/// What KVM does for a pseries vCPU.
pub trait PseriesVcpu {
    /// KVM_RUN. To be used in place of `VcpuFd::run`: it keeps this thread's floating-point and
    /// vector registers.
    ///
    /// The ABI has a call preserve f14 to f31 and v20 to v31, and compiled code relies on it. But
    /// on the emulated POWER9 host with Linux 6.12, about one KVM_RUN in a hundred returns with
    /// zeroes in all of them.
    ///
    /// # Errors
    /// As `VcpuFd::run`: EINTR after a kick.
    fn run_guest(&mut self) -> errno::Result<VcpuExit<'_>>;

    /// KVM_ENABLE_CAP on the vCPU.
    ///
    /// # Errors
    /// KVM's refusal.
    fn enable_capability(&self, cap: &kvm_enable_cap) -> errno::Result<()>;

    /// Has hypercalls do what PAPR says: handled in the kernel, or an exit to user space.
    ///
    /// # Errors
    /// [`VcpuError::Papr`].
    fn enable_papr(&self) -> Result<(), VcpuError>;

    /// The processor version register. An HV guest has that of the host.
    ///
    /// # Errors
    /// [`VcpuError::GetSregs`].
    fn pvr(&self) -> Result<u32, VcpuError>;

    /// Makes the processor behave as an older one; `logical_pvr` is a logical processor version,
    /// for example 0x0f000005 for Power ISA 3.0, or 0 for the processor as it is. To be the same
    /// on every vCPU.
    ///
    /// # Errors
    /// [`VcpuError::SetRegister`].
    fn set_arch_compat(&self, logical_pvr: u32) -> Result<(), VcpuError>;

    /// The logical partitioning control register: bits of [`lpcr`], among others.
    ///
    /// # Errors
    /// [`VcpuError::GetRegister`].
    fn lpcr(&self) -> Result<u64, VcpuError>;

    /// Sets the logical partitioning control register. KVM ignores bits that are not the
    /// guest's.
    ///
    /// # Errors
    /// [`VcpuError::SetRegister`].
    fn set_lpcr(&self, lpcr: u64) -> Result<(), VcpuError>;

    /// Sets the bits of `mask` in the logical partitioning control register to those of `value`.
    ///
    /// # Errors
    /// [`VcpuError::GetRegister`] or [`VcpuError::SetRegister`].
    fn modify_lpcr(&self, mask: u64, value: u64) -> Result<(), VcpuError>;

    /// Tells KVM whether the vCPU runs or is stopped (RTAS start-cpu, stop-self); it shares the
    /// core's time accounting among those that run.
    ///
    /// # Errors
    /// [`VcpuError::SetRegister`].
    fn set_online(&self, online: bool) -> Result<(), VcpuError>;

    /// Tells KVM where an area is that it shares with the vCPU (H_REGISTER_VPA), or that there is none any
    /// more; it takes it up when the vCPU next enters the guest.
    ///
    /// # Errors
    /// EINVAL for an SLB shadow buffer or a dispatch trace log without a virtual processor area, and for the
    /// end of that while one of those is there.
    fn set_shared_area(&self, area: &SharedArea) -> errno::Result<()>;

    /// Sets the registers with which the vCPU enters guest code.
    ///
    /// If the vCPU stopped at a hypercall or an MMIO access before, that is completed first
    /// ([`complete_exit`](Self::complete_exit)): KVM would else do it at the next KVM_RUN, and put
    /// its results over these registers.
    ///
    /// # Errors
    /// [`VcpuError::Complete`] or [`VcpuError::Registers`].
    fn set_entry(&mut self, entry: &EntryRegisters) -> Result<(), VcpuError>;

    /// Has KVM complete the hypercall or MMIO access the vCPU stopped at, without running the
    /// guest. For a vCPU that is to be stopped, reset or looked at.
    ///
    /// Leaves `immediate_exit` set, so that no kick that comes meanwhile is lost: the next KVM_RUN
    /// returns EINTR, as after a kick, until `VcpuKick::acknowledge`.
    ///
    /// # Errors
    /// [`VcpuError::Complete`].
    fn complete_exit(&mut self) -> Result<(), VcpuError>;

    /// Puts the guest back on the `sc 1` of the hypercall it stopped at, to make it again. Of the
    /// hypercall, `ret` must be its number again and `args` what it is to be made with.
    ///
    /// # Errors
    /// [`VcpuError::Registers`].
    fn rewind_to_hypercall(&self) -> Result<(), VcpuError>;

    /// The hypercall the vCPU stopped at, if that is why KVM_RUN last returned successfully.
    fn papr_hcall(&mut self) -> Option<PaprHcall<'_>>;
}

impl PseriesVcpu for VcpuFd {
    // Inlined, so that the function that it is inlined into saves the registers, once, and not each
    // time round its loop: to use them is also to have the kernel save and load them at each exit.
    #[inline(always)]
    fn run_guest(&mut self) -> errno::Result<VcpuExit<'_>> {
        let exit = self.run();
        // SAFETY: there is no instruction here. It tells the compiler that the registers named have
        // changed, so that it restores them before returning.
        unsafe {
            std::arch::asm!(
                "",
                out("f14") _, out("f15") _, out("f16") _, out("f17") _, out("f18") _,
                out("f19") _, out("f20") _, out("f21") _, out("f22") _, out("f23") _,
                out("f24") _, out("f25") _, out("f26") _, out("f27") _, out("f28") _,
                out("f29") _, out("f30") _, out("f31") _,
                out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _,
                out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _,
                out("v30") _, out("v31") _,
                options(nomem, nostack, preserves_flags),
            );
        }
        exit
    }

    fn enable_capability(&self, cap: &kvm_enable_cap) -> errno::Result<()> {
        // SAFETY: the call reads one `kvm_enable_cap`.
        check(unsafe { ioctl_with_ref(self, KVM_ENABLE_CAP, cap) }).map(drop)
    }

    fn enable_papr(&self) -> Result<(), VcpuError> {
        let cap = kvm_enable_cap {
            cap: KVM_CAP_PPC_PAPR,
            ..Default::default()
        };
        self.enable_capability(&cap).map_err(VcpuError::Papr)
    }

    fn pvr(&self) -> Result<u32, VcpuError> {
        sregs(self).map(|sregs| sregs.pvr)
    }

    fn set_arch_compat(&self, logical_pvr: u32) -> Result<(), VcpuError> {
        set_u32(self, KVM_REG_PPC_ARCH_COMPAT, "ARCH_COMPAT", logical_pvr)
    }

    fn lpcr(&self) -> Result<u64, VcpuError> {
        let mut lpcr = [0; 8];
        self.get_one_reg(KVM_REG_PPC_LPCR_64, &mut lpcr)
            .map_err(|source| VcpuError::GetRegister {
                register: "LPCR",
                source,
            })?;
        Ok(u64::from_ne_bytes(lpcr))
    }

    fn set_lpcr(&self, lpcr: u64) -> Result<(), VcpuError> {
        self.set_one_reg(KVM_REG_PPC_LPCR_64, &lpcr.to_ne_bytes())
            .map(drop)
            .map_err(|source| VcpuError::SetRegister {
                register: "LPCR",
                value: lpcr,
                source,
            })
    }

    fn modify_lpcr(&self, mask: u64, value: u64) -> Result<(), VcpuError> {
        self.set_lpcr(self.lpcr()? & !mask | value & mask)
    }

    fn set_online(&self, online: bool) -> Result<(), VcpuError> {
        set_u32(self, KVM_REG_PPC_ONLINE, "ONLINE", u32::from(online))
    }

    fn set_shared_area(&self, area: &SharedArea) -> errno::Result<()> {
        let SharedArea {
            kind,
            address,
            bytes,
        } = *area;
        // Of the others a register has address and length, one behind the other
        // (`struct vpaval` of `union kvmppc_one_reg`).
        let both = [address.to_ne_bytes(), bytes.to_ne_bytes()].concat();
        match kind {
            Kind::Vpa => self.set_one_reg(KVM_REG_PPC_VPA_ADDR, &address.to_ne_bytes()),
            Kind::SlbShadow => self.set_one_reg(KVM_REG_PPC_VPA_SLB, &both),
            Kind::DispatchTraceLog => self.set_one_reg(KVM_REG_PPC_VPA_DTL, &both),
        }
        .map(drop)
    }

    fn set_entry(&mut self, entry: &EntryRegisters) -> Result<(), VcpuError> {
        if matches!(
            self.get_kvm_run().exit_reason,
            KVM_EXIT_PAPR_HCALL | KVM_EXIT_MMIO
        ) {
            self.complete_exit()?;
        }
        set_registers(self, &entry.to_kvm())
    }

    fn complete_exit(&mut self) -> Result<(), VcpuError> {
        self.set_kvm_immediate_exit(1);
        loop {
            match self.run_guest() {
                // A vector access comes in pieces, and the next one was asked for.
                Ok(_) => {}
                Err(error) if error.errno() == libc::EINTR => return Ok(()),
                Err(error) => return Err(VcpuError::Complete(error)),
            }
        }
    }

    fn rewind_to_hypercall(&self) -> Result<(), VcpuError> {
        let mut registers = self.get_regs().map_err(|source| VcpuError::Registers {
            action: "read",
            source,
        })?;
        // The kernel leaves the guest after its `sc 1`.
        registers.pc = registers.pc.wrapping_sub(4);
        set_registers(self, &registers)
    }

    #[inline]
    fn papr_hcall(&mut self) -> Option<PaprHcall<'_>> {
        let run = self.get_kvm_run();
        if run.exit_reason != KVM_EXIT_PAPR_HCALL {
            return None;
        }
        // SAFETY: the exit reason says that this is the field in use; besides, every field of the
        // union consists of integers, for which any bits will do.
        let hcall = unsafe { &mut run.__bindgen_anon_1.papr_hcall };
        Some(PaprHcall {
            nr: hcall.nr,
            ret: &mut hcall.ret,
            args: &mut hcall.args,
        })
    }
}

fn sregs(vcpu: &VcpuFd) -> Result<kvm_sregs, VcpuError> {
    let mut sregs = kvm_sregs::default();
    // SAFETY: the call writes one `kvm_sregs`.
    check(unsafe { ioctl_with_mut_ref(vcpu, KVM_GET_SREGS, &mut sregs) })
        .map(|_| sregs)
        .map_err(VcpuError::GetSregs)
}

fn set_registers(vcpu: &VcpuFd, registers: &kvm_regs) -> Result<(), VcpuError> {
    vcpu.set_regs(registers)
        .map_err(|source| VcpuError::Registers {
            action: "set",
            source,
        })
}

fn set_u32(vcpu: &VcpuFd, id: u64, register: &'static str, value: u32) -> Result<(), VcpuError> {
    vcpu.set_one_reg(id, &value.to_ne_bytes())
        .map(drop)
        .map_err(|source| VcpuError::SetRegister {
            register,
            value: value.into(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use kvm_bindings::{KVM_REG_PPC, KVM_REG_SIZE_U32, KVM_REG_SIZE_U64};
    use kvm_ioctls::reg_size;

    use super::*;

    #[test]
    fn register_ids_are_those_of_the_kernel_and_carry_their_size() {
        assert_eq!(KVM_REG_PPC_LPCR_64, KVM_REG_PPC | KVM_REG_SIZE_U64 | 0xb5);
        assert_eq!(KVM_REG_PPC_ONLINE, KVM_REG_PPC | KVM_REG_SIZE_U32 | 0xbf);
        assert_eq!(reg_size(KVM_REG_PPC_LPCR_64), 8);
        assert_eq!(reg_size(KVM_REG_PPC_ONLINE), 4);
        assert_eq!(reg_size(KVM_REG_PPC_ARCH_COMPAT), 4);
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
            kvm_regs {
                pc: 0x40_0000,
                msr: 0x8000_0000_0000_1000,
                gpr,
                ..Default::default()
            }
        );
    }
}
