//! Where the guest finds passed-through functions: the host bridge of each IOMMU group, and the
//! place of each function on its bus.

use spapr_devices::pci::DeviceFunction;
use spapr_devices::vfio::PciAddress;

use crate::setting::Setting;
use crate::spec::PassedThroughDevice;

/// Why devices of one group have no place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlaceError {
    /// More devices than a bus has places for.
    #[error("{0} devices are to be passed through, and a host bridge has room for 32")]
    TooManyDevices(usize),
    /// They are to be behind more than one bridge.
    #[error(
        "they are to be behind host bridges {first} and {second}, and one host bridge has all devices \
         of a group"
    )]
    TwoBridges {
        /// One of the bridges.
        first: u8,
        /// Another.
        second: u8,
    },
    /// The bridge is another group's.
    #[error(
        "host bridge {0} has devices of another group; give each group a host bridge of its own"
    )]
    BridgeTaken(u8),
    /// All numbers are in use.
    #[error("there is no host bridge left")]
    NoBridge,
}

impl PlaceError {
    /// What of the user's choice it is about.
    pub fn setting(&self) -> Setting {
        match self {
            Self::TooManyDevices(_) | Self::NoBridge => Setting::Device,
            Self::TwoBridges { .. } | Self::BridgeTaken(_) => Setting::HostBridge,
        }
    }
}

/// The host bridge of `members`, which are all of one group, when those of other groups are `taken`:
/// the one that they name, or else the first that is free.
///
/// # Errors
/// When they name more than one, or one that is taken.
pub fn bridge(members: &[PassedThroughDevice], taken: &[u8]) -> Result<u8, PlaceError> {
    let mut named = members
        .iter()
        .filter_map(|member| Some(member.place?.bridge));
    let Some(first) = named.next() else {
        return (0..=u8::MAX)
            .find(|number| !taken.contains(number))
            .ok_or(PlaceError::NoBridge);
    };
    if let Some(second) = named.find(|second| *second != first) {
        return Err(PlaceError::TwoBridges { first, second });
    }
    if taken.contains(&first) {
        return Err(PlaceError::BridgeTaken(first));
    }
    Ok(first)
}

/// A place for each of `members`, all of one group. Where none is named, functions of one device
/// stay together under their numbers, one that is alone becomes function 0, and each device has a
/// number of its own.
///
/// # Errors
/// When there are more devices than a bus has places for.
pub fn choose(members: &[PassedThroughDevice]) -> Result<Vec<DeviceFunction>, PlaceError> {
    let device = |address: &PciAddress| (address.domain(), address.bus(), address.device());
    let mut devices = Vec::new();
    for member in members {
        if !devices.contains(&device(&member.host)) {
            devices.push(device(&member.host));
        }
    }
    let place = |member: &PassedThroughDevice| {
        if let Some(place) = member.place {
            return Some(place.function);
        }
        let own = device(&member.host);
        let number = devices.iter().position(|&known| known == own)?;
        let functions = members.iter().filter(|other| device(&other.host) == own);
        let is_alone = functions.count() == 1;
        let function = if is_alone { 0 } else { member.host.function() };
        DeviceFunction::new(u8::try_from(number).ok()?, function)
    };
    members
        .iter()
        .map(|member| place(member).ok_or(PlaceError::TooManyDevices(members.len())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{ExpansionRom, GuestPlace};

    fn members(addresses: &[&str]) -> Vec<PassedThroughDevice> {
        let member = |text: &&str| text.parse().expect("address");
        addresses.iter().map(member).collect()
    }

    fn at(bridge: u8, device: u8) -> PassedThroughDevice {
        let function = DeviceFunction::new(device, 0).expect("place");
        PassedThroughDevice {
            host: "0001:01:00.0".parse().expect("address"),
            place: Some(GuestPlace { bridge, function }),
            vf_token: None,
            rom: ExpansionRom::Hidden,
        }
    }

    fn places(addresses: &[&str]) -> Option<Vec<(u8, u8)>> {
        let places = choose(&members(addresses)).ok()?;
        Some(
            places
                .iter()
                .map(|place| (place.device(), place.function()))
                .collect(),
        )
    }

    #[test]
    fn functions_of_one_device_stay_together_and_one_alone_is_function_0() {
        let members = ["0001:01:00.0", "0001:01:00.1", "0001:02:05.3"];
        assert_eq!(places(&members), Some(vec![(0, 0), (0, 1), (1, 0)]));
    }

    #[test]
    fn a_bus_has_room_for_32_devices() {
        let names: Vec<String> = (0..33).map(|bus| format!("0001:{bus:02x}:00.0")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(places(&names[..32]).is_some());
        assert_eq!(places(&names), None);
    }

    #[test]
    fn places_that_are_named_are_kept() {
        let places = choose(&[at(1, 3), at(1, 1)]).expect("places");
        assert_eq!((places[0].device(), places[1].device()), (3, 1));
    }

    #[test]
    fn each_group_has_a_host_bridge_of_its_own() {
        assert_eq!(bridge(&members(&["0001:01:00.0"]), &[0, 2]), Ok(1));
        assert_eq!(bridge(&[at(3, 1), at(3, 2)], &[0, 1]), Ok(3));
        assert_eq!(
            bridge(&[at(1, 1)], &[0, 1]),
            Err(PlaceError::BridgeTaken(1))
        );
        assert_eq!(
            bridge(&[at(1, 1), at(2, 1)], &[]),
            Err(PlaceError::TwoBridges {
                first: 1,
                second: 2
            })
        );
        let all: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(
            bridge(&members(&["0001:01:00.0"]), &all),
            Err(PlaceError::NoBridge)
        );
    }
}
