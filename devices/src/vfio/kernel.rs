//! VFIO's system calls, one function each, and nothing else.
//!
//! Tests put a model of the kernel in this module's place (`kernel_model.rs`), so that the code
//! above it carries no parameter for the sake of tests.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::raw::{c_int, c_ulong};
use std::path::Path;

use vfio_bindings::bindings::vfio::{
    vfio_device_info, vfio_eeh_pe_op, vfio_group_status, vfio_iommu_spapr_register_memory,
    vfio_iommu_spapr_tce_create, vfio_iommu_spapr_tce_info, vfio_iommu_spapr_tce_remove,
    vfio_iommu_type1_dma_map, vfio_iommu_type1_dma_unmap, vfio_irq_info,
};
use vmm_sys_util::errno::Error as Errno;
use vmm_sys_util::ioctl::{
    ioctl, ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val,
};

use super::memory_limit::{MemoryLimit, MemoryLimitError};
use super::requests::*;

/// Opens a device node for reading and writing, close-on-exec (as the standard library always
/// does).
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .map(OwnedFd::from)
}

/// This process' limit on locked memory.
pub(super) fn memory_limit() -> Result<MemoryLimit, MemoryLimitError> {
    MemoryLimit::current()
}

/// What an ioctl that returns a number returned.
#[inline(always)]
fn number(returned: c_int) -> Result<u32, Errno> {
    u32::try_from(returned).map_err(|_| Errno::last())
}

/// What an ioctl that returns nothing but success returned. Some return a positive number and
/// have done nothing; where that number means something, the caller uses [`number`].
#[inline(always)]
fn nothing(returned: c_int) -> Result<(), Errno> {
    match number(returned)? {
        0 => Ok(()),
        _ => Err(Errno::new(libc::EIO)),
    }
}

pub(super) fn container_get_api_version(container: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: the request takes no argument.
    number(unsafe { ioctl(&container, CONTAINER_GET_API_VERSION) })
}

pub(super) fn container_check_extension(
    container: BorrowedFd<'_>,
    extension: u32,
) -> Result<bool, Errno> {
    let extension = c_ulong::from(extension);
    // SAFETY: the request takes a number.
    number(unsafe { ioctl_with_val(&container, CONTAINER_CHECK_EXTENSION, extension) })
        .map(|answer| answer != 0)
}

pub(super) fn container_set_iommu(container: BorrowedFd<'_>, iommu: u32) -> Result<(), Errno> {
    // SAFETY: the request takes a number.
    nothing(unsafe { ioctl_with_val(&container, CONTAINER_SET_IOMMU, c_ulong::from(iommu)) })
}

pub(super) fn container_enable(container: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the request takes no argument.
    nothing(unsafe { ioctl(&container, CONTAINER_ENABLE) })
}

pub(super) fn container_disable(container: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the request takes no argument.
    nothing(unsafe { ioctl(&container, CONTAINER_DISABLE) })
}

pub(super) fn container_get_info(
    container: BorrowedFd<'_>,
    info: &mut vfio_iommu_spapr_tce_info,
) -> Result<(), Errno> {
    // SAFETY: the request fills the structure it is given, as far as its `argsz` says.
    nothing(unsafe { ioctl_with_mut_ref(&container, CONTAINER_SPAPR_TCE_GET_INFO, info) })
}

pub(super) fn container_create_window(
    container: BorrowedFd<'_>,
    window: &mut vfio_iommu_spapr_tce_create,
) -> Result<(), Errno> {
    // SAFETY: the request reads and writes the structure it is given.
    nothing(unsafe { ioctl_with_mut_ref(&container, CONTAINER_SPAPR_TCE_CREATE, window) })
}

pub(super) fn container_remove_window(
    container: BorrowedFd<'_>,
    window: &vfio_iommu_spapr_tce_remove,
) -> Result<(), Errno> {
    // SAFETY: the request reads the structure it is given.
    nothing(unsafe { ioctl_with_ref(&container, CONTAINER_SPAPR_TCE_REMOVE, window) })
}

/// The number may be positive, and then nothing is registered.
pub(super) fn container_register_memory(
    container: BorrowedFd<'_>,
    memory: &vfio_iommu_spapr_register_memory,
) -> Result<u32, Errno> {
    // SAFETY: the request reads the structure it is given. It pins the memory named there but
    // lets no device at it.
    number(unsafe { ioctl_with_ref(&container, CONTAINER_SPAPR_REGISTER_MEMORY, memory) })
}

pub(super) fn container_unregister_memory(
    container: BorrowedFd<'_>,
    memory: &vfio_iommu_spapr_register_memory,
) -> Result<(), Errno> {
    // SAFETY: the request reads the structure it is given.
    nothing(unsafe { ioctl_with_ref(&container, CONTAINER_SPAPR_UNREGISTER_MEMORY, memory) })
}

/// # Safety
/// A device can reach the mapped memory until it is unmapped: see `Container::map`.
#[inline]
pub(super) unsafe fn container_map_dma(
    container: BorrowedFd<'_>,
    map: &vfio_iommu_type1_dma_map,
) -> Result<(), Errno> {
    // SAFETY: the request reads the structure it is given; the caller answers for the memory.
    nothing(unsafe { ioctl_with_ref(&container, CONTAINER_MAP_DMA, map) })
}

#[inline]
pub(super) fn container_unmap_dma(
    container: BorrowedFd<'_>,
    unmap: &mut vfio_iommu_type1_dma_unmap,
) -> Result<(), Errno> {
    // SAFETY: the request reads the structure it is given, and with no flags nothing behind it.
    nothing(unsafe { ioctl_with_mut_ref(&container, CONTAINER_UNMAP_DMA, unmap) })
}

/// The number is a state, for the operation that asks for it.
pub(super) fn container_eeh_pe_op(
    container: BorrowedFd<'_>,
    operation: &vfio_eeh_pe_op,
) -> Result<u32, Errno> {
    // SAFETY: the request reads the structure it is given.
    number(unsafe { ioctl_with_ref(&container, CONTAINER_EEH_PE_OP, operation) })
}

pub(super) fn group_get_status(
    group: BorrowedFd<'_>,
    status: &mut vfio_group_status,
) -> Result<(), Errno> {
    // SAFETY: the request fills the structure it is given.
    nothing(unsafe { ioctl_with_mut_ref(&group, GROUP_GET_STATUS, status) })
}

pub(super) fn group_set_container(
    group: BorrowedFd<'_>,
    container: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let container: c_int = container.as_raw_fd();
    // SAFETY: the request reads the number of a file descriptor, which is open.
    nothing(unsafe { ioctl_with_ref(&group, GROUP_SET_CONTAINER, &container) })
}

pub(super) fn group_unset_container(group: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the request takes no argument.
    nothing(unsafe { ioctl(&group, GROUP_UNSET_CONTAINER) })
}

/// The kernel opens it close-on-exec.
pub(super) fn group_get_device_fd(group: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: the request reads the terminated string it is given.
    let returned = unsafe { ioctl_with_ptr(&group, GROUP_GET_DEVICE_FD, name.as_ptr()) };
    number(returned)?;
    // SAFETY: the kernel has just opened this file descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(returned) })
}

pub(super) fn device_get_info(
    device: BorrowedFd<'_>,
    info: &mut vfio_device_info,
) -> Result<(), Errno> {
    // SAFETY: the request fills the structure it is given, as far as its `argsz` says.
    nothing(unsafe { ioctl_with_mut_ref(&device, DEVICE_GET_INFO, info) })
}

/// `words` holds a `vfio_region_info` and room for its capabilities. `argsz`, the first word, is
/// set here to the size of it all.
pub(super) fn device_get_region_info(
    device: BorrowedFd<'_>,
    words: &mut [u32],
) -> Result<(), Errno> {
    let bytes = u32::try_from(size_of_val(words)).map_err(|_| Errno::new(libc::EINVAL))?;
    *words.first_mut().ok_or(Errno::new(libc::EINVAL))? = bytes;
    // SAFETY: the request writes no further than `argsz`, the slice's own size, says.
    nothing(unsafe { ioctl_with_mut_ptr(&device, DEVICE_GET_REGION_INFO, words.as_mut_ptr()) })
}

pub(super) fn device_get_irq_info(
    device: BorrowedFd<'_>,
    info: &mut vfio_irq_info,
) -> Result<(), Errno> {
    // SAFETY: the request fills the structure it is given.
    nothing(unsafe { ioctl_with_mut_ref(&device, DEVICE_GET_IRQ_INFO, info) })
}

/// `words` holds a `vfio_irq_set` with its data. `argsz`, the first word, is set here to the size
/// of it all. A positive number is how many vectors there could be, and then nothing is set.
pub(super) fn device_set_irqs(device: BorrowedFd<'_>, words: &mut [u32]) -> Result<u32, Errno> {
    let bytes = u32::try_from(size_of_val(words)).map_err(|_| Errno::new(libc::EINVAL))?;
    *words.first_mut().ok_or(Errno::new(libc::EINVAL))? = bytes;
    // SAFETY: the request reads no further than `argsz`, the slice's own size, says.
    number(unsafe { ioctl_with_ptr(&device, DEVICE_SET_IRQS, words.as_ptr()) })
}

pub(super) fn device_reset(device: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the request takes no argument.
    nothing(unsafe { ioctl(&device, DEVICE_RESET) })
}

/// `words` holds a `vfio_pci_hot_reset_info` and room for the functions. `argsz`, the first word, is set here to the
/// size of it all.
pub(super) fn device_get_hot_reset_info(
    device: BorrowedFd<'_>,
    words: &mut [u32],
) -> Result<(), Errno> {
    let bytes = u32::try_from(size_of_val(words)).map_err(|_| Errno::new(libc::EINVAL))?;
    *words.first_mut().ok_or(Errno::new(libc::EINVAL))? = bytes;
    // SAFETY: the request writes no further than `argsz`, the slice's own size, says.
    nothing(unsafe { ioctl_with_mut_ptr(&device, DEVICE_GET_HOT_RESET_INFO, words.as_mut_ptr()) })
}

/// Shows the kernel the descriptors of `groups`.
pub(super) fn device_hot_reset(
    device: BorrowedFd<'_>,
    groups: &[std::os::fd::RawFd],
) -> Result<(), Errno> {
    let mut words = vec![0, 0, 0];
    words[2] = u32::try_from(groups.len()).map_err(|_| Errno::new(libc::EINVAL))?;
    words.extend(groups.iter().map(|group| group.cast_unsigned()));
    words[0] = u32::try_from(size_of_val(&words[..])).map_err(|_| Errno::new(libc::EINVAL))?;
    // SAFETY: the request reads no further than `argsz` and the count, both of the vector, say.
    nothing(unsafe { ioctl_with_ptr(&device, DEVICE_HOT_RESET, words.as_ptr()) })
}
