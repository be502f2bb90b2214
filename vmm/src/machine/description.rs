//! What a machine is to be: the same description whatever front end it came from.

use std::path::PathBuf;

use spapr_devices::vfio::PciAddress;
use spapr_hypercalls::address::{Ioba, PageShift};
use spapr_hypercalls::locking::RegionSize;
use spapr_hypercalls::world::Geometry;

use crate::cli::{ByteSize, ConsoleKind, DdwMode, IommuMode, LockMode, RunArguments, TceMode};
use crate::hugepages::HugepageSize;

/// The DMA window that every host bridge has from the start: 1 GiB of 4 KiB pages at bus address 0,
/// as QEMU gives it and as Linux takes for granted where there is no other.
pub const DEFAULT_WINDOW: Geometry = Geometry {
    bus_offset: Ioba(0),
    page_shift: PageShift::SIZE_4K,
    entries: (1 << 30) >> 12,
};

/// A machine as the user asked for it.
#[derive(Clone, Debug)]
pub struct MachineDescription {
    /// Kernel to boot.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub command_line: String,
    /// Guest memory.
    pub memory: ByteSize,
    /// Number of processors.
    pub cpus: u32,
    /// PCI devices to pass through.
    pub vfio: Vec<PciAddress>,
    /// Who serves TCE hypercalls.
    pub tce: TceMode,
    /// When memory is locked.
    pub lock: LockMode,
    /// The regions in which it is locked; chosen by its size when not given.
    pub lock_region: Option<RegionSize>,
    /// Version of the VFIO containers.
    pub iommu: IommuMode,
    /// Which dynamic DMA windows the guest is offered.
    pub ddw: DdwMode,
    /// Huge pages behind guest memory; `None` for pages as the host has them.
    pub hugepages: Option<HugepageSize>,
    /// Where the terminal is.
    pub console: ConsoleKind,
}

impl From<&RunArguments> for MachineDescription {
    fn from(arguments: &RunArguments) -> Self {
        Self {
            kernel: arguments.kernel.clone(),
            initrd: arguments.initrd.clone(),
            command_line: arguments.append.clone(),
            memory: arguments.memory,
            cpus: arguments.cpus,
            vfio: arguments.vfio.clone(),
            tce: arguments.tce,
            lock: arguments.lock,
            lock_region: arguments.lock_region.map(|region| region.0),
            iommu: arguments.iommu,
            ddw: arguments.ddw,
            hugepages: arguments.hugepages,
            console: arguments.console.clone(),
        }
    }
}
