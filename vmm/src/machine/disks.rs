//! Opening a machine's disks.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use spapr_devices::dma::DmaMemory;
use spapr_devices::image::{Image, OpenError};
use spapr_devices::virtio::disk::{Disk, DiskFailures, DiskHost};
use vmm_sys_util::eventfd::EventFd;

use crate::sandbox;
use crate::spec::{Aio, DiskDescription, MachineDescription};

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
    let mut disks = Vec::new();
    for device in &description.virtual_devices {
        // Those of one device signal one event.
        let mut event = None;
        for disk in device.kind.disks() {
            let opened = open_one(disk, memory, &mut event)?;
            let opened = match failures {
                Some(failures) => opened.telling(Arc::clone(failures), disks.len()),
                None => opened,
            };
            disks.push(Arc::new(opened));
        }
    }
    Ok(disks)
}

fn open_one(
    disk: &DiskDescription,
    memory: &DmaMemory,
    event: &mut Option<Arc<EventFd>>,
) -> Result<Disk, DiskRefusal> {
    let path = || disk.image.path.clone();
    let image = Image::open(disk.image.clone()).map_err(|source| DiskRefusal::Image {
        path: path(),
        source,
    })?;
    let made = DiskHost::new(disk.aio == Aio::IoUring, sandbox::enter_disk).and_then(|own| {
        let event = Arc::clone(event.get_or_insert_with(|| Arc::clone(&own.event)));
        let host = DiskHost { event, ..own };
        Disk::new(image, disk.options.clone(), memory.clone(), host)
    });
    made.map_err(|source| DiskRefusal::Resource {
        path: path(),
        source,
    })
}
