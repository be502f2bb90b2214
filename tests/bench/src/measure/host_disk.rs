//! The NVMe that guests are passed, in the hands of the host's own driver: a disk to give guests by virtio.
//!
//! A file would do, but the lab has none that is not in memory: there a processor copies what a device would
//! bring by DMA, in more instructions than all that is compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use spapr_devices::vfio::PciAddress;

use super::{AnyError, tell};

const DRIVER: &str = "nvme";
/// How long its driver may take to find what is on it.
const LIMIT: Duration = Duration::from_secs(20);

/// The host's until it is dropped, then vfio-pci's again.
#[derive(Debug)]
pub(crate) struct HostDisk {
    device: PciAddress,
    path: PathBuf,
}

impl HostDisk {
    /// Takes an NVMe from vfio-pci.
    ///
    /// # Errors
    /// When the host's driver does not take it, or finds no namespace.
    pub(crate) fn take(device: PciAddress) -> Result<Self, AnyError> {
        let mut disk = Self {
            device,
            path: PathBuf::new(),
        };
        // From here on it is given back, whatever comes.
        bind(device, DRIVER)?;
        let start = Instant::now();
        disk.path = loop {
            if let Some(path) = namespace(device) {
                break path;
            }
            if start.elapsed() > LIMIT {
                return Err(
                    format!("{device}: the host's {DRIVER} driver finds no namespace").into(),
                );
            }
            thread::sleep(Duration::from_millis(50));
        };
        Ok(disk)
    }

    /// Its block device.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for HostDisk {
    fn drop(&mut self) {
        if let Err(error) = bind(self.device, "vfio-pci") {
            tell(&format!("{} stays with the host: {error}", self.device));
        }
    }
}

fn folder(device: PciAddress) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(device.to_string())
}

/// Hands a device to a driver (Documentation/ABI/testing/sysfs-bus-pci).
fn bind(device: PciAddress, driver: &str) -> Result<(), AnyError> {
    let folder = folder(device);
    let write = |path: &Path, text: &str| {
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    let bound = folder.join("driver");
    if bound.exists() {
        write(&bound.join("unbind"), &device.to_string())?;
    }
    write(&folder.join("driver_override"), driver)?;
    write(Path::new("/sys/bus/pci/drivers_probe"), &device.to_string())?;
    match bound.exists() {
        true => Ok(()),
        false => Err(format!("{device}: {driver} does not take it").into()),
    }
}

/// The block device of an NVMe's first namespace, once its driver has found it.
fn namespace(device: PciAddress) -> Option<PathBuf> {
    let controller = fs::read_dir(folder(device).join("nvme"))
        .ok()?
        .next()?
        .ok()?;
    let name = format!("{}n1", controller.file_name().to_str()?);
    let path = Path::new("/dev").join(name);
    path.exists().then_some(path)
}
