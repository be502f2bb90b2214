//! A pseries virtual machine.

use std::os::raw::c_char;

use kvm_bindings::powerpc64::{
    KVM_CAP_PPC_ENABLE_HCALL, KVM_CAP_PPC_SMT, kvm_enable_cap, kvm_ppc_mmuv3_cfg,
    kvm_rtas_token_args,
};
use vmm_sys_util::errno;

use crate::kernel::VmFd;
use crate::vcpu::Vcpu;

/// What KVM refused to do for a VM.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// A hypercall could not be switched between kernel and user space.
    #[error(
        "KVM cannot switch hypercall {opcode:#x} (KVM_CAP_PPC_ENABLE_HCALL): this kernel does not \
         handle it"
    )]
    EnableHcall {
        /// The hypercall.
        opcode: u64,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// Cores with so many threads were refused.
    #[error(
        "KVM cannot give the guest {threads} threads in a core (KVM_CAP_PPC_SMT); give fewer, or 1"
    )]
    Threads {
        /// Threads of a core.
        threads: u32,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// The guest's process table was refused.
    #[error(
        "KVM refused process table {process_table:#x} with flags {flags:#x} \
         (KVM_PPC_CONFIGURE_V3_MMU)"
    )]
    ConfigureV3Mmu {
        /// KVM_PPC_MMUV3_* flags.
        flags: u64,
        /// The process table, as in the second doubleword of a partition-table entry.
        process_table: u64,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// A question about the CPU or the MMU was refused.
    #[error("{call} failed")]
    Query {
        /// The ioctl.
        call: &'static str,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// The name of an RTAS call does not fit.
    #[error("RTAS call name {0:?} is longer than KVM takes (119 bytes) or holds a NUL")]
    RtasName(String),
    /// An RTAS token was refused.
    #[error(
        "KVM cannot handle RTAS call {name:?} under token {token:#x} (KVM_PPC_RTAS_DEFINE_TOKEN)"
    )]
    RtasToken {
        /// The call's name in the device tree.
        name: String,
        /// Its token.
        token: u32,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
}

impl VmError {
    /// The errno of KVM's refusal.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::RtasName(_) => None,
            Self::EnableHcall { source, .. }
            | Self::Threads { source, .. }
            | Self::ConfigureV3Mmu { source, .. }
            | Self::Query { source, .. }
            | Self::RtasToken { source, .. } => Some(source.errno()),
        }
    }
}

/// What the radix MMU of a guest is to do: flags of KVM_PPC_CONFIGURE_V3_MMU.
pub mod mmu {
    /// The guest uses radix trees.
    pub const RADIX: u64 = kvm_bindings::powerpc64::KVM_PPC_MMUV3_RADIX as u64;
    /// It may flush translations itself (guest translation shootdown).
    pub const GTSE: u64 = kvm_bindings::powerpc64::KVM_PPC_MMUV3_GTSE as u64;
}

/// The processor's speculation characteristics and behaviour (KVM_PPC_GET_CPU_CHAR), for
/// H_GET_CPU_CHARACTERISTICS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuCharacteristics {
    /// Characteristics, in the hypercall's bits.
    pub characteristics: u64,
    /// Which of them mean something.
    pub characteristics_mask: u64,
    /// Behaviour, in the hypercall's bits.
    pub behaviour: u64,
    /// Which of it means something.
    pub behaviour_mask: u64,
}

/// A pseries virtual machine, in hypervisor mode.
#[derive(Debug)]
pub struct Vm(pub(crate) VmFd);

impl Vm {
    /// Makes vCPU `id`.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn create_vcpu(&self, id: u32) -> errno::Result<Vcpu> {
        self.0.create_vcpu(id).map(Vcpu)
    }

    /// Makes vCPUs whose ids share a multiple of `threads` (1, 2, 4 or 8) threads of one core.
    /// Before the first vCPU is made.
    ///
    /// # Errors
    /// [`VmError::Threads`].
    pub fn set_threads_per_core(&self, threads: u32) -> Result<(), VmError> {
        self.enable_cap(KVM_CAP_PPC_SMT, [threads.into(), 0])
            .map_err(|source| VmError::Threads { threads, source })
    }

    /// Has the kernel handle hypercall `opcode`, or (`enable` false) pass it to user space.
    ///
    /// # Errors
    /// [`VmError::EnableHcall`], with EINVAL for a hypercall that the kernel has no handler for.
    pub fn enable_hcall(&self, opcode: u64, enable: bool) -> Result<(), VmError> {
        self.enable_cap(KVM_CAP_PPC_ENABLE_HCALL, [opcode, u64::from(enable)])
            .map_err(|source| VmError::EnableHcall { opcode, source })
    }

    fn enable_cap(&self, cap: u32, [first, second]: [u64; 2]) -> errno::Result<()> {
        self.0.enable_cap(&kvm_enable_cap {
            cap,
            args: [first, second, 0, 0],
            ..Default::default()
        })
    }

    /// Sets the guest's process table, as H_REGISTER_PROC_TBL asks for. `flags` are
    /// those of [`mmu`]; `process_table` is what goes into the second
    /// doubleword of the partition-table entry (Power ISA 3.0, III 6.7.6.1).
    ///
    /// # Errors
    /// [`VmError::ConfigureV3Mmu`]: EINVAL when the guest's values make no sense, ENODEV when the
    /// host lacks the MMU mode.
    pub fn configure_v3_mmu(&self, flags: u64, process_table: u64) -> Result<(), VmError> {
        let config = kvm_ppc_mmuv3_cfg {
            flags,
            process_table,
        };
        self.0
            .configure_v3_mmu(&config)
            .map_err(|source| VmError::ConfigureV3Mmu {
                flags,
                process_table,
                source,
            })
    }

    /// The encodings of the radix MMU's page sizes, as `ibm,processor-radix-AP-encodings` has them.
    ///
    /// # Errors
    /// [`VmError::Query`].
    pub fn radix_ap_encodings(&self) -> Result<Vec<u32>, VmError> {
        let info = self.0.rmmu_info().map_err(|source| VmError::Query {
            call: "KVM_PPC_GET_RMMU_INFO",
            source,
        })?;
        let has_one = |code: &u32| *code != 0;
        Ok(info.ap_encodings.into_iter().filter(has_one).collect())
    }

    /// The CPU's speculation characteristics and behaviour, for H_GET_CPU_CHARACTERISTICS.
    ///
    /// # Errors
    /// [`VmError::Query`].
    pub fn cpu_char(&self) -> Result<CpuCharacteristics, VmError> {
        let facts = self.0.cpu_char().map_err(|source| VmError::Query {
            call: "KVM_PPC_GET_CPU_CHAR",
            source,
        })?;
        Ok(CpuCharacteristics {
            characteristics: facts.character,
            characteristics_mask: facts.character_mask,
            behaviour: facts.behaviour,
            behaviour_mask: facts.behaviour_mask,
        })
    }

    /// Has the kernel handle the RTAS call `name` (`ibm,set-xive`, `ibm,get-xive`, `ibm,int-on`
    /// or `ibm,int-off`) under `token`; token 0 undoes that.
    ///
    /// # Errors
    /// [`VmError::RtasName`] or [`VmError::RtasToken`]: ENOENT for a call the kernel does not
    /// know, EEXIST for a token in use.
    pub fn define_rtas_token(&self, name: &str, token: u32) -> Result<(), VmError> {
        let args = rtas_token_args(name, token)?;
        self.0
            .define_rtas_token(&args)
            .map_err(|source| VmError::RtasToken {
                name: name.to_owned(),
                token,
                source,
            })
    }
}

/// `name`, NUL-terminated, and `token`, as KVM takes them.
fn rtas_token_args(name: &str, token: u32) -> Result<kvm_rtas_token_args, VmError> {
    let mut args = kvm_rtas_token_args {
        token: token.into(),
        ..Default::default()
    };
    if name.len() >= args.name.len() || name.contains('\0') {
        return Err(VmError::RtasName(name.to_owned()));
    }
    for (to, from) in args.name.iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rtas_name_is_passed_nul_terminated() {
        let args = rtas_token_args("ibm,set-xive", 0x200a).unwrap();
        let name: Vec<u8> = args.name.iter().flat_map(|c| c.to_ne_bytes()).collect();
        assert!(name.starts_with(b"ibm,set-xive\0"));
        assert_eq!(args.token, 0x200a);
    }

    #[test]
    fn an_rtas_name_that_leaves_no_room_for_the_nul_is_refused() {
        assert!(rtas_token_args(&"x".repeat(119), 1).is_ok());
        let error = rtas_token_args(&"x".repeat(120), 1).unwrap_err();
        assert_eq!(error.errno(), None);
        assert!(rtas_token_args("a\0b", 1).is_err());
    }

    #[test]
    fn an_error_keeps_the_errno_and_does_not_repeat_it() {
        let error = VmError::EnableHcall {
            opcode: 0x13c,
            source: errno::Error::new(libc::EINVAL),
        };
        assert_eq!(error.errno(), Some(libc::EINVAL));
        assert!(error.to_string().contains("0x13c"));
        assert!(!error.to_string().contains("nvalid argument"));
    }
}
