//! What a pseries VM needs of KVM beyond what `kvm-ioctls` gives.

use std::os::raw::c_char;

use kvm_bindings::{
    KVM_CAP_PPC_ENABLE_HCALL, KVM_CAP_PPC_SMT, kvm_enable_cap, kvm_ppc_cpu_char, kvm_ppc_mmuv3_cfg,
    kvm_ppc_rmmu_info, kvm_ppc_smmu_info, kvm_rtas_token_args,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};

use super::ioctls::{
    KVM_PPC_CONFIGURE_V3_MMU, KVM_PPC_GET_CPU_CHAR, KVM_PPC_GET_RMMU_INFO, KVM_PPC_GET_SMMU_INFO,
    KVM_PPC_RTAS_DEFINE_TOKEN, check,
};

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

/// What KVM does for a pseries VM.
pub trait PseriesVm {
    /// Makes vCPUs whose ids share a multiple of `threads` (1, 2, 4 or 8) threads of one core.
    /// Before the first vCPU is made.
    ///
    /// # Errors
    /// [`VmError::Threads`].
    fn set_threads_per_core(&self, threads: u32) -> Result<(), VmError>;

    /// Has the kernel handle hypercall `opcode`, or (`enable` false) pass it to user space.
    ///
    /// # Errors
    /// [`VmError::EnableHcall`], with EINVAL for a hypercall that the kernel has no handler for.
    fn enable_hcall(&self, opcode: u64, enable: bool) -> Result<(), VmError>;

    /// Sets the guest's process table, as H_REGISTER_PROC_TBL asks for. `flags` are
    /// KVM_PPC_MMUV3_RADIX and KVM_PPC_MMUV3_GTSE; `process_table` is what goes into the second
    /// doubleword of the partition-table entry (Power ISA 3.0, III 6.7.6.1).
    ///
    /// # Errors
    /// [`VmError::ConfigureV3Mmu`]: EINVAL when the guest's values make no sense, ENODEV when the
    /// host lacks the MMU mode.
    fn configure_v3_mmu(&self, flags: u64, process_table: u64) -> Result<(), VmError>;

    /// The radix MMU's page geometries and encodings.
    ///
    /// # Errors
    /// [`VmError::Query`].
    fn rmmu_info(&self) -> Result<kvm_ppc_rmmu_info, VmError>;

    /// The hash MMU's segment and page sizes.
    ///
    /// # Errors
    /// [`VmError::Query`].
    fn smmu_info(&self) -> Result<kvm_ppc_smmu_info, VmError>;

    /// The CPU's speculation characteristics and behaviour, for H_GET_CPU_CHARACTERISTICS.
    ///
    /// # Errors
    /// [`VmError::Query`].
    fn cpu_char(&self) -> Result<kvm_ppc_cpu_char, VmError>;

    /// Has the kernel handle the RTAS call `name` (`ibm,set-xive`, `ibm,get-xive`, `ibm,int-on`
    /// or `ibm,int-off`) under `token`; token 0 undoes that.
    ///
    /// # Errors
    /// [`VmError::RtasName`] or [`VmError::RtasToken`]: ENOENT for a call the kernel does not
    /// know, EEXIST for a token in use.
    fn define_rtas_token(&self, name: &str, token: u32) -> Result<(), VmError>;
}

impl PseriesVm for VmFd {
    fn set_threads_per_core(&self, threads: u32) -> Result<(), VmError> {
        let cap = kvm_enable_cap {
            cap: KVM_CAP_PPC_SMT,
            args: [threads.into(), 0, 0, 0],
            ..Default::default()
        };
        self.enable_cap(&cap)
            .map_err(|source| VmError::Threads { threads, source })
    }

    fn enable_hcall(&self, opcode: u64, enable: bool) -> Result<(), VmError> {
        let cap = kvm_enable_cap {
            cap: KVM_CAP_PPC_ENABLE_HCALL,
            args: [opcode, u64::from(enable), 0, 0],
            ..Default::default()
        };
        self.enable_cap(&cap)
            .map_err(|source| VmError::EnableHcall { opcode, source })
    }

    fn configure_v3_mmu(&self, flags: u64, process_table: u64) -> Result<(), VmError> {
        let config = kvm_ppc_mmuv3_cfg {
            flags,
            process_table,
        };
        // SAFETY: the call reads one `kvm_ppc_mmuv3_cfg`.
        check(unsafe { ioctl_with_ref(self, KVM_PPC_CONFIGURE_V3_MMU, &config) })
            .map(drop)
            .map_err(|source| VmError::ConfigureV3Mmu {
                flags,
                process_table,
                source,
            })
    }

    fn rmmu_info(&self) -> Result<kvm_ppc_rmmu_info, VmError> {
        let mut info = kvm_ppc_rmmu_info::default();
        // SAFETY: the call writes one `kvm_ppc_rmmu_info`.
        check(unsafe { ioctl_with_mut_ref(self, KVM_PPC_GET_RMMU_INFO, &mut info) })
            .map(|_| info)
            .map_err(|source| VmError::Query {
                call: "KVM_PPC_GET_RMMU_INFO",
                source,
            })
    }

    fn smmu_info(&self) -> Result<kvm_ppc_smmu_info, VmError> {
        let mut info = kvm_ppc_smmu_info::default();
        // SAFETY: the call writes one `kvm_ppc_smmu_info`.
        check(unsafe { ioctl_with_mut_ref(self, KVM_PPC_GET_SMMU_INFO, &mut info) })
            .map(|_| info)
            .map_err(|source| VmError::Query {
                call: "KVM_PPC_GET_SMMU_INFO",
                source,
            })
    }

    fn cpu_char(&self) -> Result<kvm_ppc_cpu_char, VmError> {
        let mut character = kvm_ppc_cpu_char::default();
        // SAFETY: the call writes one `kvm_ppc_cpu_char`.
        check(unsafe { ioctl_with_mut_ref(self, KVM_PPC_GET_CPU_CHAR, &mut character) })
            .map(|_| character)
            .map_err(|source| VmError::Query {
                call: "KVM_PPC_GET_CPU_CHAR",
                source,
            })
    }

    fn define_rtas_token(&self, name: &str, token: u32) -> Result<(), VmError> {
        let args = rtas_token_args(name, token)?;
        // SAFETY: the call reads one `kvm_rtas_token_args`.
        check(unsafe { ioctl_with_ref(self, KVM_PPC_RTAS_DEFINE_TOKEN, &args) })
            .map(drop)
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
