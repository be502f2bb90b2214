//! The numbers of the KVM calls that `kvm-ioctls` does not make on powerpc64 (`linux/kvm.h`).

use std::os::raw::{c_int, c_ulong};

use kvm_bindings::powerpc64::{
    KVMIO, kvm_create_device, kvm_create_spapr_tce_64, kvm_device_attr, kvm_enable_cap,
    kvm_ioeventfd, kvm_irqfd, kvm_one_reg, kvm_ppc_cpu_char, kvm_ppc_mmuv3_cfg, kvm_ppc_rmmu_info,
    kvm_regs, kvm_rtas_token_args, kvm_sregs, kvm_userspace_memory_region,
};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};

/// The call `nr` in direction `dir` that passes a `T`.
const fn number<T>(dir: u32, nr: u32) -> c_ulong {
    assert!(
        size_of::<T>() < 1 << 13,
        "too large to be passed by an ioctl"
    );
    #[expect(clippy::cast_possible_truncation, reason = "checked just above")]
    ioctl_expr(dir, KVMIO, nr, size_of::<T>() as u32)
}

pub(super) const KVM_RUN: c_ulong = plain(0x80);
pub(super) const KVM_IRQFD: c_ulong = number::<kvm_irqfd>(_IOC_WRITE, 0x76);
pub(super) const KVM_GET_SREGS: c_ulong = number::<kvm_sregs>(_IOC_READ, 0x83);
pub(super) const KVM_ENABLE_CAP: c_ulong = number::<kvm_enable_cap>(_IOC_WRITE, 0xa3);
pub(super) const KVM_CREATE_SPAPR_TCE_64: c_ulong =
    number::<kvm_create_spapr_tce_64>(_IOC_WRITE, 0xa8);
pub(super) const KVM_PPC_RTAS_DEFINE_TOKEN: c_ulong =
    number::<kvm_rtas_token_args>(_IOC_WRITE, 0xac);
pub(super) const KVM_PPC_CONFIGURE_V3_MMU: c_ulong = number::<kvm_ppc_mmuv3_cfg>(_IOC_WRITE, 0xaf);
pub(super) const KVM_PPC_GET_RMMU_INFO: c_ulong = number::<kvm_ppc_rmmu_info>(_IOC_WRITE, 0xb0);
pub(super) const KVM_PPC_GET_CPU_CHAR: c_ulong = number::<kvm_ppc_cpu_char>(_IOC_READ, 0xb1);

/// A call without an argument that is passed by address.
const fn plain(nr: u32) -> c_ulong {
    ioctl_expr(_IOC_NONE, KVMIO, nr, 0)
}

/// All calls of KVM that this program makes, those of `kvm-ioctls` among them, for a filter of
/// system calls.
pub const REQUESTS: &[c_ulong] = &[
    KVM_RUN, // the one that is made most
    KVM_IRQFD,
    KVM_GET_SREGS,
    KVM_ENABLE_CAP,
    KVM_CREATE_SPAPR_TCE_64,
    KVM_PPC_RTAS_DEFINE_TOKEN,
    KVM_PPC_CONFIGURE_V3_MMU,
    KVM_PPC_GET_RMMU_INFO,
    KVM_PPC_GET_CPU_CHAR,
    plain(0x00),                                               // KVM_GET_API_VERSION
    plain(0x01),                                               // KVM_CREATE_VM
    plain(0x03),                                               // KVM_CHECK_EXTENSION
    plain(0x04),                                               // KVM_GET_VCPU_MMAP_SIZE
    plain(0x41),                                               // KVM_CREATE_VCPU
    number::<kvm_userspace_memory_region>(_IOC_WRITE, 0x46),   // KVM_SET_USER_MEMORY_REGION
    number::<kvm_ioeventfd>(_IOC_WRITE, 0x79),                 // KVM_IOEVENTFD
    number::<kvm_regs>(_IOC_READ, 0x81),                       // KVM_GET_REGS
    number::<kvm_regs>(_IOC_WRITE, 0x82),                      // KVM_SET_REGS
    number::<kvm_one_reg>(_IOC_WRITE, 0xab),                   // KVM_GET_ONE_REG
    number::<kvm_one_reg>(_IOC_WRITE, 0xac),                   // KVM_SET_ONE_REG
    number::<kvm_create_device>(_IOC_READ | _IOC_WRITE, 0xe0), // KVM_CREATE_DEVICE
    number::<kvm_device_attr>(_IOC_WRITE, 0xe1),               // KVM_SET_DEVICE_ATTR
    number::<kvm_device_attr>(_IOC_WRITE, 0xe2),               // KVM_GET_DEVICE_ATTR
    number::<kvm_device_attr>(_IOC_WRITE, 0xe3),               // KVM_HAS_DEVICE_ATTR
];

/// What an ioctl returned, as a result with its errno.
#[inline]
pub(super) fn check(returned: c_int) -> errno::Result<c_int> {
    if returned < 0 {
        Err(errno::Error::last())
    } else {
        Ok(returned)
    }
}

// The numbers of the powerpc kernel. Were one of the two packages of ours that stand in for
// registry crates to drop out of the build, the layout would be another architecture's, and this
// would not compile. See docs/rust-vmm-ppc64.md.
const _: () = {
    use kvm_bindings::{
        kvm_create_device, kvm_device_attr, kvm_one_reg, kvm_regs, kvm_run,
        kvm_userspace_memory_region, kvm_vfio_spapr_tce,
    };
    use vmm_sys_util::ioctl::_IOC_NONE;

    // Made by kvm-ioctls through the same `ioctl_expr`.
    assert!(ioctl_expr(_IOC_NONE, KVMIO, 0x00, 0) == 0x2000_ae00); // KVM_GET_API_VERSION
    assert!(ioctl_expr(_IOC_NONE, KVMIO, 0x01, 0) == 0x2000_ae01); // KVM_CREATE_VM
    assert!(ioctl_expr(_IOC_NONE, KVMIO, 0x03, 0) == 0x2000_ae03); // KVM_CHECK_EXTENSION
    assert!(ioctl_expr(_IOC_NONE, KVMIO, 0x41, 0) == 0x2000_ae41); // KVM_CREATE_VCPU
    assert!(number::<kvm_userspace_memory_region>(_IOC_WRITE, 0x46) == 0x8020_ae46);
    assert!(number::<kvm_regs>(_IOC_READ, 0x81) == 0x4188_ae81);
    assert!(number::<kvm_one_reg>(_IOC_WRITE, 0xab) == 0x8010_aeab);
    assert!(number::<kvm_create_device>(_IOC_READ | _IOC_WRITE, 0xe0) == 0xc00c_aee0);
    assert!(number::<kvm_device_attr>(_IOC_WRITE, 0xe1) == 0x8018_aee1);

    assert!(KVM_RUN == 0x2000_ae80);
    assert!(KVM_IRQFD == 0x8020_ae76);
    assert!(KVM_GET_SREGS == 0x44d0_ae83);
    assert!(KVM_ENABLE_CAP == 0x8068_aea3);
    assert!(KVM_CREATE_SPAPR_TCE_64 == 0x8020_aea8);
    assert!(KVM_PPC_RTAS_DEFINE_TOKEN == 0x8080_aeac);
    assert!(KVM_PPC_CONFIGURE_V3_MMU == 0x8010_aeaf);
    assert!(KVM_PPC_GET_RMMU_INFO == 0x8060_aeb0);
    assert!(KVM_PPC_GET_CPU_CHAR == 0x4020_aeb1);

    assert!(size_of::<kvm_vfio_spapr_tce>() == 8);
    assert!(size_of::<kvm_run>() == 2352);
    assert!(std::mem::offset_of!(kvm_run, exit_reason) == 8);
    assert!(std::mem::offset_of!(kvm_run, __bindgen_anon_1) == 32);
};

#[cfg(test)]
mod tests {
    use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iow_nr, ioctl_iowr_nr};

    ioctl_io_nr!(KVM_RUN, super::KVMIO, 0x80);
    ioctl_ior_nr!(KVM_GET_REGS, super::KVMIO, 0x81, kvm_bindings::kvm_regs);
    ioctl_iow_nr!(
        KVM_SET_USER_MEMORY_REGION,
        super::KVMIO,
        0x46,
        kvm_bindings::kvm_userspace_memory_region
    );
    ioctl_iowr_nr!(
        KVM_CREATE_DEVICE,
        super::KVMIO,
        0xe0,
        kvm_bindings::kvm_create_device
    );

    #[test]
    fn the_macros_that_kvm_ioctls_declares_its_calls_with_give_powerpc_numbers() {
        assert_eq!(KVM_RUN(), 0x2000_ae80);
        assert_eq!(KVM_GET_REGS(), 0x4188_ae81);
        assert_eq!(KVM_SET_USER_MEMORY_REGION(), 0x8020_ae46);
        assert_eq!(KVM_CREATE_DEVICE(), 0xc00c_aee0);
    }
}
