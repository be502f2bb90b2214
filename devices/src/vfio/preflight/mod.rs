//! Finding a device and its IOMMU group on the host, and saying what is in the way, before
//! anything is opened.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::address::PciAddress;

/// Names of the other PCI devices to show when one is not found.
const SUGGESTIONS: usize = 6;

/// Drivers beside VFIO's own that leave a device's DMA to whoever owns the group: those with
/// `driver_managed_dma` in the kernel (drivers/pci/pci-stub.c, drivers/pci/pcie/portdrv.c).
const HARMLESS_DRIVERS: [&str; 2] = ["pcieport", "pci-stub"];

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

/// Number of an IOMMU group, which is also the name of its node below /dev/vfio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupNumber(pub u32);

impl fmt::Display for GroupNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A device of an IOMMU group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Its name below /sys/kernel/iommu_groups; a PCI address for a PCI function.
    pub name: String,
    /// The driver it is bound to, if any.
    pub driver: Option<String>,
}

impl GroupMember {
    /// Whether a driver of the host does DMA with it, so that the group cannot be given away.
    /// (A bridge's driver does none; neither does VFIO's or no driver.)
    pub fn is_in_host_use(&self) -> bool {
        self.driver
            .as_deref()
            .is_some_and(|driver| !is_vfio_driver(driver) && !HARMLESS_DRIVERS.contains(&driver))
    }
}

impl fmt::Display for GroupMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.driver {
            Some(driver) => write!(f, "{} (bound to {driver})", self.name),
            None => write!(f, "{} (bound to no driver)", self.name),
        }
    }
}

/// vfio-pci and the variants of it that some devices have (`mlx5_vfio_pci`).
fn is_vfio_driver(driver: &str) -> bool {
    driver.ends_with("vfio-pci") || driver.ends_with("vfio_pci")
}

/// What is in the way of passing a device through.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// No such device.
    #[error("there is no PCI device {address} on this host{}", suggestions(.similar))]
    Absent {
        /// The address asked for.
        address: PciAddress,
        /// Devices that may have been meant.
        similar: Vec<PciAddress>,
    },
    /// The device is in no IOMMU group.
    #[error(
        "PCI device {0} is in no IOMMU group: the host's kernel has no IOMMU for it, so it could \
         not be kept to the guest's memory and cannot be passed through"
    )]
    NoGroup(PciAddress),
    /// The device is not bound to vfio-pci.
    #[error(
        "PCI device {address} is {}, not to vfio-pci. To bind it, run as root:\n{}",
        bound(.driver), bind_commands(*.address, .driver)
    )]
    NotBoundToVfio {
        /// The device.
        address: PciAddress,
        /// Its driver, if any.
        driver: Option<String>,
    },
    /// Other devices of the group are in use by the host.
    #[error(
        "IOMMU group {group} cannot be given away as a whole, as it must be: the host still uses \
         {}. Bind them to vfio-pci as well, or unbind them from their drivers",
        list(.members)
    )]
    InHostUse {
        /// The group.
        group: GroupNumber,
        /// The devices in the way.
        members: Vec<GroupMember>,
    },
    /// VFIO's container node is missing.
    #[error(
        "{} does not exist: the kernel's VFIO driver is not loaded. Run `modprobe \
         vfio_iommu_spapr_tce` as root; the kernel needs CONFIG_VFIO_GROUP and \
         CONFIG_VFIO_IOMMU_SPAPR_TCE",
        .0.display()
    )]
    NoContainerNode(PathBuf),
    /// The group's node is missing, although the device is bound.
    #[error(
        "{} does not exist although its device is bound to vfio-pci. On POWER, Linux 5.19 to 6.3 \
         cannot do VFIO and make no such node: use 6.4 or later",
        .0.display()
    )]
    NoGroupNode(PathBuf),
    /// This user may not open a node.
    #[error(
        "no permission to open {} for reading and writing: it belongs to user {uid} and group \
         {gid} with mode {mode:03o}, and this is user {own_uid}. Give it away as root, for \
         example `chown {own_uid} {}`, or for good by a udev rule for SUBSYSTEM==\"vfio\"",
        .path.display(), .path.display()
    )]
    NoPermission {
        /// The node.
        path: PathBuf,
        /// Its owner's user id.
        uid: u32,
        /// Its owner's group id.
        gid: u32,
        /// Its permission bits.
        mode: u32,
        /// This process' effective user id.
        own_uid: u32,
    },
    /// There is no such group.
    #[error("there is no IOMMU group {0} on this host; `ls /sys/kernel/iommu_groups` lists them")]
    NoSuchGroup(GroupNumber),
    /// Something of the host's device tree cannot be read or is not as the kernel writes it.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// The file, link or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    items.join(", ")
}

fn suggestions(similar: &[PciAddress]) -> String {
    if similar.is_empty() {
        return "; `lspci -D` lists those there are".to_owned();
    }
    format!(
        "; is one of these meant: {}? (`lspci -D` lists them all)",
        list(similar)
    )
}

fn bound(driver: &Option<String>) -> String {
    match driver {
        Some(driver) => format!("bound to the host's driver {driver}"),
        None => "bound to no driver".to_owned(),
    }
}

/// The commands that bind `address` to vfio-pci (Documentation/ABI/testing/sysfs-bus-pci,
/// "driver_override").
fn bind_commands(address: PciAddress, driver: &Option<String>) -> String {
    let device = format!("/sys/bus/pci/devices/{address}");
    let unbind = match driver {
        Some(_) => format!("    echo {address} > {device}/driver/unbind\n"),
        None => String::new(),
    };
    format!(
        "    modprobe vfio-pci\n    echo vfio-pci > {device}/driver_override\n{unbind}    \
         echo {address} > /sys/bus/pci/drivers_probe"
    )
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
            return Err(PreflightError::NotBoundToVfio { address, driver });
        }
        self.check_group(group)?;
        Ok(group)
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
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use tempfile::TempDir;

    /// A host's device tree in a temporary folder.
    pub(in super::super) struct FakeHost {
        root: TempDir,
    }

    impl FakeHost {
        pub(in super::super) fn new() -> Self {
            let root = TempDir::new().unwrap();
            for folder in ["sys/bus/pci/devices", "sys/kernel/iommu_groups", "dev/vfio"] {
                fs::create_dir_all(root.path().join(folder)).unwrap();
            }
            Self { root }
        }

        /// One device bound to vfio-pci in group 0, with all nodes: what can be passed through.
        pub(in super::super) fn ready() -> Self {
            let host = Self::new();
            host.add("0001:01:00.0", Some(0), Some("vfio-pci"));
            host.node("vfio");
            host.node("0");
            host
        }

        pub(in super::super) fn paths(&self) -> HostPaths {
            HostPaths::new(
                self.root.path().join("sys"),
                self.root.path().join("dev/vfio"),
            )
        }

        pub(in super::super) fn add(&self, name: &str, group: Option<u32>, driver: Option<&str>) {
            let sys = self.root.path().join("sys");
            let device = sys.join("bus/pci/devices").join(name);
            fs::create_dir_all(&device).unwrap();
            if let Some(driver) = driver {
                symlink(
                    format!("../../../bus/pci/drivers/{driver}"),
                    device.join("driver"),
                )
                .unwrap();
            }
            if let Some(group) = group {
                let folder = sys.join(format!("kernel/iommu_groups/{group}"));
                fs::create_dir_all(folder.join("devices")).unwrap();
                symlink(&folder, device.join("iommu_group")).unwrap();
                symlink(&device, folder.join("devices").join(name)).unwrap();
            }
        }

        pub(in super::super) fn node(&self, name: &str) -> PathBuf {
            let path = self.root.path().join("dev/vfio").join(name);
            fs::write(&path, []).unwrap();
            path
        }
    }

    fn address() -> PciAddress {
        "0001:01:00.0".parse().unwrap()
    }

    /// The message of what is in the way, which must hold every part.
    fn refusal(host: &FakeHost, parts: &[&str]) {
        let message = host.paths().find_device(address()).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{part:?} in {message}");
        }
    }

    #[test]
    fn a_device_that_is_ready_is_found_with_its_group() {
        let host = FakeHost::ready();
        host.add("0001:00:00.0", Some(0), Some("pcieport"));
        host.add("0001:01:00.1", Some(0), None);
        host.add("0001:01:00.2", Some(0), Some("mlx5_vfio_pci"));
        assert_eq!(host.paths().find_device(address()).unwrap(), GroupNumber(0));
        assert_eq!(host.paths().groups().unwrap(), [GroupNumber(0)]);
        assert_eq!(host.paths().members(GroupNumber(0)).unwrap().len(), 4);
    }

    #[test]
    fn an_absent_device_is_named_with_those_that_may_be_meant() {
        let host = FakeHost::new();
        refusal(&host, &["no PCI device 0001:01:00.0", "lspci -D"]);
        host.add("0000:01:00.0", None, None);
        host.add("0001:00:00.0", None, None);
        refusal(
            &host,
            &["no PCI device 0001:01:00.0", "0000:01:00.0, 0001:00:00.0?"],
        );
    }

    #[test]
    fn a_device_without_a_group_cannot_be_passed_through() {
        let host = FakeHost::new();
        host.add("0001:01:00.0", None, Some("vfio-pci"));
        refusal(
            &host,
            &["0001:01:00.0 is in no IOMMU group", "no IOMMU for it"],
        );
    }

    #[test]
    fn a_device_of_the_host_comes_with_the_commands_to_bind_it() {
        let host = FakeHost::new();
        host.add("0001:01:00.0", Some(0), Some("nvme"));
        refusal(
            &host,
            &[
                "0001:01:00.0 is bound to the host's driver nvme, not to vfio-pci",
                "\n    modprobe vfio-pci\n",
                "\n    echo vfio-pci > /sys/bus/pci/devices/0001:01:00.0/driver_override\n",
                "\n    echo 0001:01:00.0 > /sys/bus/pci/devices/0001:01:00.0/driver/unbind\n",
                "\n    echo 0001:01:00.0 > /sys/bus/pci/drivers_probe",
            ],
        );
    }

    #[test]
    fn a_device_of_no_driver_needs_no_unbinding() {
        let host = FakeHost::new();
        host.add("0001:01:00.0", Some(0), None);
        refusal(&host, &["bound to no driver", "drivers_probe"]);
        let message = host.paths().find_device(address()).unwrap_err().to_string();
        assert!(!message.contains("unbind"), "{message}");
    }

    #[test]
    fn other_devices_of_the_group_that_the_host_uses_are_named() {
        let host = FakeHost::ready();
        host.add("0001:01:00.1", Some(0), Some("tg3"));
        host.add("0001:01:00.2", Some(0), None);
        host.add("0001:01:00.3", Some(0), Some("nvme"));
        refusal(
            &host,
            &[
                "IOMMU group 0",
                "0001:01:00.1 (bound to tg3), 0001:01:00.3 (bound to nvme)",
                "vfio-pci",
            ],
        );
    }

    #[test]
    fn missing_nodes_are_named_with_their_remedy() {
        let host = FakeHost::new();
        host.add("0001:01:00.0", Some(7), Some("vfio-pci"));
        refusal(
            &host,
            &[
                "dev/vfio/vfio does not exist",
                "modprobe vfio_iommu_spapr_tce",
            ],
        );
        host.node("vfio");
        refusal(&host, &["dev/vfio/7 does not exist", "6.4 or later"]);
        host.node("7");
        assert!(host.paths().find_device(address()).is_ok());
    }

    #[test]
    fn a_closed_node_is_named_with_its_owner_and_how_to_give_it_away() {
        let host = FakeHost::ready();
        let node = host.node("0");
        fs::set_permissions(&node, fs::Permissions::from_mode(0o640)).unwrap();
        let owner = fs::metadata(&node).unwrap().uid();
        let message = no_permission(&node).to_string();
        for part in [
            format!("no permission to open {}", node.display()),
            format!("belongs to user {owner}"),
            "mode 640".to_owned(),
            format!("chown {owner} {}", node.display()),
        ] {
            assert!(message.contains(&part), "{part:?} in {message}");
        }
        fs::set_permissions(&node, fs::Permissions::from_mode(0o0)).unwrap();
        // Root may open anything: for any other user the check itself must refuse.
        if owner != 0 {
            refusal(&host, &["no permission"]);
        }
    }

    #[test]
    fn a_link_that_is_no_group_is_not_taken_for_one() {
        let host = FakeHost::new();
        host.add("0001:01:00.0", None, Some("vfio-pci"));
        let device = host.root.path().join("sys/bus/pci/devices/0001:01:00.0");
        symlink("nonsense", device.join("iommu_group")).unwrap();
        refusal(&host, &["cannot read", "iommu_group"]);
        let missing = host.paths().members(GroupNumber(9)).unwrap_err();
        assert!(missing.to_string().contains("no IOMMU group 9"));
    }
}
