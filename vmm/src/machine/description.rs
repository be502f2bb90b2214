//! What a machine is to be: the same description whatever front end it came from.

use std::path::PathBuf;

use spapr_devices::vfio::PciAddress;

use crate::cli::{ByteSize, ConsoleKind, IommuMode, LockMode, RunArguments, TceMode};

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
    /// Version of the VFIO containers.
    pub iommu: IommuMode,
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
            iommu: arguments.iommu,
            console: arguments.console.clone(),
        }
    }
}
