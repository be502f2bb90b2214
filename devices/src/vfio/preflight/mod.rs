//! Finding a device and its IOMMU group on the host, and saying what is in the way, before
//! anything is opened.

mod error;
mod interrupts;
mod members;
mod resources;

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::address::PciAddress;
pub use error::PreflightError;
pub use interrupts::InterruptKinds;
use members::is_vfio_driver;
pub use members::{GroupMember, GroupNumber};
pub use resources::DeviceResources;
pub(super) use resources::host_address;

/// Names of the other PCI devices to show when one is not found.
const SUGGESTIONS: usize = 6;

/// What a host's kernel runs on, which decides how it makes DMA windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// The machine itself (PowerNV): the kernel has the IOMMU's tables in its own memory.
    BareMetal,
    /// A hypervisor (pSeries), PowerVM or KVM: the tables are the hypervisor's, and the kernel asks for each entry.
    Lpar,
}

/// Where the host's device tree and VFIO's device nodes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPaths {
    sys: PathBuf,
    dev_vfio: PathBuf,
}

impl Default for HostPaths {
    /// `/sys` and `/dev/vfio`.
    fn default() -> Self {
        Self::new("/sys", "/dev/vfio")
    }
}

impl HostPaths {
    /// The host's device tree at `sys` and VFIO's nodes at `dev_vfio`.
    pub fn new(sys: impl Into<PathBuf>, dev_vfio: impl Into<PathBuf>) -> Self {
        Self {
            sys: sys.into(),
            dev_vfio: dev_vfio.into(),
        }
    }

    /// The node that makes containers, /dev/vfio/vfio.
    pub fn container_node(&self) -> PathBuf {
        self.dev_vfio.join("vfio")
    }

    /// The node of a group, /dev/vfio/N.
    pub fn group_node(&self, group: GroupNumber) -> PathBuf {
        self.dev_vfio.join(group.to_string())
    }

    /// What the host's kernel runs on: only bare metal has OPAL, skiboot's services.
    pub fn platform(&self) -> Platform {
        match self.sys.join("firmware/devicetree/base/ibm,opal").exists() {
            true => Platform::BareMetal,
            false => Platform::Lpar,
        }
    }

    fn pci_devices(&self) -> PathBuf {
        self.sys.join("bus/pci/devices")
    }

    fn pci_device(&self, address: PciAddress) -> PathBuf {
        self.pci_devices().join(address.to_string())
    }

    fn groups_folder(&self) -> PathBuf {
        self.sys.join("kernel/iommu_groups")
    }

    /// The IOMMU group of a device that can be passed through here and now.
    ///
    /// # Errors
    /// The first thing in the way, in the order in which one would clear it: the device absent,
    /// not in a group, not bound to vfio-pci, in a group that the host uses otherwise, VFIO's
    /// nodes missing or closed to this user.
    pub fn find_device(&self, address: PciAddress) -> Result<GroupNumber, PreflightError> {
        let folder = self.pci_device(address);
        if !folder.exists() {
            let similar = self.similar(address);
            return Err(PreflightError::Absent { address, similar });
        }
        let group = self.group_of(address)?;
        let driver = driver_of(&folder)?;
        if !driver.as_deref().is_some_and(is_vfio_driver) {
            return Err(self.not_bound(address, driver, group)?);
        }
        self.check_group(group)?;
        Ok(group)
    }

    /// Why a device is not to be had that is not bound to vfio-pci: with all others of its group that are in the way,
    /// so that they can be bound in one go.
    fn not_bound(
        &self,
        address: PciAddress,
        driver: Option<String>,
        group: GroupNumber,
    ) -> Result<PreflightError, PreflightError> {
        let name = address.to_string();
        let mut members = self.members(group)?;
        members.retain(|member| member.name == name || member.is_in_host_use());
        Ok(match members.len() {
            0 | 1 => PreflightError::NotBoundToVfio { address, driver },
            _ => PreflightError::InHostUse { group, members },
        })
    }

    /// Whether `group` can be given away here and now.
    ///
    /// # Errors
    /// As [`HostPaths::find_device`], from the group's other devices on.
    pub fn check_group(&self, group: GroupNumber) -> Result<(), PreflightError> {
        let members = self.members_in_host_use(group)?;
        if !members.is_empty() {
            return Err(PreflightError::InHostUse { group, members });
        }
        let container = self.container_node();
        if !container.exists() {
            return Err(PreflightError::NoContainerNode(container));
        }
        let node = self.group_node(group);
        if !node.exists() {
            return Err(PreflightError::NoGroupNode(node));
        }
        may_open(&container)?;
        may_open(&node)
    }

    /// The group that a device is in, whatever it is bound to.
    ///
    /// # Errors
    /// [`PreflightError::NoGroup`], or that the link to it cannot be read.
    pub fn group_of(&self, address: PciAddress) -> Result<GroupNumber, PreflightError> {
        let link = self.pci_device(address).join("iommu_group");
        let Some(name) = link_name(&link)? else {
            return Err(PreflightError::NoGroup(address));
        };
        name.parse()
            .map(GroupNumber)
            .map_err(|_| PreflightError::Unreadable {
                path: link,
                source: io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{name:?} is no number of a group"),
                ),
            })
    }

    /// All IOMMU groups of the host, in order.
    ///
    /// # Errors
    /// When the kernel's list of them cannot be read; a host without an IOMMU has an empty one.
    pub fn groups(&self) -> Result<Vec<GroupNumber>, PreflightError> {
        let mut groups: Vec<_> = names(&self.groups_folder())?
            .iter()
            .filter_map(|name| name.parse().ok().map(GroupNumber))
            .collect();
        groups.sort_unstable();
        Ok(groups)
    }

    /// The devices of a group, sorted by name.
    ///
    /// # Errors
    /// [`PreflightError::NoSuchGroup`], or that something cannot be read.
    pub fn members(&self, group: GroupNumber) -> Result<Vec<GroupMember>, PreflightError> {
        let folder = self.groups_folder().join(group.to_string()).join("devices");
        if !folder.exists() {
            return Err(PreflightError::NoSuchGroup(group));
        }
        let mut members = Vec::new();
        for name in names(&folder)? {
            let driver = driver_of(&folder.join(&name))?;
            members.push(GroupMember { name, driver });
        }
        members.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(members)
    }

    /// The devices of a group that keep it from being given away.
    ///
    /// # Errors
    /// As [`HostPaths::members`].
    pub fn members_in_host_use(
        &self,
        group: GroupNumber,
    ) -> Result<Vec<GroupMember>, PreflightError> {
        let mut members = self.members(group)?;
        members.retain(GroupMember::is_in_host_use);
        Ok(members)
    }

    /// Devices that may have been meant instead of an absent one: the same bus, device and
    /// function in another domain first, then others of the domain, then any.
    fn similar(&self, address: PciAddress) -> Vec<PciAddress> {
        let mut found: Vec<PciAddress> = names(&self.pci_devices())
            .unwrap_or_default()
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        let place = |a: PciAddress| (a.bus(), a.device(), a.function());
        found.sort_by_key(|&other| {
            let other_place = place(other) != place(address);
            let other_domain = other.domain() != address.domain();
            (other_place, other_domain, other)
        });
        found.truncate(SUGGESTIONS);
        found
    }
}

/// The last part of what a link points to; `None` when there is no link.
fn link_name(link: &Path) -> Result<Option<String>, PreflightError> {
    match fs::read_link(link) {
        Ok(target) => Ok(target
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PreflightError::Unreadable {
            path: link.to_owned(),
            source,
        }),
    }
}

fn driver_of(device: &Path) -> Result<Option<String>, PreflightError> {
    link_name(&device.join("driver"))
}

fn names(folder: &Path) -> Result<Vec<String>, PreflightError> {
    let unreadable = |source| PreflightError::Unreadable {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Whether this process may open a node for reading and writing.
fn may_open(path: &Path) -> Result<(), PreflightError> {
    let unreadable = |source| PreflightError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|error| unreadable(error.into()))?;
    // SAFETY: the name is a terminated string that lives through the call.
    let answer = unsafe {
        libc::faccessat(
            libc::AT_FDCWD,
            name.as_ptr(),
            libc::R_OK | libc::W_OK,
            libc::AT_EACCESS,
        )
    };
    if answer == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::PermissionDenied => Err(no_permission(path)),
        error => Err(unreadable(error)),
    }
}

/// The error for a node that this user may not open, saying whose it is.
pub(super) fn no_permission(path: &Path) -> PreflightError {
    match fs::metadata(path) {
        Ok(node) => PreflightError::NoPermission {
            path: path.to_owned(),
            uid: node.uid(),
            gid: node.gid(),
            mode: node.mode() & 0o777,
            // SAFETY: geteuid has no conditions and cannot fail.
            own_uid: unsafe { libc::geteuid() },
        },
        Err(source) => PreflightError::Unreadable {
            path: path.to_owned(),
            source,
        },
    }
}

#[cfg(test)]
pub(super) mod tests;
