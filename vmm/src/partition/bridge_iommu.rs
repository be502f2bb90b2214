//! The IOMMU of a PCI host bridge: a group of the host's, or none where all functions are made by this process.

use std::sync::Arc;

use log::Level;
use spapr_devices::dma_windows::WindowHost;
use spapr_devices::guest_activity;
use spapr_devices::vfio::{Container, MemoryLimitError};
use spapr_hypercalls::address::{Ioba, Liobn, PageShift};
use spapr_hypercalls::tce::Permission;
use spapr_hypercalls::world::{BindRefusal, Geometry, HostError, HostIommu, HostRange};
use spapr_kvm::tce_table::TceTable;
use spapr_kvm::vm::Vm;

use super::host_iommu::GroupIommu;

/// What entries of a bridge's DMA windows are for.
#[derive(Debug)]
pub enum BridgeIommu {
    /// The hardware's, of an IOMMU group.
    Group(GroupIommu),
    /// Devices of this process alone, which look at the guest's view of its windows.
    Virtual(VirtualIommu),
}

/// Windows without hardware. A window's table is KVM's, bound to no group: H_PUT_TCE stays in the kernel and only
/// changes the view. Where KVM makes none, the engine keeps the view.
#[derive(Debug)]
pub struct VirtualIommu {
    vm: Arc<Vm>,
    has_tables: bool,
}

impl VirtualIommu {
    /// Windows of `vm`, whose KVM makes tables (KVM_CAP_SPAPR_TCE_64) if `has_tables`.
    pub(crate) const fn new(vm: Arc<Vm>, has_tables: bool) -> Self {
        Self { vm, has_tables }
    }

    fn bind(&self, liobn: Liobn, geometry: Geometry) -> Result<TceTable, BindRefusal> {
        TceTable::new(&self.vm, liobn, geometry).map_err(|error| {
            guest_activity!(Level::Debug, "{error}");
            BindRefusal::TableRefused(error.errno())
        })
    }
}

impl BridgeIommu {
    /// The container of its group, if it has one.
    pub fn container(&self) -> Option<&Container> {
        match self {
            Self::Group(group) => Some(group.container()),
            Self::Virtual(_) => None,
        }
    }
}

impl HostIommu for BridgeIommu {
    type KernelTable = TceTable;

    fn create_window(
        &self,
        page_shift: PageShift,
        entries: u64,
        place: Option<Ioba>,
    ) -> Result<Ioba, HostError> {
        match self {
            Self::Group(group) => group.create_window(page_shift, entries, place),
            // A window that may be anywhere is a dynamic one, and none is offered.
            Self::Virtual(_) => place.ok_or(HostError::Refused(libc::EINVAL)),
        }
    }

    fn remove_window(&self, bus_offset: Ioba) -> Result<(), HostError> {
        match self {
            Self::Group(group) => group.remove_window(bus_offset),
            Self::Virtual(_) => Ok(()),
        }
    }

    fn never_binds(&self) -> Option<BindRefusal> {
        match self {
            Self::Group(group) => group.never_binds(),
            Self::Virtual(iommu) => (!iommu.has_tables).then_some(BindRefusal::NoCapability),
        }
    }

    fn bind_kernel_table(&self, liobn: Liobn, geometry: Geometry) -> Result<TceTable, BindRefusal> {
        match self {
            Self::Group(group) => group.bind_kernel_table(liobn, geometry),
            Self::Virtual(iommu) => iommu.bind(liobn, geometry),
        }
    }

    fn registers_memory(&self) -> bool {
        match self {
            Self::Group(group) => group.registers_memory(),
            Self::Virtual(_) => false,
        }
    }

    fn register_memory(&self, range: HostRange) -> Result<(), HostError> {
        match self {
            Self::Group(group) => group.register_memory(range),
            Self::Virtual(_) => Ok(()),
        }
    }

    fn unregister_memory(&self, range: HostRange) -> Result<(), HostError> {
        match self {
            Self::Group(group) => group.unregister_memory(range),
            Self::Virtual(_) => Ok(()),
        }
    }

    fn holds_on_to(&self, range: HostRange) -> bool {
        match self {
            Self::Group(group) => group.holds_on_to(range),
            Self::Virtual(_) => false,
        }
    }

    fn settle(&self, range: HostRange) {
        if let Self::Group(group) = self {
            group.settle(range);
        }
    }

    #[inline]
    fn map(&self, ioba: Ioba, host: HostRange, permission: Permission) -> Result<(), HostError> {
        match self {
            Self::Group(group) => group.map(ioba, host, permission),
            Self::Virtual(_) => Ok(()),
        }
    }

    #[inline]
    fn unmap(&self, ioba: Ioba, bytes: u64) -> Result<(), HostError> {
        match self {
            Self::Group(group) => group.unmap(ioba, bytes),
            Self::Virtual(_) => Ok(()),
        }
    }
}

impl WindowHost for BridgeIommu {
    fn check_limit(
        &self,
        page_shift: PageShift,
        entries: u64,
        memory_bytes: u64,
        kernel_table: bool,
    ) -> Result<(), MemoryLimitError> {
        match self {
            Self::Group(group) => {
                group.check_limit(page_shift, entries, memory_bytes, kernel_table)
            }
            Self::Virtual(_) => Ok(()),
        }
    }

    fn share_window(&self, bytes: u64) -> Result<(), HostError> {
        match self {
            Self::Group(group) => group.share_window(bytes),
            Self::Virtual(_) => Err(HostError::Refused(libc::EINVAL)),
        }
    }

    fn unshare_window(&self) {
        if let Self::Group(group) = self {
            group.unshare_window();
        }
    }
}
