//! Passed-through devices: from their addresses on the host to functions behind host bridges.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use spapr_devices::pci::{
    Bar, BarMapping, BarSpace, DeviceFunction, InterruptKind, NUM_BARS, PhysicalFunction,
};
use spapr_devices::vfio::{
    Container, ContainerError, Device, DeviceError, Group, GroupError, GroupNumber, HostPaths,
    IommuPolicy, Irq, PciAddress, PreflightError, RegionIndex, RegionMapping,
};
use spapr_hypercalls::world::HostRange;
use vmm_sys_util::eventfd::EventFd;

use crate::cli::IommuMode;
use crate::error_chain::chain;
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
    for (&address, place) in members.iter().zip(guest_places(members)) {
        let device = Device::open(Arc::clone(&container), address)?;
        if !device.reset()? {
            log::warn!("PCI device {address} cannot be reset; it starts as its last user left it");
        }
        functions.push((place, Arc::new(VfioFunction::new(device)?)));
    }
    Ok(AttachedGroup {
        container,
        functions,
    })
}

/// Addresses in the guest: functions of one device stay together, each device has its own number.
fn guest_places(members: &[PciAddress]) -> Vec<DeviceFunction> {
    let slot = |address: &PciAddress| (address.domain(), address.bus(), address.device());
    let mut slots = Vec::new();
    for address in members {
        if !slots.contains(&slot(address)) {
            slots.push(slot(address));
        }
    }
    members
        .iter()
        .map(|address| {
            let number = slots
                .iter()
                .position(|&known| known == slot(address))
                .unwrap_or(0);
            let alone = members
                .iter()
                .filter(|other| slot(other) == slot(address))
                .count()
                == 1;
            let function = if alone { 0 } else { address.function() };
            // A group has no more devices than a bus has: 32.
            DeviceFunction::new(u8::try_from(number & 31).unwrap_or(0), function)
                .unwrap_or(DeviceFunction::from_byte(0))
        })
        .collect()
}

/// A VFIO device as the host bridge knows it.
struct VfioFunction {
    name: String,
    bars: [Option<Bar>; NUM_BARS],
    // Before the device, which they keep busy.
    _mappings: Vec<RegionMapping>,
    device: Device,
}

impl VfioFunction {
    fn new(device: Device) -> Result<Self, DeviceError> {
        let mut mappings = Vec::new();
        let mut bars = [const { None }; NUM_BARS];
        let mut upper_half = false;
        for (index, bar) in (0..).zip(&mut bars) {
            if upper_half {
                upper_half = false;
                continue;
            }
            let Some(region) = RegionIndex::bar(index) else {
                continue;
            };
            let bytes = device.region(region).bytes;
            if bytes == 0 {
                continue;
            }
            let mut register = [0; 4];
            device.read_config(0x10 + 4 * u16::from(index), &mut register)?;
            let (space, prefetchable) = bar_kind(u32::from_le_bytes(register));
            upper_half = space == BarSpace::Memory64;
            let mut areas = Vec::new();
            if space != BarSpace::Io {
                for mapping in device.map_region(region)? {
                    let host = HostRange {
                        start: mapping.host_address(),
                        bytes: mapping.bytes(),
                    };
                    areas.push(BarMapping {
                        offset: mapping.region_offset(),
                        host,
                    });
                    mappings.push(mapping);
                }
            }
            *bar = Some(Bar {
                bytes,
                space,
                prefetchable,
                mappings: areas,
            });
        }
        let name = device.address().to_string();
        Ok(Self {
            name,
            bars,
            _mappings: mappings,
            device,
        })
    }

    fn region(index: usize) -> io::Result<RegionIndex> {
        u8::try_from(index)
            .ok()
            .and_then(RegionIndex::bar)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }
}

/// What the low bits of a BAR say (PCI Local Bus Specification 3.0, 6.2.5.1).
fn bar_kind(register: u32) -> (BarSpace, bool) {
    if register & 1 != 0 {
        return (BarSpace::Io, false);
    }
    let space = if register >> 1 & 3 == 2 {
        BarSpace::Memory64
    } else {
        BarSpace::Memory32
    };
    (space, register & 8 != 0)
}

fn irq(kind: InterruptKind) -> Irq {
    match kind {
        InterruptKind::Msi => Irq::Msi,
        InterruptKind::MsiX => Irq::Msix,
    }
}

fn other(error: impl std::error::Error) -> io::Error {
    io::Error::other(chain(&error))
}

impl PhysicalFunction for VfioFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn config_bytes(&self) -> u16 {
        u16::try_from(self.device.region(RegionIndex::CONFIG).bytes).unwrap_or(4096)
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) -> io::Result<()> {
        self.device.read_config(offset, data).map_err(other)
    }

    fn write_config(&self, offset: u16, data: &[u8]) -> io::Result<()> {
        self.device.write_config(offset, data).map_err(other)
    }

    fn bar(&self, index: usize) -> Option<Bar> {
        self.bars.get(index).cloned().flatten()
    }

    fn read_bar(&self, index: usize, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.device
            .read(Self::region(index)?, offset, data)
            .map_err(other)
    }

    fn write_bar(&self, index: usize, offset: u64, data: &[u8]) -> io::Result<()> {
        self.device
            .write(Self::region(index)?, offset, data)
            .map_err(other)
    }

    fn interrupt_vectors(&self, kind: InterruptKind) -> u32 {
        self.device.irq_info(irq(kind)).map_or(0, |info| info.count)
    }

    fn set_interrupts(&self, kind: InterruptKind, events: &[EventFd]) -> io::Result<()> {
        let events: Vec<_> = events.iter().map(AsRawFd::as_raw_fd).collect();
        self.device.set_vectors(irq(kind), &events).map_err(other)
    }

    fn disable_interrupts(&self, _kind: InterruptKind) -> io::Result<()> {
        self.device.disable_vectors().map_err(other)
    }

    fn reset(&self) -> io::Result<()> {
        self.device.reset().map(drop).map_err(other)
    }
}
