//! Passed-through devices: from their addresses on the host to functions behind host bridges.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use log::Level;
use spapr_devices::error_chain::chain;
use spapr_devices::guest_message;
use spapr_devices::pci::{DeviceFunction, FunctionBackend};
use spapr_devices::vfio::{
    Container, ContainerError, DefaultWindowError, Device, DeviceError, Group, GroupError,
    GroupNumber, HostPaths, IommuPolicy, PciAddress, PreflightError, Rom, RomError, VfioFunction,
};

use super::device_notices;
use super::device_resets::DeviceResets;
use super::guest_places::{self, PlaceError};
use super::locked_memory::GroupWindows;
use crate::control::Alarm;
use crate::setting::Setting;
use crate::spec::{DmaWindowSizes, ExpansionRom, PassedThroughDevice};

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
    /// The device does not work.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The expansion ROM that it is to have is none.
    #[error(transparent)]
    Rom(#[from] RomError),
    /// There is no place for the devices of a group.
    #[error("the devices of IOMMU group {group} cannot be placed in the guest")]
    Place {
        /// The group.
        group: GroupNumber,
        /// Why.
        source: PlaceError,
    },
    /// There are no descriptors for what the host says of a device.
    #[error("cannot watch PCI device {address}")]
    Watch {
        /// The device.
        address: PciAddress,
        /// Why.
        source: io::Error,
    },
    /// The host has no such default DMA window.
    #[error("host bridge {bridge}, of IOMMU group {group}")]
    DefaultWindow {
        /// The bridge.
        bridge: u8,
        /// The group.
        group: GroupNumber,
        /// Why.
        source: DefaultWindowError,
    },
    /// One device twice.
    #[error("PCI device {0} is given twice")]
    Twice(PciAddress),
}

impl PassthroughError {
    /// What of the user's choice it is about.
    pub fn setting(&self) -> Option<Setting> {
        match self {
            Self::Place { source, .. } => Some(source.setting()),
            Self::Preflight(_) | Self::Twice(_) | Self::Rom(_) => Some(Setting::Device),
            Self::DefaultWindow { .. } => Some(Setting::DmaWindow),
            _ => None,
        }
    }
}

/// An IOMMU group in its container, which nobody else can have, and what of it the guest gets where.
pub(super) struct TakenGroup {
    /// Number of its host bridge.
    bridge: u8,
    container: Arc<Container>,
    members: Vec<Member>,
}

/// A device of a group that the guest gets.
struct Member {
    device: PassedThroughDevice,
    place: DeviceFunction,
    /// The image in the file that it is to have for an expansion ROM.
    rom: Option<Rom>,
}

/// One IOMMU group in its container, with the functions of it that the guest gets.
pub(super) struct AttachedGroup {
    /// Number of its host bridge.
    pub(super) bridge: u8,
    pub(super) container: Arc<Container>,
    pub(super) functions: Vec<(DeviceFunction, Arc<dyn FunctionBackend>)>,
    /// What the host may say of them.
    pub(super) notices: Vec<Alarm>,
}

/// Takes the groups of `devices`, in the order of their bridges' numbers. Nothing is locked yet.
///
/// # Errors
/// What stands in the way, and how to clear it; all groups are given back then.
pub(super) fn take(
    devices: &[PassedThroughDevice],
    policy: IommuPolicy,
) -> Result<Vec<TakenGroup>, PassthroughError> {
    let host = HostPaths::default();
    let mut by_group: BTreeMap<GroupNumber, Vec<PassedThroughDevice>> = BTreeMap::new();
    // Groups in the order in which the user named them: each gets a host bridge in that order.
    let mut order = Vec::new();
    for device in devices {
        let group = host.find_device(device.host)?;
        let members = by_group.entry(group).or_insert_with(|| {
            order.push(group);
            Vec::new()
        });
        if members.iter().any(|member| member.host == device.host) {
            return Err(PassthroughError::Twice(device.host));
        }
        members.push(device.clone());
    }
    let mut groups = Vec::new();
    let mut bridges = Vec::new();
    for number in order {
        let members = by_group.remove(&number).unwrap_or_default();
        let place_error = |source| PassthroughError::Place {
            group: number,
            source,
        };
        let bridge = guest_places::bridge(&members, &bridges).map_err(place_error)?;
        bridges.push(bridge);
        groups.push(TakenGroup::take(&host, number, &members, policy, bridge)?);
    }
    groups.sort_by_key(|group| group.bridge);
    Ok(groups)
}

impl TakenGroup {
    /// Number of its host bridge.
    pub(super) const fn bridge(&self) -> u8 {
        self.bridge
    }

    fn take(
        host: &HostPaths,
        number: GroupNumber,
        members: &[PassedThroughDevice],
        policy: IommuPolicy,
        bridge: u8,
    ) -> Result<Self, PassthroughError> {
        let places = guest_places::choose(members).map_err(|source| PassthroughError::Place {
            group: number,
            source,
        })?;
        let group = Group::open(host, number)?;
        let container = Arc::new(Container::attach(host, group, policy)?);
        guest_message!(
            Level::Info,
            "IOMMU group {number}: {} container",
            container.version()
        );
        Ok(Self {
            bridge,
            container,
            members: members
                .iter()
                .zip(places)
                .map(|(device, place)| Member::new(device, place))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The container.
    pub(super) fn container(&self) -> &Container {
        &self.container
    }

    /// The default DMA window that its bridge is to have.
    ///
    /// # Errors
    /// When the host has none such.
    pub(super) fn windows(&self, sizes: &DmaWindowSizes) -> Result<GroupWindows, PassthroughError> {
        let wanted = sizes.bytes_of(self.bridge);
        GroupWindows::new(*self.container.info(), wanted).map_err(|source| {
            PassthroughError::DefaultWindow {
                bridge: self.bridge,
                group: self.container.group().number(),
                source,
            }
        })
    }

    /// Opens the devices, reset by `resets`.
    ///
    /// # Errors
    /// Why one cannot be used; none is open then.
    pub(super) fn open(
        &self,
        resets: &mut DeviceResets<'_>,
    ) -> Result<AttachedGroup, PassthroughError> {
        let mut functions: Vec<(DeviceFunction, Arc<dyn FunctionBackend>)> = Vec::new();
        let mut notices = Vec::new();
        for member in &self.members {
            let (address, place) = (member.device.host, member.place);
            let container = Arc::clone(&self.container);
            let device = Device::open(container, address, member.device.vf_token)?;
            resets.reset(&device)?;
            let watched = device_notices::watch(&device);
            notices.extend(watched.map_err(|source| PassthroughError::Watch { address, source })?);
            let rom = member.rom(&device);
            functions.push((place, Arc::new(VfioFunction::new(device, rom)?)));
        }
        Ok(AttachedGroup {
            bridge: self.bridge,
            container: Arc::clone(&self.container),
            functions,
            notices,
        })
    }
}

impl Member {
    fn new(device: &PassedThroughDevice, place: DeviceFunction) -> Result<Self, RomError> {
        let rom = match &device.rom {
            ExpansionRom::File(path) => Some(Rom::of_file(path)?),
            ExpansionRom::Hidden | ExpansionRom::Own => None,
        };
        Ok(Self {
            device: device.clone(),
            place,
            rom,
        })
    }

    /// The expansion ROM that the guest finds. A guest can do without, where the host has none to give.
    fn rom(&self, device: &Device) -> Option<Rom> {
        if self.device.rom != ExpansionRom::Own {
            return self.rom.clone();
        }
        let address = device.address();
        match Rom::of_device(device) {
            Ok(Some(rom)) => return Some(rom),
            Ok(None) => guest_message!(
                Level::Warn,
                "the guest gets no expansion ROM of PCI device {address} (rombar=1): the host has none to give. \
                 romfile=FILE shows the image in a file"
            ),
            Err(error) => guest_message!(
                Level::Warn,
                "the guest gets no expansion ROM of PCI device {address} (rombar=1): {}",
                chain(&error)
            ),
        }
        None
    }
}
