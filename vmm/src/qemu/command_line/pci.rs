//! What stands behind which host bridge, and where.

use std::collections::BTreeMap;

use spapr_devices::pci::DeviceFunction;

use super::blockdev::Nodes;
use super::device::{Device, DeviceKind};
use super::netdev::Netdevs;
use super::virtio::VirtioKind;
use super::{Chardev, CommandLineError, filesystem, scsi, serial};
use crate::spec::{
    DmaWindowSize, GuestPlace, PassedThroughDevice, VirtualDevice, VirtualDeviceKind,
};

/// The sizes of default DMA windows that were given for one host bridge.
pub(super) fn dma_windows(devices: &[Device]) -> BTreeMap<u8, DmaWindowSize> {
    let sizes = devices.iter().filter_map(|device| match device.kind {
        DeviceKind::HostBridge {
            index,
            dma_window: Some(size),
        } => Some((index, size)),
        _ => None,
    });
    sizes.collect()
}

/// What is at devices' other ends.
#[derive(Clone, Copy)]
pub(super) struct BackEnds<'a> {
    /// Images of disks.
    pub(super) nodes: &'a Nodes,
    /// What carries network cards' frames.
    pub(super) netdevs: &'a Netdevs,
    /// Sockets of programs that serve file systems.
    pub(super) chardevs: &'a [Chardev],
}

/// The PCI devices, with their places behind host bridges, and what they have of `back_ends`.
pub(super) fn devices(
    devices: &[Device],
    back_ends: BackEnds<'_>,
) -> Result<(Vec<PassedThroughDevice>, Vec<VirtualDevice>), CommandLineError> {
    let bridges = bridges(devices)?;
    let mut places = Vec::new();
    for device in devices {
        let Some((bus, function)) = device.kind.pci_place() else {
            continue;
        };
        let found = bridges.iter().find(|(known, _)| known == bus);
        let &(_, bridge) = found.ok_or_else(|| CommandLineError::Unknown {
            option: format!("-device {}", device.kind.type_name()),
            what: "bus",
            id: bus.to_owned(),
        })?;
        places.push((device, bridge, function));
    }
    let named = places.iter().filter_map(|&(_, bridge, function)| {
        let function = function?;
        Some(GuestPlace { bridge, function })
    });
    let mut taken: Vec<GuestPlace> = named.collect();
    let (mut passed, mut made) = (Vec::new(), Vec::new());
    for (device, bridge, named) in places {
        let function = match named {
            Some(function) => function,
            None => free_place(device, bridge, &taken)?,
        };
        let place = GuestPlace { bridge, function };
        taken.push(place);
        let place = Some(place);
        match &device.kind {
            DeviceKind::Vfio {
                host,
                vf_token,
                rom,
                ..
            } => passed.push(PassedThroughDevice {
                host: *host,
                place,
                vf_token: *vf_token,
                rom: rom.clone(),
            }),
            DeviceKind::Virtio(virtio) => {
                let kind = kind(device, &virtio.kind, devices, back_ends)?;
                made.push(VirtualDevice {
                    kind,
                    name: name(device),
                    place,
                    by_bus_address: virtio.iommu_platform,
                });
            }
            // The guest is not shown it.
            DeviceKind::Usb(_) => {}
            DeviceKind::HostBridge { .. }
            | DeviceKind::Vty { .. }
            | DeviceKind::Port(_)
            | DeviceKind::ScsiUnit(_) => {}
        }
    }
    check_balloons(&made)?;
    Ok((passed, made))
}

/// What is made of one of `devices`, a virtio device of that kind.
fn kind(
    device: &Device,
    kind: &VirtioKind,
    devices: &[Device],
    back_ends: BackEnds<'_>,
) -> Result<VirtualDeviceKind, CommandLineError> {
    Ok(match kind {
        VirtioKind::Rng { .. } => VirtualDeviceKind::Rng,
        VirtioKind::Balloon(balloon) => VirtualDeviceKind::Balloon(*balloon),
        VirtioKind::Vsock(vsock) => VirtualDeviceKind::Vsock(*vsock),
        VirtioKind::FileSystem(wanted) => {
            VirtualDeviceKind::FileSystem(filesystem::describe(wanted, back_ends.chardevs)?)
        }
        VirtioKind::Net(card) => VirtualDeviceKind::Net(Box::new(back_ends.netdevs.card(card)?)),
        VirtioKind::Serial { most_ports } => {
            VirtualDeviceKind::Serial(serial::ports(devices, device, *most_ports)?)
        }
        VirtioKind::Disk {
            drive,
            options,
            shares,
        } => {
            let option = "-device virtio-blk-pci";
            VirtualDeviceKind::Disk(Box::new(
                back_ends.nodes.disk(option, drive, options, *shares)?,
            ))
        }
        VirtioKind::Scsi(options) => {
            VirtualDeviceKind::Scsi(scsi::describe(devices, device, *options, back_ends.nodes)?)
        }
    })
}

/// Refuses a second balloon: monitors know of one.
fn check_balloons(made: &[VirtualDevice]) -> Result<(), CommandLineError> {
    let is_balloon = |it: &&VirtualDevice| matches!(it.kind, VirtualDeviceKind::Balloon(_));
    if made.iter().filter(is_balloon).count() > 1 {
        return Err(CommandLineError::Combination(
            "-device virtio-balloon-pci: a guest has one balloon, and this is a second".to_owned(),
        ));
    }
    Ok(())
}

/// How messages name a device.
fn name(device: &Device) -> String {
    let id = device.id.clone();
    id.unwrap_or_else(|| device.kind.type_name().to_owned())
}

/// The buses of the host bridges, with the bridges' numbers.
fn bridges(devices: &[Device]) -> Result<Vec<(String, u8)>, CommandLineError> {
    let mut bridges = vec![("pci.0".to_owned(), 0)];
    for device in devices {
        if let DeviceKind::HostBridge { index, .. } = device.kind {
            let id = device.id.as_deref().unwrap_or_default();
            let bus = format!("{id}.0");
            if bridges.iter().any(|&(_, known)| known == index) {
                return Err(CommandLineError::Combination(format!(
                    "-device spapr-pci-host-bridge: there are two host bridges with index {index}"
                )));
            }
            bridges.push((bus, index));
        }
    }
    Ok(bridges)
}

/// The first device number of a bus that no device has, for one whose `addr=` is not given.
fn free_place(
    device: &Device,
    bridge: u8,
    taken: &[GuestPlace],
) -> Result<DeviceFunction, CommandLineError> {
    let is_taken = |number: u8| {
        let is = |place: &GuestPlace| place.bridge == bridge && place.function.device() == number;
        taken.iter().any(is)
    };
    (0..32)
        .find(|&number| !is_taken(number))
        .and_then(|number| DeviceFunction::new(number, 0))
        .ok_or_else(|| {
            CommandLineError::Combination(format!(
                "-device {}: the bus of host bridge {bridge} has 32 devices, and no room for another",
                device.kind.type_name()
            ))
        })
}
