//! The memory that a container's devices may reach: registering, mapping, unmapping.

use std::any::Any;
use std::os::fd::AsFd;

use spapr_hypercalls::address::{HostVirtualAddress, Ioba};
use spapr_hypercalls::tce::Permission;
use spapr_hypercalls::world::{HostError, HostRange};
use vfio_bindings::bindings::vfio::{
    VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, vfio_iommu_spapr_register_memory,
    vfio_iommu_type1_dma_map, vfio_iommu_type1_dma_unmap,
};
use vfio_ioctls::{VfioError, VfioOps};
use vm_memory::MmapRegion;
use vmm_sys_util::errno::Error as Errno;

use super::container::Container;
use super::{argument_size, host_page_bytes, kernel};

/// Why memory cannot be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// The kernel's errno: ENOMEM when RLIMIT_MEMLOCK does not allow it, EINVAL when the range
    /// overlaps a registered one or is not made of whole pages, EBUSY when it is registered
    /// already.
    #[error("VFIO_IOMMU_SPAPR_REGISTER_MEMORY failed: {0}")]
    Refused(Errno),
    /// The kernel pinned only this many pages of the last batch and gave up: it returns their
    /// number instead of an error (`mm_iommu_do_alloc` in arch/powerpc/mm/book3s64/iommu_api.c),
    /// and nothing is registered. Huge pages that ran out do this.
    #[error(
        "VFIO_IOMMU_SPAPR_REGISTER_MEMORY pinned only part of the memory ({0} pages of its last \
         batch) and registered nothing: is there enough memory, and are there enough huge pages?"
    )]
    Partial(u32),
}

impl From<RegisterError> for HostError {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Refused(errno) => host_error(errno),
            RegisterError::Partial(_) => Self::OutOfResources(libc::ENOMEM),
        }
    }
}

/// What an errno of a container's ioctl means to the TCE engine.
pub fn host_error(errno: Errno) -> HostError {
    match errno.errno() {
        errno @ (libc::ENOMEM | libc::ENOSPC | libc::EAGAIN) => HostError::OutOfResources(errno),
        errno => HostError::Refused(errno),
    }
}

impl Container {
    /// Pins `range` of this process' memory, whole pages of the host, so that it can be mapped
    /// (v2). The kernel accounts for it at once, once for each process.
    ///
    /// # Errors
    /// Nothing is registered then. A v1 container knows no such call (ENOTTY).
    pub fn register_memory(&self, range: HostRange) -> Result<(), RegisterError> {
        match kernel::container_register_memory(self.as_fd(), &memory(range)) {
            Ok(0) => Ok(()),
            Ok(pages) => Err(RegisterError::Partial(pages)),
            Err(errno) => Err(RegisterError::Refused(errno)),
        }
    }

    /// Undoes [`Container::register_memory`] of exactly `range`, which no entry of any window may
    /// map, nor come to map meanwhile because a guest runs.
    ///
    /// The kernel does not refuse it otherwise: it says that it succeeded, forgets that the
    /// container registered the range, and keeps the memory pinned, accounted for while the
    /// process lives and pinned even after that. (`tce_iommu_unregister_pages` ignores what its
    /// last `mm_iommu_put` returns; seen on Linux 6.12, with a warning in `destroy_context` when
    /// the process ends.) And a mapping made in the same moment may be reported as made when it
    /// is not.
    ///
    /// # Errors
    /// ENOENT when it is not registered with this container.
    pub fn unregister_memory(&self, range: HostRange) -> Result<(), Errno> {
        kernel::container_unregister_memory(self.as_fd(), &memory(range))
    }

    /// Has a v2 container unmap although nothing has been registered with it.
    ///
    /// The kernel enables a container when memory is first registered with it, for good, and has it
    /// refuse to unmap before (EPERM; `tce_iommu_register_pages` and VFIO_IOMMU_UNMAP_DMA in
    /// drivers/vfio/vfio_iommu_spapr_tce.c). KVM, when it maps, asks whether *any* container of the
    /// process has the memory registered (`mm_iommu_lookup` in kvmppc_tce_iommu_do_map,
    /// arch/powerpc/kvm/book3s_64_vio.c), so there may be something to unmap.
    ///
    /// # Errors
    /// A page cannot be locked for a moment.
    pub fn enable_unmapping(&self) -> Result<(), RegisterError> {
        let bytes = host_page_bytes();
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        let no_memory = |_| RegisterError::Refused(Errno::new(libc::ENOMEM));
        let page = MmapRegion::<()>::new(length).map_err(no_memory)?;
        let range = HostRange {
            start: HostVirtualAddress(page.as_ptr().addr() as u64),
            bytes,
        };
        self.register_memory(range)?;
        self.unregister_memory(range)
            .map_err(RegisterError::Refused)
    }

    /// Whether the kernel holds on to `range`, several pages that no container of this process has
    /// registered any more: see [`Container::unregister_memory`] for how that comes about, with mappings
    /// that there are or that the kernel has miscounted.
    ///
    /// The kernel has no call that tells. But it takes no range that overlaps one which it has
    /// (`mm_iommu_do_alloc` in arch/powerpc/mm/book3s64/iommu_api.c), and so shows it when a part is registered.
    pub fn holds_on_to(&self, range: HostRange) -> bool {
        let page = HostRange {
            start: range.start,
            bytes: host_page_bytes(),
        };
        if range.bytes <= page.bytes {
            return false;
        }
        match self.register_memory(page) {
            Ok(()) => self.unregister_memory(page).is_err(),
            Err(RegisterError::Refused(errno)) if errno.errno() == libc::EINVAL => true,
            // It first asks the limit, in which what it keeps counts. Where that is not why, the page could not
            // be moved to where it may be pinned for long; one that is kept is there.
            Err(_) => self.check_limit(page.bytes).is_err(),
        }
    }

    /// Maps `host` at bus address `ioba`: whole IOMMU pages, in one window and, for v2, in one
    /// registered range. Entries that are live are replaced. `permission` is not
    /// [`Permission::NONE`].
    ///
    /// # Errors
    /// The kernel's errno: EINVAL for what is not aligned, in no registered range, or without
    /// permission; ENXIO outside every window; EPERM when nothing at all is registered (v2) or the
    /// container is not enabled (v1), or when IOMMU pages are larger than the memory's; ENOMEM.
    /// What it had mapped before the failure is cleared again.
    ///
    /// # Safety
    /// Until the pages are unmapped or the container is closed, a device reads and writes them at
    /// any time. No Rust reference to that memory may exist or be made in this time, and it must
    /// not be freed for other uses: it is memory of the guest, or of a kind with it.
    #[inline]
    pub unsafe fn map(
        &self,
        ioba: Ioba,
        host: HostRange,
        permission: Permission,
    ) -> Result<(), Errno> {
        let read = if permission.can_read() {
            VFIO_DMA_MAP_FLAG_READ
        } else {
            0
        };
        let write = if permission.can_write() {
            VFIO_DMA_MAP_FLAG_WRITE
        } else {
            0
        };
        let map = vfio_iommu_type1_dma_map {
            argsz: argument_size::<vfio_iommu_type1_dma_map>(),
            flags: read | write,
            vaddr: host.start.0,
            iova: ioba.0,
            size: host.bytes,
        };
        // SAFETY: the caller answers for the memory.
        unsafe { kernel::container_map_dma(self.as_fd(), &map) }
    }

    /// Clears `bytes` of entries at bus address `ioba`. Entries that map nothing are no error.
    ///
    /// # Errors
    /// The kernel's errno: EINVAL for what is not aligned or too long, ENXIO outside every
    /// window.
    #[inline]
    pub fn unmap(&self, ioba: Ioba, bytes: u64) -> Result<(), Errno> {
        let mut unmap = vfio_iommu_type1_dma_unmap {
            argsz: argument_size::<vfio_iommu_type1_dma_unmap>(),
            flags: 0,
            iova: ioba.0,
            size: bytes,
            ..Default::default()
        };
        kernel::container_unmap_dma(self.as_fd(), &mut unmap)
    }
}

/// DMA as rust-vmm's devices ask for it: readable and writable.
impl VfioOps for Container {
    unsafe fn vfio_dma_map(
        &self,
        iova: u64,
        size: usize,
        user_addr: *mut u8,
    ) -> Result<(), VfioError> {
        let host = HostRange {
            start: HostVirtualAddress(user_addr.expose_provenance() as u64),
            bytes: size as u64,
        };
        // SAFETY: the trait asks of the caller what `map` asks.
        unsafe { self.map(Ioba(iova), host, Permission::READ_WRITE) }
            .map_err(VfioError::IommuDmaMap)
    }

    fn vfio_dma_unmap(&self, iova: u64, size: usize) -> Result<(), VfioError> {
        self.unmap(Ioba(iova), size as u64)
            .map_err(VfioError::IommuDmaUnmap)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn memory(range: HostRange) -> vfio_iommu_spapr_register_memory {
    vfio_iommu_spapr_register_memory {
        argsz: argument_size::<vfio_iommu_spapr_register_memory>(),
        flags: 0,
        vaddr: range.start.0,
        size: range.bytes,
    }
}
