//! Passed-through devices: from their addresses on the host to functions behind host bridges.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use spapr_devices::pci::{DeviceFunction, PhysicalFunction};
use spapr_devices::vfio::{
    Container, ContainerError, Device, DeviceError, Group, GroupError, GroupNumber, HostPaths,
    IommuPolicy, PciAddress, PreflightError,
};

use super::guest_places;
use super::vfio_function::VfioFunction;
use crate::cli::IommuMode;
use crate::kvm::vfio_device::{VfioDeviceError, VfioKvmDevice};

/// Why a device cannot be passed through.
#[derive(Debug, thiserror::Error)]
pub enum PassthroughError {
    /// The device or its group is not as it has to be.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The group cannot be taken.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// There is no container for it.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// KVM does not take the group.
    #[error(transparent)]
    Kvm(#[from] VfioDeviceError),
    /// The device does not work.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// More devices than a bus has places for.
    #[error(
        "IOMMU group {group} has {count} devices to pass through (--vfio); a host bridge has room for 32"
    )]
    TooManyDevices {
        /// The group.
        group: GroupNumber,
        /// How many.
        count: usize,
    },
    /// One device twice.
    #[error("PCI device {0} is given twice (--vfio)")]
    Twice(PciAddress),
}

impl From<IommuMode> for IommuPolicy {
    fn from(mode: IommuMode) -> Self {
        match mode {
            IommuMode::Auto => Self::Auto,
            IommuMode::V1 => Self::V1,
            IommuMode::V2 => Self::V2,
        }
    }
}

/// One IOMMU group in its container, with the functions of it that the guest gets.
pub(super) struct AttachedGroup {
    pub(super) container: Arc<Container>,
    pub(super) functions: Vec<(DeviceFunction, Arc<dyn PhysicalFunction>)>,
}

/// Takes the groups of `addresses` and opens the devices, reset. Nothing is locked yet.
///
/// # Errors
/// What stands in the way, and how to clear it; all groups are given back then.
pub(super) fn attach(
    addresses: &[PciAddress],
    policy: IommuPolicy,
    kvm_device: &VfioKvmDevice,
) -> Result<Vec<AttachedGroup>, PassthroughError> {
    let host = HostPaths::default();
    let mut by_group: BTreeMap<GroupNumber, Vec<PciAddress>> = BTreeMap::new();
    // Groups in the order in which the user named them: each gets a host bridge in that order.
    let mut order = Vec::new();
    for &address in addresses {
        let group = host.find_device(address)?;
        let members = by_group.entry(group).or_insert_with(|| {
            order.push(group);
            Vec::new()
        });
        if members.contains(&address) {
            return Err(PassthroughError::Twice(address));
        }
        members.push(address);
    }
    order
        .into_iter()
        .map(|number| {
            let members = by_group.remove(&number).unwrap_or_default();
            attach_group(&host, number, &members, policy, kvm_device)
        })
        .collect()
}

fn attach_group(
    host: &HostPaths,
    number: GroupNumber,
    members: &[PciAddress],
    policy: IommuPolicy,
    kvm_device: &VfioKvmDevice,
) -> Result<AttachedGroup, PassthroughError> {
    let group = Group::open(host, number)?;
    let container = Arc::new(Container::attach(host, group, policy)?);
    log::info!("IOMMU group {number}: {} container", container.version());
    // Before a device is opened: the kernel ties the device to the VM then.
    kvm_device.add_group(&container.group().as_fd())?;
    let mut functions: Vec<(DeviceFunction, Arc<dyn PhysicalFunction>)> = Vec::new();
    let places = guest_places::choose(members).ok_or(PassthroughError::TooManyDevices {
        group: number,
        count: members.len(),
    })?;
    for (&address, place) in members.iter().zip(places) {
        let device = Device::open(Arc::clone(&container), address)?;
        if !device.reset()? {
            log::warn!(
                "PCI device {address} cannot be reset by itself: the guest finds it as its last \
                 user left it, and so it does after a reboot"
            );
        }
        functions.push((place, Arc::new(VfioFunction::new(device)?)));
    }
    Ok(AttachedGroup {
        container,
        functions,
    })
}
