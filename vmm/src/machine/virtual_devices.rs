//! Devices that this process makes: from what the user asked for to functions behind host bridges.

use std::collections::BTreeSet;
use std::io;
use std::slice;
use std::sync::Arc;

use spapr_devices::dma::{DmaMemory, Windows};
use spapr_devices::pci::{DeviceFunction, FunctionBackend};
use spapr_devices::virtio::balloon::{Balloon, BalloonControl, BalloonOptions};
use spapr_devices::virtio::block::Block;
use spapr_devices::virtio::disk::Disk;
use spapr_devices::virtio::net::{Net, Nic};
use spapr_devices::virtio::scsi::Scsi;
use spapr_devices::virtio::serial::{Ports, Serial};
use spapr_devices::virtio::{
    Device, FileSystem, FsHost, Rng, VirtioFunction, VirtioOptions, Vsock, VsockHost,
};

use super::attachments::Attachments;
use crate::memory::{Backing, GuestRam};
use crate::random;
use crate::sandbox;
use crate::spec::{GuestPlace, MachineDescription, VirtualDevice, VirtualDeviceKind};

/// A device in its place.
pub(super) struct PlacedFunction {
    pub(super) place: GuestPlace,
    pub(super) backend: Arc<dyn FunctionBackend>,
}

/// Makes the devices of `description`, with their DMA by way of `ram` and `windows`. Those that name no place are behind the first host
/// bridge that is not among `groups`, the numbers of those with passed-through devices. `disks` are those among them, and
/// `attachments` what others have, in their order.
///
/// # Errors
/// When there are no descriptors or threads left.
pub(super) fn make(
    description: &MachineDescription,
    groups: &[u8],
    disks: &[Arc<Disk>],
    attachments: &Attachments,
    ram: &GuestRam,
    windows: &Windows,
) -> io::Result<Vec<PlacedFunction>> {
    let devices = &description.virtual_devices;
    let mut brought = Brought {
        disks: disks.iter(),
        nics: attachments.nics.iter(),
        vsocks: attachments.vsocks.iter(),
        filesystems: attachments.filesystems.iter(),
        ports: attachments.ports.iter(),
        balloon: attachments.balloon.as_ref(),
        released_page_bytes: released_page_bytes(description, ram),
    };
    places(devices, groups)
        .into_iter()
        .zip(devices)
        .map(|(place, device)| {
            let memory = match device.by_bus_address {
                true => {
                    DmaMemory::by_bus_address(ram.mmap().clone(), place.bridge, windows.clone())
                }
                false => DmaMemory::by_guest_address(ram.mmap().clone()),
            };
            let mut made = of_kind(&device.kind, &mut brought, ram, &memory)?;
            let is_vhost = made.vhost_queues().is_some();
            let options = VirtioOptions {
                name: device.name.clone(),
                by_bus_address: device.by_bus_address,
                memory,
                prepare_thread: match device.kind {
                    VirtualDeviceKind::FileSystem(_) => sandbox::enter_vhost_user,
                    _ if is_vhost => sandbox::enter_vhost,
                    VirtualDeviceKind::Vsock(_) => sandbox::enter_vhost,
                    VirtualDeviceKind::Balloon(_) => sandbox::enter_balloon,
                    VirtualDeviceKind::Net(_) => sandbox::enter_network,
                    VirtualDeviceKind::Serial(_) => sandbox::enter_ports,
                    VirtualDeviceKind::Rng
                    | VirtualDeviceKind::Disk(_)
                    | VirtualDeviceKind::Scsi(_) => sandbox::enter_device,
                },
            };
            let function = VirtioFunction::new(made, options)?;
            let backend = Arc::new(function);
            Ok(PlacedFunction { place, backend })
        })
        .collect()
}

/// The host bridges that have devices of this process alone; `groups` as for [`make`].
pub(super) fn bridges(devices: &[VirtualDevice], groups: &[u8]) -> BTreeSet<u8> {
    let all = places(devices, groups).into_iter();
    all.map(|place| place.bridge)
        .filter(|bridge| !groups.contains(bridge))
        .collect()
}

/// What there is already for the devices that are to come.
struct Brought<'a> {
    disks: slice::Iter<'a, Arc<Disk>>,
    nics: slice::Iter<'a, Arc<Nic>>,
    vsocks: slice::Iter<'a, Arc<VsockHost>>,
    filesystems: slice::Iter<'a, Arc<FsHost>>,
    ports: slice::Iter<'a, Arc<Ports>>,
    balloon: Option<&'a Arc<BalloonControl>>,
    /// Bytes of the host's pages behind guest memory, if a balloon's may go back to the host.
    released_page_bytes: Option<u64>,
}

/// A device of that kind, which does DMA by way of `memory`, with the next of what is `brought` for its kind.
fn of_kind(
    kind: &VirtualDeviceKind,
    brought: &mut Brought<'_>,
    ram: &GuestRam,
    memory: &DmaMemory,
) -> io::Result<Box<dyn Device>> {
    Ok(match kind {
        VirtualDeviceKind::Rng => Box::new(Rng::new(random::fill)),
        VirtualDeviceKind::Disk(_) => {
            let block = brought
                .disks
                .next()
                .and_then(|disk| Block::new(Arc::clone(disk), memory.clone()));
            Box::new(block.ok_or_else(|| io::Error::other("its disk is another device's still"))?)
        }
        VirtualDeviceKind::Scsi(scsi) => {
            let units = scsi.units.iter().map(|unit| {
                let disk = unit.disk.as_ref().and_then(|_| brought.disks.next());
                (unit.options.clone(), disk.map(Arc::clone))
            });
            let scsi = Scsi::new(scsi.options, units, memory)?;
            Box::new(scsi.ok_or_else(|| io::Error::other("a disk is another device's still"))?)
        }
        VirtualDeviceKind::Net(_) => {
            let nic = brought.nics.next().map(Arc::clone);
            let net = nic.and_then(Net::new);
            let net =
                net.ok_or_else(|| io::Error::other("its network is another device's still"))?;
            Box::new(net.in_machine(ram.mmap())?)
        }
        VirtualDeviceKind::Balloon(balloon) => {
            let control = brought.balloon.take().map(Arc::clone);
            let control = control.ok_or_else(|| io::Error::other("there is a second balloon"))?;
            let options = BalloonOptions {
                deflates_on_oom: balloon.deflates_on_oom,
                reports_free_pages: balloon.reports_free_pages,
                released_page_bytes: brought.released_page_bytes,
            };
            Box::new(Balloon::new(control, ram.mmap().clone(), options)?)
        }
        VirtualDeviceKind::Vsock(_) => {
            let host = brought.vsocks.next().map(Arc::clone);
            let host = host.ok_or_else(|| io::Error::other("there are none of its sockets"))?;
            Box::new(Vsock::new(host, ram.mmap())?)
        }
        VirtualDeviceKind::FileSystem(_) => {
            let host = brought.filesystems.next().map(Arc::clone);
            let host = host.ok_or_else(|| io::Error::other("there is nobody who serves it"))?;
            Box::new(FileSystem::new(host, ram.mmap())?)
        }
        VirtualDeviceKind::Serial(_) => {
            let ports = brought.ports.next().map(Arc::clone);
            let serial = ports.and_then(Serial::new);
            Box::new(
                serial.ok_or_else(|| io::Error::other("its ports are another device's still"))?,
            )
        }
    })
}

/// Bytes of the host's pages behind guest memory, if what a balloon is given may go back to the host.
///
/// Where a device is passed through it may not, as with QEMU: the device reaches the page that was locked when the guest
/// mapped it, and the guest would have another one when it takes it back. Pages of a pool stay the guest's.
fn released_page_bytes(description: &MachineDescription, ram: &GuestRam) -> Option<u64> {
    let is_anonymous = |backing| backing == Backing::Anonymous;
    let all_anonymous = ram.blocks().all(|block| is_anonymous(block.backing()));
    (description.vfio.is_empty() && all_anonymous).then(|| ram.page_bytes())
}

/// Where each of `devices` is.
fn places(devices: &[VirtualDevice], groups: &[u8]) -> Vec<GuestPlace> {
    let own_bridge = (0..=u8::MAX).find(|number| !groups.contains(number));
    let bridge = own_bridge.unwrap_or(0);
    let mut taken: Vec<GuestPlace> = devices.iter().filter_map(|device| device.place).collect();
    let next = |taken: &[GuestPlace]| {
        let mut numbers = (0..32).filter_map(|number| DeviceFunction::new(number, 0));
        numbers.find(|function| {
            let is = |place: &GuestPlace| place.bridge == bridge && place.function == *function;
            !taken.iter().any(is)
        })
    };
    devices
        .iter()
        .map(|device| {
            device.place.unwrap_or_else(|| {
                // Where there are more than 32, two have one address, which the bridge refuses.
                let function = next(&taken).unwrap_or(DeviceFunction::from_byte(0));
                let place = GuestPlace { bridge, function };
                taken.push(place);
                place
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(place: Option<(u8, u8)>) -> VirtualDevice {
        let place = place.map(|(bridge, number)| GuestPlace {
            bridge,
            function: DeviceFunction::new(number, 0).unwrap(),
        });
        VirtualDevice {
            kind: VirtualDeviceKind::Rng,
            name: "rng0".to_owned(),
            place,
            by_bus_address: false,
        }
    }

    #[test]
    fn bridges_without_hardware_are_counted_once_and_those_of_groups_never() {
        let devices = [device(None), device(Some((2, 0))), device(Some((2, 1)))];
        let of = |groups: &[u8]| bridges(&devices, groups).into_iter().collect::<Vec<_>>();
        assert_eq!(of(&[]), [0, 2]);
        assert_eq!(of(&[0]), [1, 2]);
        assert_eq!(of(&[0, 2]), [1]);
    }

    #[test]
    fn devices_without_a_place_are_apart_from_passed_through_ones() {
        let devices = [
            device(None),
            device(Some((1, 0))),
            device(None),
            device(Some((0, 0))),
        ];
        let found = |groups: &[u8]| {
            let places = places(&devices, groups);
            let places = places
                .iter()
                .map(|place| (place.bridge, place.function.device()));
            places.collect::<Vec<_>>()
        };
        assert_eq!(found(&[0]), [(1, 1), (1, 0), (1, 2), (0, 0)]);
        assert_eq!(found(&[1]), [(0, 1), (1, 0), (0, 2), (0, 0)]);
    }
}
