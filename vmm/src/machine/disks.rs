//! Opening a machine's disks.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use spapr_devices::dma::DmaMemory;
use spapr_devices::image::{Image, OpenError};
use spapr_devices::virtio::block::{Disk, DiskFailures};

use crate::sandbox;
use crate::spec::{Aio, MachineDescription};

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskRefusal {
    /// Its image.
    #[error("{}", path.display())]
    Image {
        /// Where that is.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// There are no descriptors or threads left for it.
    #[error("{}: no descriptors or threads are left for it", path.display())]
    Resource {
        /// Where its image is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Opens the disks of `description`, for machines with `memory`; what the host fails they tell `failures`, by their
/// numbers from 0 on.
///
/// # Errors
/// Why one cannot be used; all are closed then.
pub(super) fn open(
    description: &MachineDescription,
    memory: &DmaMemory,
    failures: Option<&Arc<DiskFailures>>,
) -> Result<Vec<Arc<Disk>>, DiskRefusal> {
    let disks = description.disks().enumerate().map(|(number, (_, disk))| {
        let path = || disk.image.path.clone();
        let image = Image::open(disk.image.clone());
        let image = image.map_err(|source| DiskRefusal::Image {
            path: path(),
            source,
        })?;
        let made = Disk::new(
            image,
            disk.options.clone(),
            memory.clone(),
            disk.aio == Aio::IoUring,
            sandbox::enter_disk,
        );
        let path = path();
        let made = made.map(|disk| match failures {
            Some(failures) => disk.telling(Arc::clone(failures), number),
            None => disk,
        });
        made.map(Arc::new)
            .map_err(|source| DiskRefusal::Resource { path, source })
    });
    disks.collect()
}
