//! Hosts whose device tree is in a folder.

use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};
use tempfile::TempDir;

/// What bare metal has.
const OPAL: &str = "sys/firmware/devicetree/base/ibm,opal";

/// A host's device tree in a temporary folder.
pub(in super::super) struct FakeHost {
    root: TempDir,
}

impl FakeHost {
    pub(in super::super) fn new() -> Self {
        let root = TempDir::new().unwrap();
        for folder in [
            "sys/bus/pci/devices",
            "sys/kernel/iommu_groups",
            OPAL,
            "dev/vfio",
        ] {
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

    /// Makes it one that a hypervisor runs.
    pub(in super::super) fn into_lpar(self) -> Self {
        fs::remove_dir(self.root.path().join(OPAL)).unwrap();
        self
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

    /// What a device's configuration space has.
    pub(super) fn config(&self, name: &str, bytes: &[u8]) {
        self.file(name, "config", bytes);
    }

    /// What another file of a device's has.
    pub(super) fn file(&self, name: &str, file: &str, bytes: &[u8]) {
        let device = self.root.path().join("sys/bus/pci/devices").join(name);
        fs::write(device.join(file), bytes).unwrap();
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
            "`driverctl set-override 0001:01:00.1 vfio-pci; driverctl set-override 0001:01:00.3 vfio-pci`",
            "`virsh nodedev-detach pci_0001_01_00_1; virsh nodedev-detach pci_0001_01_00_3`",
            "\n    echo vfio-pci > /sys/bus/pci/devices/0001:01:00.1/driver_override\n",
            "\n    echo 0001:01:00.3 > /sys/bus/pci/devices/0001:01:00.3/driver/unbind\n",
        ],
    );
}

#[test]
fn a_device_that_is_not_bound_is_named_with_all_of_its_group_that_are_in_the_way() {
    let host = FakeHost::new();
    host.add("0001:01:00.0", Some(3), None);
    host.add("0001:01:00.1", Some(3), Some("snd_hda_intel"));
    host.add("0001:01:00.2", Some(3), Some("vfio-pci"));
    let in_the_way = "0001:01:00.0 (bound to no driver), 0001:01:00.1 (bound to snd_hda_intel).";
    refusal(&host, &["IOMMU group 3", in_the_way]);
    let message = host.paths().find_device(address()).unwrap_err().to_string();
    assert!(!message.contains("0001:01:00.0/driver/unbind"), "{message}");
    assert!(!message.contains("0001:01:00.2"), "{message}");
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
