//! Making the kernel refuse one call of the VMM, to reach what a host of another kind would do.
//!
//! A seccomp filter in the VMM's process answers an ioctl with a chosen error, or with 0, and lets
//! everything else through (the kernel's Documentation/userspace-api/seccomp_filter.rst).

use std::io;

/// The low half of the last field of `struct kvm_create_spapr_tce_64`, the number of entries: that of the
/// default window's table. The one that the kernel is tried with for its check of lists has fewer.
pub(crate) const DEFAULT_WINDOW_TABLE: (u64, u32) = (24, (1 << 30) >> 12);

/// `ioctl` request numbers on powerpc (arch/powerpc/include/uapi/asm/ioctl.h): KVM's from
/// include/uapi/linux/kvm.h, VFIO's from include/uapi/linux/vfio.h.
///
/// VFIO's from 0x3b70 on mean one thing to a container and another to a device; of the device's, the
/// VMM makes 0x3b70 and 0x3b71, of one that has no reset of its own.
pub(crate) mod request {
    /// KVM_GET_API_VERSION.
    pub(crate) const KVM_GET_API_VERSION: u32 = 0x2000_ae00;
    /// KVM_CREATE_VM.
    pub(crate) const KVM_CREATE_VM: u32 = 0x2000_ae01;
    /// KVM_CHECK_EXTENSION.
    pub(crate) const KVM_CHECK_EXTENSION: u32 = 0x2000_ae03;
    /// KVM_GET_VCPU_MMAP_SIZE.
    pub(crate) const KVM_GET_VCPU_MMAP_SIZE: u32 = 0x2000_ae04;
    /// KVM_CREATE_VCPU.
    pub(crate) const KVM_CREATE_VCPU: u32 = 0x2000_ae41;
    /// KVM_SET_USER_MEMORY_REGION.
    pub(crate) const KVM_SET_USER_MEMORY_REGION: u32 = 0x8020_ae46;
    /// KVM_IRQFD.
    pub(crate) const KVM_IRQFD: u32 = 0x8020_ae76;
    /// KVM_SET_REGS.
    pub(crate) const KVM_SET_REGS: u32 = 0x8188_ae82;
    /// KVM_GET_SREGS.
    pub(crate) const KVM_GET_SREGS: u32 = 0x44d0_ae83;
    /// KVM_ENABLE_CAP.
    pub(crate) const KVM_ENABLE_CAP: u32 = 0x8068_aea3;
    /// KVM_CREATE_SPAPR_TCE_64.
    pub(crate) const KVM_CREATE_SPAPR_TCE_64: u32 = 0x8020_aea8;
    /// KVM_PPC_RTAS_DEFINE_TOKEN.
    pub(crate) const KVM_PPC_RTAS_DEFINE_TOKEN: u32 = 0x8080_aeac;
    /// KVM_SET_ONE_REG.
    pub(crate) const KVM_SET_ONE_REG: u32 = 0x8010_aeac;
    /// KVM_PPC_GET_RMMU_INFO.
    pub(crate) const KVM_PPC_GET_RMMU_INFO: u32 = 0x8060_aeb0;
    /// KVM_PPC_GET_CPU_CHAR.
    pub(crate) const KVM_PPC_GET_CPU_CHAR: u32 = 0x4020_aeb1;
    /// KVM_CREATE_DEVICE.
    pub(crate) const KVM_CREATE_DEVICE: u32 = 0xc00c_aee0;
    /// KVM_SET_DEVICE_ATTR.
    pub(crate) const KVM_SET_DEVICE_ATTR: u32 = 0x8018_aee1;
    /// VFIO_GET_API_VERSION.
    pub(crate) const VFIO_GET_API_VERSION: u32 = 0x2000_3b64;
    /// VFIO_CHECK_EXTENSION.
    pub(crate) const VFIO_CHECK_EXTENSION: u32 = 0x2000_3b65;
    /// VFIO_SET_IOMMU.
    pub(crate) const VFIO_SET_IOMMU: u32 = 0x2000_3b66;
    /// VFIO_GROUP_GET_STATUS.
    pub(crate) const VFIO_GROUP_GET_STATUS: u32 = 0x2000_3b67;
    /// VFIO_GROUP_SET_CONTAINER.
    pub(crate) const VFIO_GROUP_SET_CONTAINER: u32 = 0x2000_3b68;
    /// VFIO_GROUP_UNSET_CONTAINER.
    pub(crate) const VFIO_GROUP_UNSET_CONTAINER: u32 = 0x2000_3b69;
    /// VFIO_GROUP_GET_DEVICE_FD.
    pub(crate) const VFIO_GROUP_GET_DEVICE_FD: u32 = 0x2000_3b6a;
    /// VFIO_DEVICE_GET_INFO.
    pub(crate) const VFIO_DEVICE_GET_INFO: u32 = 0x2000_3b6b;
    /// VFIO_DEVICE_GET_REGION_INFO.
    pub(crate) const VFIO_DEVICE_GET_REGION_INFO: u32 = 0x2000_3b6c;
    /// VFIO_DEVICE_GET_IRQ_INFO.
    pub(crate) const VFIO_DEVICE_GET_IRQ_INFO: u32 = 0x2000_3b6d;
    /// VFIO_DEVICE_SET_IRQS.
    pub(crate) const VFIO_DEVICE_SET_IRQS: u32 = 0x2000_3b6e;
    /// VFIO_DEVICE_RESET.
    pub(crate) const VFIO_DEVICE_RESET: u32 = 0x2000_3b6f;
    /// VFIO_IOMMU_SPAPR_TCE_GET_INFO.
    pub(crate) const VFIO_IOMMU_SPAPR_TCE_GET_INFO: u32 = 0x2000_3b70;
    /// VFIO_IOMMU_MAP_DMA.
    pub(crate) const VFIO_IOMMU_MAP_DMA: u32 = 0x2000_3b71;
    /// VFIO_DEVICE_PCI_HOT_RESET, of a device.
    pub(crate) const VFIO_DEVICE_PCI_HOT_RESET: u32 = VFIO_IOMMU_MAP_DMA;
    /// VFIO_IOMMU_UNMAP_DMA.
    pub(crate) const VFIO_IOMMU_UNMAP_DMA: u32 = 0x2000_3b72;
    /// VFIO_IOMMU_ENABLE.
    pub(crate) const VFIO_IOMMU_ENABLE: u32 = 0x2000_3b73;
    /// VFIO_IOMMU_SPAPR_REGISTER_MEMORY.
    pub(crate) const VFIO_IOMMU_SPAPR_REGISTER_MEMORY: u32 = 0x2000_3b75;
    /// VFIO_IOMMU_SPAPR_TCE_CREATE.
    pub(crate) const VFIO_IOMMU_SPAPR_TCE_CREATE: u32 = 0x2000_3b77;
    /// VFIO_IOMMU_SPAPR_TCE_REMOVE.
    pub(crate) const VFIO_IOMMU_SPAPR_TCE_REMOVE: u32 = 0x2000_3b78;
}

/// KVM_CAP_PPC_MMU_RADIX.
pub(crate) const KVM_CAP_PPC_MMU_RADIX: u32 = 134;

/// KVM_CAP_PPC_IRQ_XIVE.
pub(crate) const KVM_CAP_PPC_IRQ_XIVE: u32 = 169;

/// KVM_CAP_SPAPR_TCE_VFIO.
pub(crate) const KVM_CAP_SPAPR_TCE_VFIO: u32 = 142;

/// An ioctl that is not to reach the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// Its request number.
    pub(crate) request: u32,
    /// The low word of its argument, if only that is meant.
    pub(crate) argument: Option<u32>,
    /// The error, or 0 for an answer of 0.
    pub(crate) errno: u16,
}

/// Where the fields of `struct seccomp_data` are, on a little-endian machine.
const NUMBER: u32 = 0;
const SECOND_ARGUMENT: u32 = 16 + 8;
const THIRD_ARGUMENT: u32 = 16 + 2 * 8;

/// To run between fork and exec.
pub(crate) type Preparation = Box<dyn FnMut() -> io::Result<()> + Send + Sync>;

impl Refusal {
    /// What puts the filter into place in the process that calls it.
    pub(crate) fn preparation(&self) -> Preparation {
        let mut program = self.program();
        Box::new(move || install(&mut program))
    }

    fn program(&self) -> Vec<libc::sock_filter> {
        let mut tests = vec![
            (
                NUMBER,
                u32::try_from(libc::SYS_ioctl).expect("a small number"),
            ),
            (SECOND_ARGUMENT, self.request),
        ];
        tests.extend(self.argument.map(|argument| (THIRD_ARGUMENT, argument)));
        let instruction = |code: u32, k: u32, if_not: usize| libc::sock_filter {
            code: u16::try_from(code).expect("codes have 16 bits"),
            jt: 0,
            jf: u8::try_from(if_not).expect("a short program"),
            k,
        };
        let mut program = Vec::new();
        for (index, &(offset, value)) in tests.iter().enumerate() {
            // Over what is left of the tests and the refusal.
            let to_allow = 2 * (tests.len() - 1 - index) + 1;
            program.push(instruction(
                libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
                offset,
                0,
            ));
            program.push(instruction(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                value,
                to_allow,
            ));
        }
        let refuse = libc::SECCOMP_RET_ERRNO | u32::from(self.errno);
        program.push(instruction(libc::BPF_RET | libc::BPF_K, refuse, 0));
        program.push(instruction(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ALLOW,
            0,
        ));
        program
    }
}

fn install(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let length = libc::c_ushort::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_mut_ptr(),
    };
    set_no_new_privileges()?;
    // SAFETY: the program outlives the call, in which the kernel copies it.
    let answer = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What an ordinary user's process must do before it installs a filter.
pub(super) fn set_no_new_privileges() -> io::Result<()> {
    // SAFETY: the call changes what this process may do, no memory of it.
    let answer = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
