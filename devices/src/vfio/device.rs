//! A passed-through PCI function: its regions and its reset.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, vfio_device_info,
};
use vmm_sys_util::errno::Error as Errno;

use super::address::PciAddress;
use super::container::Container;
use super::interrupts::Enabled;
use super::region::{self, REGION_INFO_WORDS, Region, RegionIndex, RegionMapping};
use super::{argument_size, host_page_bytes, kernel};

/// How often a device is tried to be reset that the host holds, and the pause between.
const RESET_ATTEMPTS: u32 = 25;
const RESET_PAUSE: Duration = Duration::from_millis(20);

/// Why a device cannot be used, or not in this way.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The group does not give the device.
    #[error("cannot open PCI device {address} (VFIO_GROUP_GET_DEVICE_FD)")]
    Open {
        /// The device.
        address: PciAddress,
        /// Why: ENODEV when the group has no such device bound to vfio-pci.
        #[source]
        source: Errno,
    },
    /// The kernel wants to be shown a VF token, or another than it was (EACCES).
    #[error(
        "PCI device {address} is not given without the VF token that the user of its physical function has set \
         (VFIO_GROUP_GET_DEVICE_FD): it is a virtual function of one that is bound to vfio-pci, or that one itself, \
         with virtual functions in use. {}", match .was_shown {
            true => "The one in vf-token= is another",
            false => "Name the token by vf-token=UUID",
        }
    )]
    WantsToken {
        /// The device.
        address: PciAddress,
        /// Whether a token was shown.
        was_shown: bool,
    },
    /// A VF token was shown for a device that takes none (EINVAL).
    #[error(
        "PCI device {0} takes no VF token (VFIO_GROUP_GET_DEVICE_FD): it is neither a virtual function of one that is \
         bound to vfio-pci, nor a physical function with SR-IOV. Leave out its vf-token="
    )]
    TakesNoToken(PciAddress),
    /// VFIO says that it is no PCI device.
    #[error("VFIO does not take {0} for a PCI device")]
    NotPci(PciAddress),
    /// An ioctl of the device failed.
    #[error("{call} failed for PCI device {address}")]
    Call {
        /// Its name.
        call: &'static str,
        /// The device.
        address: PciAddress,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The host does something with the device that does not end soon (EAGAIN: the reset needs a lock
    /// that is held over an unbinding, `pci_try_reset_function` in drivers/pci/pci.c).
    #[error(
        "PCI device {0} was not reset: the host holds it, as it does while it is being unbound from its \
         driver or removed"
    )]
    Held(PciAddress),
    /// The kernel's description of a region makes no sense.
    #[error("the kernel's description of {region} of PCI device {address} is cut short")]
    Region {
        /// The region.
        region: RegionIndex,
        /// The device.
        address: PciAddress,
    },
    /// An access that does not lie in the region, or has another size than 1, 2, 4 or 8 bytes.
    #[error(
        "no access of {length} bytes at {offset:#x} is possible in {region} of PCI device \
         {address}, which has {bytes:#x} bytes"
    )]
    Access {
        /// The region.
        region: RegionIndex,
        /// The device.
        address: PciAddress,
        /// Where.
        offset: u64,
        /// How long.
        length: usize,
        /// The region's size.
        bytes: u64,
    },
    /// An access to the device failed.
    #[error("access to {region} of PCI device {address} failed at {offset:#x}")]
    Io {
        /// The region.
        region: RegionIndex,
        /// The device.
        address: PciAddress,
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A region cannot be mapped.
    #[error("cannot map {region} of PCI device {address}")]
    Map {
        /// The region.
        region: RegionIndex,
        /// The device.
        address: PciAddress,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An open PCI function.
///
/// The fields drop as they stand here: its file descriptor closes before the container may.
#[derive(Debug)]
pub struct Device {
    file: File,
    address: PciAddress,
    has_reset: bool,
    regions: Vec<Region>,
    /// Interrupts that are enabled, of the one kind that may be at a time. Held over the ioctls
    /// that change it, and over nothing else.
    pub(super) enabled: Mutex<Option<Enabled>>,
    container: Arc<Container>,
}

impl Device {
    /// Opens a device of the container's group. The kernel resets it when it can.
    ///
    /// `vf_token` is what users of a physical function and of its virtual functions have in common, where the former
    /// is bound to vfio-pci, too: that of the physical function sets it (include/uapi/linux/vfio.h,
    /// VFIO_DEVICE_FEATURE_PCI_VF_TOKEN).
    ///
    /// # Errors
    /// When the group does not have or give it, or it is no PCI device.
    pub fn open(
        container: Arc<Container>,
        address: PciAddress,
        vf_token: Option<Uuid>,
    ) -> Result<Self, DeviceError> {
        let fd = container.group().device_fd(address, vf_token);
        let fd = fd.map_err(|source| match (source.errno(), vf_token) {
            (libc::EACCES, _) => DeviceError::WantsToken {
                address,
                was_shown: vf_token.is_some(),
            },
            (libc::EINVAL, Some(_)) => DeviceError::TakesNoToken(address),
            _ => DeviceError::Open { address, source },
        })?;
        let mut info = vfio_device_info {
            argsz: argument_size::<vfio_device_info>(),
            ..Default::default()
        };
        kernel::device_get_info(fd.as_fd(), &mut info)
            .map_err(call("VFIO_DEVICE_GET_INFO", address))?;
        if info.flags & VFIO_DEVICE_FLAGS_PCI == 0 || info.num_regions < RegionIndex::COUNT {
            return Err(DeviceError::NotPci(address));
        }
        let regions = RegionIndex::all()
            .map(|index| region(fd.as_fd(), index, address))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            file: File::from(fd),
            address,
            has_reset: info.flags & VFIO_DEVICE_FLAGS_RESET != 0,
            regions,
            enabled: Mutex::new(None),
            container,
        })
    }

    /// Its address on the host.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// The container through which it does DMA.
    pub fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// Whether it can be reset by itself (function-level or power-management reset).
    pub fn has_reset(&self) -> bool {
        self.has_reset
    }

    /// Resets it and waits until it is ready. Gives `false` when it has no reset of its own; its
    /// bus mastering should then be switched off at least. While the host holds the device it is tried
    /// again, for half a second at most.
    ///
    /// # Errors
    /// [`DeviceError::Held`], or the kernel's refusal.
    pub fn reset(&self) -> Result<bool, DeviceError> {
        if !self.has_reset {
            return Ok(false);
        }
        for attempt in 1.. {
            match kernel::device_reset(self.as_fd()) {
                Ok(()) => break,
                Err(errno) if errno.errno() != libc::EAGAIN => {
                    return Err(call("VFIO_DEVICE_RESET", self.address)(errno));
                }
                Err(_) if attempt == RESET_ATTEMPTS => {
                    return Err(DeviceError::Held(self.address));
                }
                Err(_) => thread::sleep(RESET_PAUSE),
            }
        }
        Ok(true)
    }

    /// A region.
    pub fn region(&self, index: RegionIndex) -> &Region {
        // There are exactly as many as `RegionIndex` can number.
        &self.regions[index.get() as usize]
    }

    /// Reads 1, 2, 4 or 8 bytes of a region, as the device has them: PCI is little-endian.
    ///
    /// # Errors
    /// [`DeviceError::Access`] or the device's failure.
    pub fn read(
        &self,
        index: RegionIndex,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), DeviceError> {
        let at = self.position(index, offset, data.len())?;
        self.file
            .read_exact_at(data, at)
            .map_err(|source| self.failed(index, offset, source))
    }

    /// Reads as many bytes of a region as `data` has, from its beginning on.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub(super) fn read_all(&self, index: RegionIndex, data: &mut [u8]) -> Result<(), DeviceError> {
        let at = self.region(index).fd_offset;
        self.file
            .read_exact_at(data, at)
            .map_err(|source| self.failed(index, 0, source))
    }

    /// Writes 1, 2, 4 or 8 bytes of a region.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn write(&self, index: RegionIndex, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let at = self.position(index, offset, data.len())?;
        self.file
            .write_all_at(data, at)
            .map_err(|source| self.failed(index, offset, source))
    }

    /// Reads 1, 2 or 4 bytes of configuration space, which VFIO shows with some registers
    /// virtualised.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn read_config(&self, offset: u16, data: &mut [u8]) -> Result<(), DeviceError> {
        self.read(RegionIndex::CONFIG, offset.into(), data)
    }

    /// Writes 1, 2 or 4 bytes of configuration space.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn write_config(&self, offset: u16, data: &[u8]) -> Result<(), DeviceError> {
        self.write(RegionIndex::CONFIG, offset.into(), data)
    }

    /// Maps what can be mapped of a region, in order; nothing, when nothing can.
    ///
    /// # Errors
    /// [`DeviceError::Map`]; nothing stays mapped then.
    pub fn map_region(&self, index: RegionIndex) -> Result<Vec<RegionMapping>, DeviceError> {
        let region = self.region(index);
        region
            .areas_to_map(host_page_bytes())
            .iter()
            .map(|area| RegionMapping::new(self.as_fd(), region, area))
            .collect::<Result<_, _>>()
            .map_err(|source| DeviceError::Map {
                region: index,
                address: self.address,
                source,
            })
    }

    /// Where in the file an access goes.
    fn position(&self, index: RegionIndex, offset: u64, length: usize) -> Result<u64, DeviceError> {
        let region = self.region(index);
        let inside = offset
            .checked_add(length as u64)
            .is_some_and(|end| end <= region.bytes);
        if inside && matches!(length, 1 | 2 | 4 | 8) {
            return Ok(region.fd_offset.wrapping_add(offset));
        }
        Err(DeviceError::Access {
            region: index,
            address: self.address,
            offset,
            length,
            bytes: region.bytes,
        })
    }

    fn failed(&self, region: RegionIndex, offset: u64, source: io::Error) -> DeviceError {
        DeviceError::Io {
            region,
            address: self.address,
            offset,
            source,
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn call(call: &'static str, address: PciAddress) -> impl FnOnce(Errno) -> DeviceError {
    move |source| DeviceError::Call {
        call,
        address,
        source,
    }
}

/// Asks for a region, and once more with more room when there are capabilities to tell.
fn region(
    device: BorrowedFd<'_>,
    index: RegionIndex,
    address: PciAddress,
) -> Result<Region, DeviceError> {
    let ask = |words| {
        let mut answer = region::request(index, words);
        kernel::device_get_region_info(device, &mut answer)
            .map_err(call("VFIO_DEVICE_GET_REGION_INFO", address))?;
        Ok(answer)
    };
    let mut answer = ask(REGION_INFO_WORDS)?;
    let needed = region::words_needed(&answer);
    if needed > answer.len() {
        answer = ask(needed)?;
    }
    Region::parse(index, &answer).ok_or(DeviceError::Region {
        region: index,
        address,
    })
}

#[cfg(test)]
#[path = "device_tests.rs"]
pub(super) mod tests;
