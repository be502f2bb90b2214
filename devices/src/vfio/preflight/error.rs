//! What is in the way of passing a device through, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::members::{GroupMember, GroupNumber};
use crate::vfio::address::PciAddress;

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
        "PCI device {address} is {}, not to vfio-pci. To bind it, run {}",
        bound(.driver), to_bind(std::slice::from_ref(&member(*.address, .driver)))
    )]
    NotBoundToVfio {
        /// The device.
        address: PciAddress,
        /// Its driver, if any.
        driver: Option<String>,
    },
    /// Devices of the group are in use by the host.
    #[error(
        "IOMMU group {group} cannot be given away as a whole, as it must be: the host still has {}. Each has to be \
         bound to vfio-pci, or to no driver if the guest does not get it. To bind them, run {}",
        list(.members), to_bind(.members)
    )]
    InHostUse {
        /// The group.
        group: GroupNumber,
        /// The devices in the way, and the one asked for if that is not bound to vfio-pci.
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

fn member(address: PciAddress, driver: &Option<String>) -> GroupMember {
    GroupMember {
        name: address.to_string(),
        driver: driver.clone(),
    }
}

/// What binds devices to vfio-pci, for those who have driverctl or libvirt, and for all others
/// (Documentation/ABI/testing/sysfs-bus-pci, "driver_override").
fn to_bind(members: &[GroupMember]) -> String {
    let with = |command: &dyn Fn(&str) -> String| {
        let commands: Vec<_> = members.iter().map(|it| command(&it.name)).collect();
        commands.join("; ")
    };
    let mut text = format!(
        "`{}`, `{}`, or as root:\n    modprobe vfio-pci",
        with(&|name| format!("driverctl set-override {name} vfio-pci")),
        with(&|name| format!("virsh nodedev-detach pci_{}", name.replace([':', '.'], "_"))),
    );
    for GroupMember { name, driver } in members {
        let device = format!("/sys/bus/pci/devices/{name}");
        text += &format!("\n    echo vfio-pci > {device}/driver_override");
        if driver.is_some() {
            text += &format!("\n    echo {name} > {device}/driver/unbind");
        }
        text += &format!("\n    echo {name} > /sys/bus/pci/drivers_probe");
    }
    text
}
