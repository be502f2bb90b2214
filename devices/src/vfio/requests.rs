//! VFIO's ioctl requests (include/uapi/linux/vfio.h), each named after the kind of file descriptor
//! it goes to.
//!
//! The kernel uses numbers twice: 112 to 116 and 117 to 120 mean one thing to a container and
//! another to a device. Whoever filters system calls sees the number alone.

use std::os::raw::c_ulong;

use vmm_sys_util::ioctl::{_IOC_NONE, ioctl_expr};

/// VFIO's ioctl type, `;`.
const TYPE: u32 = 0x3b;
/// The first of VFIO's ioctl numbers.
const BASE: u32 = 100;

const fn request(offset: u32) -> c_ulong {
    ioctl_expr(_IOC_NONE, TYPE, BASE + offset, 0)
}

/// VFIO_GET_API_VERSION.
pub const CONTAINER_GET_API_VERSION: c_ulong = request(0);
/// VFIO_CHECK_EXTENSION.
pub const CONTAINER_CHECK_EXTENSION: c_ulong = request(1);
/// VFIO_SET_IOMMU.
pub const CONTAINER_SET_IOMMU: c_ulong = request(2);
/// VFIO_IOMMU_SPAPR_TCE_GET_INFO.
pub const CONTAINER_SPAPR_TCE_GET_INFO: c_ulong = request(12);
/// VFIO_IOMMU_MAP_DMA.
pub const CONTAINER_MAP_DMA: c_ulong = request(13);
/// VFIO_IOMMU_UNMAP_DMA.
pub const CONTAINER_UNMAP_DMA: c_ulong = request(14);
/// VFIO_IOMMU_ENABLE (v1).
pub const CONTAINER_ENABLE: c_ulong = request(15);
/// VFIO_IOMMU_DISABLE (v1).
pub const CONTAINER_DISABLE: c_ulong = request(16);
/// VFIO_IOMMU_SPAPR_REGISTER_MEMORY (v2).
pub const CONTAINER_SPAPR_REGISTER_MEMORY: c_ulong = request(17);
/// VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY (v2).
pub const CONTAINER_SPAPR_UNREGISTER_MEMORY: c_ulong = request(18);
/// VFIO_IOMMU_SPAPR_TCE_CREATE (v2).
pub const CONTAINER_SPAPR_TCE_CREATE: c_ulong = request(19);
/// VFIO_IOMMU_SPAPR_TCE_REMOVE (v2).
pub const CONTAINER_SPAPR_TCE_REMOVE: c_ulong = request(20);

/// VFIO_EEH_PE_OP.
pub const CONTAINER_EEH_PE_OP: c_ulong = request(21);

/// VFIO_GROUP_GET_STATUS.
pub const GROUP_GET_STATUS: c_ulong = request(3);
/// VFIO_GROUP_SET_CONTAINER.
pub const GROUP_SET_CONTAINER: c_ulong = request(4);
/// VFIO_GROUP_UNSET_CONTAINER.
pub const GROUP_UNSET_CONTAINER: c_ulong = request(5);
/// VFIO_GROUP_GET_DEVICE_FD.
pub const GROUP_GET_DEVICE_FD: c_ulong = request(6);

/// VFIO_DEVICE_GET_INFO.
pub const DEVICE_GET_INFO: c_ulong = request(7);
/// VFIO_DEVICE_GET_REGION_INFO.
pub const DEVICE_GET_REGION_INFO: c_ulong = request(8);
/// VFIO_DEVICE_GET_IRQ_INFO.
pub const DEVICE_GET_IRQ_INFO: c_ulong = request(9);
/// VFIO_DEVICE_SET_IRQS.
pub const DEVICE_SET_IRQS: c_ulong = request(10);
/// VFIO_DEVICE_RESET.
pub const DEVICE_RESET: c_ulong = request(11);
/// VFIO_DEVICE_GET_PCI_HOT_RESET_INFO.
pub const DEVICE_GET_HOT_RESET_INFO: c_ulong = request(12);
/// VFIO_DEVICE_PCI_HOT_RESET.
pub const DEVICE_HOT_RESET: c_ulong = request(13);

/// All of them, for a filter of system calls.
pub const ALL: &[c_ulong] = &[
    CONTAINER_GET_API_VERSION,
    CONTAINER_CHECK_EXTENSION,
    CONTAINER_SET_IOMMU,
    CONTAINER_SPAPR_TCE_GET_INFO,
    CONTAINER_MAP_DMA,
    CONTAINER_UNMAP_DMA,
    CONTAINER_ENABLE,
    CONTAINER_DISABLE,
    CONTAINER_SPAPR_REGISTER_MEMORY,
    CONTAINER_SPAPR_UNREGISTER_MEMORY,
    CONTAINER_SPAPR_TCE_CREATE,
    CONTAINER_SPAPR_TCE_REMOVE,
    CONTAINER_EEH_PE_OP,
    GROUP_GET_STATUS,
    GROUP_SET_CONTAINER,
    GROUP_UNSET_CONTAINER,
    GROUP_GET_DEVICE_FD,
    DEVICE_GET_INFO,
    DEVICE_GET_REGION_INFO,
    DEVICE_GET_IRQ_INFO,
    DEVICE_SET_IRQS,
    DEVICE_RESET,
    DEVICE_GET_HOT_RESET_INFO,
    DEVICE_HOT_RESET,
];

// What the kernel's own headers give on powerpc. A build without the powerpc layout of ioctl
// numbers stops here.
#[cfg(target_arch = "powerpc64")]
const _: () = {
    assert!(CONTAINER_GET_API_VERSION == 0x2000_3b64);
    assert!(CONTAINER_CHECK_EXTENSION == 0x2000_3b65);
    assert!(CONTAINER_SET_IOMMU == 0x2000_3b66);
    assert!(GROUP_GET_STATUS == 0x2000_3b67);
    assert!(GROUP_SET_CONTAINER == 0x2000_3b68);
    assert!(GROUP_UNSET_CONTAINER == 0x2000_3b69);
    assert!(GROUP_GET_DEVICE_FD == 0x2000_3b6a);
    assert!(DEVICE_GET_INFO == 0x2000_3b6b);
    assert!(DEVICE_GET_REGION_INFO == 0x2000_3b6c);
    assert!(DEVICE_GET_IRQ_INFO == 0x2000_3b6d);
    assert!(DEVICE_SET_IRQS == 0x2000_3b6e);
    assert!(DEVICE_RESET == 0x2000_3b6f);
    assert!(CONTAINER_SPAPR_TCE_GET_INFO == 0x2000_3b70);
    assert!(CONTAINER_MAP_DMA == 0x2000_3b71);
    assert!(CONTAINER_UNMAP_DMA == 0x2000_3b72);
    assert!(CONTAINER_ENABLE == 0x2000_3b73);
    assert!(CONTAINER_DISABLE == 0x2000_3b74);
    assert!(CONTAINER_SPAPR_REGISTER_MEMORY == 0x2000_3b75);
    assert!(CONTAINER_SPAPR_UNREGISTER_MEMORY == 0x2000_3b76);
    assert!(CONTAINER_SPAPR_TCE_CREATE == 0x2000_3b77);
    assert!(CONTAINER_SPAPR_TCE_REMOVE == 0x2000_3b78);
    assert!(CONTAINER_EEH_PE_OP == 0x2000_3b79);
};
#[cfg(target_arch = "x86_64")]
const _: () = assert!(CONTAINER_GET_API_VERSION == 0x3b64 && CONTAINER_MAP_DMA == 0x3b71);
