//! Connecting to the programs that serve file systems of the host's (virtiofsd), for both front ends.

use std::sync::Arc;

use spapr_devices::virtio::{FsHost, FsRefusal};

use crate::spec::{MachineDescription, VirtualDeviceKind};

/// Why a file system cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// Its driver would give it bus addresses.
    #[error(
        "what serves a file system takes no bus addresses, which its driver would give it (iommu_platform)"
    )]
    BusAddresses,
    /// The program, or what was asked for.
    #[error(transparent)]
    Refused(#[from] FsRefusal),
}

/// Connects to those of the file systems of `description`.
///
/// # Errors
/// Why one cannot be had.
pub fn open(description: &MachineDescription) -> Result<Vec<Arc<FsHost>>, FsError> {
    let mut all = Vec::new();
    for device in &description.virtual_devices {
        let VirtualDeviceKind::FileSystem(wanted) = &device.kind else {
            continue;
        };
        if device.by_bus_address {
            return Err(FsError::BusAddresses);
        }
        let host = FsHost::connect(&wanted.socket, &wanted.tag, wanted.queue_size)?;
        all.push(Arc::new(host));
    }
    Ok(all)
}
