//! The kernel's TCE table of a LIOBN.
//!
//! With a table, KVM completes the guest's H_PUT_TCE for the LIOBN in the kernel. **A table that is
//! bound to no IOMMU group swallows entries**: the guest sees H_SUCCESS, and no hardware is told
//! (`kvmppc_h_put_tce` in arch/powerpc/kvm/book3s_64_vio.c). So a table lives only from binding
//! (`VfioKvmDevice::set_spapr_tce`) on, or without any passed-through device behind the LIOBN.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::AtomicU64;

use kvm_bindings::powerpc64::kvm_create_spapr_tce_64;
use spapr_hypercalls::address::{Ioba, Liobn, PageShift};
use spapr_hypercalls::world::{Geometry, KernelTable};
use vmm_sys_util::errno;

use crate::kernel::TableFd;
use crate::mapping::SharedMapping;
use crate::vm::Vm;

/// Why there is no kernel table.
#[derive(Debug, thiserror::Error)]
pub enum TceTableError {
    /// The window cannot be described to KVM.
    #[error(
        "the DMA window of LIOBN {liobn} at {bus_offset}, {entries:#x} pages of {page_shift}, \
         does not start at a page, is empty, or is larger than this process can map"
    )]
    Geometry {
        /// The LIOBN.
        liobn: Liobn,
        /// The window's first bus address.
        bus_offset: Ioba,
        /// The window's page size.
        page_shift: PageShift,
        /// The window's entries.
        entries: u64,
    },
    /// KVM refused to make it.
    #[error(
        "KVM_CREATE_SPAPR_TCE_64 failed for LIOBN {liobn}, {entries:#x} entries: {}",
        explain(.source.errno())
    )]
    Create {
        /// The LIOBN.
        liobn: Liobn,
        /// The window's entries.
        entries: u64,
        /// KVM's refusal.
        #[source]
        source: errno::Error,
    },
    /// The guest's view could not be mapped.
    #[error("cannot map the TCE table of LIOBN {liobn}, {bytes:#x} bytes")]
    Map {
        /// The LIOBN.
        liobn: Liobn,
        /// The size of the view.
        bytes: usize,
        /// Why.
        #[source]
        source: errno::Error,
    },
}

impl TceTableError {
    /// The errno of the refusal; EINVAL for a window that was not even tried.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Geometry { .. } => libc::EINVAL,
            Self::Create { source, .. } | Self::Map { source, .. } => source.errno(),
        }
    }
}

/// What a refusal of KVM_CREATE_SPAPR_TCE_64 means (`kvm_vm_ioctl_create_spapr_tce`).
fn explain(errno: i32) -> &'static str {
    match errno {
        libc::EBUSY => "the VM already has a table for it",
        libc::ENOMEM | libc::EPERM => {
            "the table counts as locked memory, 8 bytes an entry; raise RLIMIT_MEMLOCK"
        }
        _ => "the kernel takes no such window",
    }
}

/// A TCE table in the kernel, with the guest's view of it mapped. Dropping it destroys it, and the
/// guest's hypercalls for the LIOBN come to user space again.
#[derive(Debug)]
pub struct TceTable {
    liobn: Liobn,
    entries: usize,
    // The mapping holds the table too: both must go for the kernel to destroy it.
    view: SharedMapping,
    table: TableFd,
}

impl TceTable {
    /// Makes the table of `liobn` for a window of `geometry` (KVM_CREATE_SPAPR_TCE_64), all
    /// entries clear. From now on the kernel handles H_PUT_TCE and H_GET_TCE for it.
    ///
    /// # Errors
    /// [`TceTableError`]; there is no table then.
    pub fn new(vm: &Vm, liobn: Liobn, geometry: Geometry) -> Result<Self, TceTableError> {
        let (request, bytes) = request(liobn, geometry).ok_or(TceTableError::Geometry {
            liobn,
            bus_offset: geometry.bus_offset,
            page_shift: geometry.page_shift,
            entries: geometry.entries,
        })?;
        let created = vm.0.create_spapr_tce_64(&request);
        let table = created.map_err(|source| TceTableError::Create {
            liobn,
            entries: geometry.entries,
            source,
        })?;
        let view = SharedMapping::new(&table, bytes).map_err(|source| TceTableError::Map {
            liobn,
            bytes,
            source,
        })?;
        Ok(Self {
            liobn,
            entries: bytes / size_of::<u64>(),
            view,
            table,
        })
    }

    /// The LIOBN.
    pub fn liobn(&self) -> Liobn {
        self.liobn
    }
}

impl KernelTable for TceTable {
    #[inline]
    fn entries(&self) -> &[AtomicU64] {
        &self.view.doublewords()[..self.entries]
    }
}

impl AsRawFd for TceTable {
    fn as_raw_fd(&self) -> RawFd {
        self.table.as_raw_fd()
    }
}

/// What to ask KVM for, and the size of the view in bytes; `None` if the window cannot be had.
fn request(liobn: Liobn, geometry: Geometry) -> Option<(kvm_create_spapr_tce_64, usize)> {
    let Geometry {
        bus_offset,
        page_shift,
        entries,
    } = geometry;
    let bytes = usize::try_from(entries)
        .ok()?
        .checked_mul(size_of::<u64>())?;
    if bytes == 0 || bus_offset.0 & page_shift.offset_mask() != 0 {
        return None;
    }
    let request = kvm_create_spapr_tce_64 {
        liobn: liobn.0.into(),
        page_shift: page_shift.get(),
        flags: 0,
        offset: bus_offset.0 >> page_shift.get(),
        size: entries,
    };
    Some((request, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIOBN: Liobn = Liobn::of_pci_window(0, 1);

    fn geometry(bus_offset: u64, page_shift: PageShift, entries: u64) -> Geometry {
        Geometry {
            bus_offset: Ioba(bus_offset),
            page_shift,
            entries,
        }
    }

    #[test]
    fn offset_and_size_are_passed_in_pages() {
        let (request, bytes) =
            request(LIOBN, geometry(1 << 59, PageShift::SIZE_64K, 0x4000)).unwrap();
        assert_eq!(request.liobn, 0x8000_0001);
        assert_eq!((request.page_shift, request.flags), (16, 0));
        assert_eq!((request.offset, request.size), (1 << 43, 0x4000));
        assert_eq!(bytes, 0x2_0000);
    }

    #[test]
    fn impossible_windows_are_refused_before_the_kernel_is_asked() {
        assert!(request(LIOBN, geometry(0x1000, PageShift::SIZE_64K, 1)).is_none());
        assert!(request(LIOBN, geometry(0, PageShift::SIZE_4K, 0)).is_none());
        assert!(request(LIOBN, geometry(0, PageShift::SIZE_4K, u64::MAX / 8 + 1)).is_none());
    }

    #[test]
    fn a_locked_memory_refusal_names_the_limit() {
        let error = TceTableError::Create {
            liobn: LIOBN,
            entries: 0x40000,
            source: errno::Error::new(libc::ENOMEM),
        };
        assert_eq!(error.errno(), libc::ENOMEM);
        assert!(error.to_string().contains("RLIMIT_MEMLOCK"));
        assert!(error.to_string().contains("0x80000001"));
    }
}
