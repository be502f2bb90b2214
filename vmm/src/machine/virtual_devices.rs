//! Devices that this process makes: from what the user asked for to functions behind host bridges.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use spapr_devices::dma::{DmaMemory, Windows};
use spapr_devices::pci::{DeviceFunction, FunctionBackend};
use spapr_devices::virtio::block::{Block, Disk};
use spapr_devices::virtio::{Device, Rng, VirtioFunction, VirtioOptions};
use vm_memory::GuestMemoryMmap;

use crate::random;
use crate::sandbox;
use crate::spec::{GuestPlace, VirtualDevice, VirtualDeviceKind};

/// A device in its place.
pub(super) struct PlacedFunction {
    pub(super) place: GuestPlace,
    pub(super) backend: Arc<dyn FunctionBackend>,
}

/// Makes `devices`, with their DMA by way of `ram` and `windows`. Those that name no place are behind the first host
/// bridge that is not among `groups`, the numbers of those with passed-through devices. `disks` are those among them,
/// in their order.
///
/// # Errors
/// When there are no descriptors or threads left.
pub(super) fn make(
    devices: &[VirtualDevice],
    groups: &[u8],
    disks: &[Arc<Disk>],
    ram: &GuestMemoryMmap,
    windows: &Windows,
) -> io::Result<Vec<PlacedFunction>> {
    let mut disks = disks.iter();
    places(devices, groups)
        .into_iter()
        .zip(devices)
        .map(|(place, device)| {
            let memory = match device.by_bus_address {
                true => DmaMemory::by_bus_address(ram.clone(), place.bridge, windows.clone()),
                false => DmaMemory::by_guest_address(ram.clone()),
            };
            let made = of_kind(&device.kind, &mut disks, &memory)?;
            let options = VirtioOptions {
                name: device.name.clone(),
                by_bus_address: device.by_bus_address,
                memory,
                prepare_thread: sandbox::enter_device,
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

/// A device of that kind, which does DMA by way of `memory`; a disk is the next of `disks`.
fn of_kind<'a>(
    kind: &VirtualDeviceKind,
    disks: &mut impl Iterator<Item = &'a Arc<Disk>>,
    memory: &DmaMemory,
) -> io::Result<Box<dyn Device>> {
    Ok(match kind {
        VirtualDeviceKind::Rng => Box::new(Rng::new(random::fill)),
        VirtualDeviceKind::Disk(_) => {
            let block = disks
                .next()
                .and_then(|disk| Block::new(Arc::clone(disk), memory.clone()));
            Box::new(block.ok_or_else(|| io::Error::other("its disk is another device's still"))?)
        }
    })
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
