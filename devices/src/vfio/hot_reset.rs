//! The reset of a bus or slot with all functions on it, for those that have none of their own
//! (VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, VFIO_DEVICE_PCI_HOT_RESET; `vfio_pci_dev_set_hot_reset` in
//! drivers/vfio/pci/vfio_pci_core.c). The kernel does it for whoever has the groups of all of them.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};

use super::address::PciAddress;
use super::device::{Device, DeviceError};
use super::group::Group;
use super::kernel;
use super::preflight::GroupNumber;

/// Functions that a bus has at most, each of which is told by two words.
const MOST_FUNCTIONS: usize = 256;
/// `argsz`, flags and count.
const HEADER_WORDS: usize = 3;

/// A function that is reset with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResetMember {
    /// Where it is.
    pub address: PciAddress,
    /// Its group, which the kernel wants to be shown.
    pub group: GroupNumber,
}

impl fmt::Display for ResetMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (IOMMU group {})", self.address, self.group)
    }
}

impl Device {
    /// Which functions a reset of its bus or slot resets, itself among them; none where the host has no such reset
    /// for it, as on a root bus.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn hot_reset_members(&self) -> Result<Vec<ResetMember>, DeviceError> {
        let mut words = vec![0; HEADER_WORDS + 2 * MOST_FUNCTIONS];
        match kernel::device_get_hot_reset_info(self.as_fd(), &mut words) {
            Ok(()) => Ok(members(&words)),
            Err(error) if error.errno() == libc::ENODEV => Ok(Vec::new()),
            Err(source) => Err(DeviceError::Call {
                call: "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
                address: self.address(),
                source,
            }),
        }
    }

    /// Resets it with all of [`Device::hot_reset_members`], whose groups are `groups`.
    ///
    /// # Errors
    /// The kernel's refusal: EINVAL when one's group is missing.
    pub fn hot_reset<'a>(
        &self,
        groups: impl IntoIterator<Item = &'a Group>,
    ) -> Result<(), DeviceError> {
        let fds: Vec<_> = groups
            .into_iter()
            .map(|group| group.as_fd().as_raw_fd())
            .collect();
        kernel::device_hot_reset(self.as_fd(), &fds).map_err(|source| DeviceError::Call {
            call: "VFIO_DEVICE_PCI_HOT_RESET",
            address: self.address(),
            source,
        })
    }
}

/// The functions in the kernel's answer: each has a group of 32 bits, a domain of 16, and a byte each for bus, and
/// device and function.
fn members(words: &[u32]) -> Vec<ResetMember> {
    let (header, entries) = words.split_at(HEADER_WORDS.min(words.len()));
    let count = header.get(2).map_or(0, |&count| count as usize);
    let entries = entries.as_chunks().0.iter().take(count);
    let member = |&[group, place]: &[u32; 2]| {
        let [low, high, bus, devfn] = place.to_ne_bytes();
        let domain = u16::from_ne_bytes([low, high]);
        Some(ResetMember {
            address: PciAddress::new(domain.into(), bus, devfn >> 3, devfn & 7)?,
            group: GroupNumber(group),
        })
    };
    entries.filter_map(member).collect()
}

#[cfg(test)]
#[path = "hot_reset_tests.rs"]
mod tests;
