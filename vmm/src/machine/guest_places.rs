//! Where on their host bridge's bus the guest finds passed-through functions.

use spapr_devices::pci::DeviceFunction;
use spapr_devices::vfio::PciAddress;

/// A place for each of `members`, all of one group: functions of one device stay together under
/// their numbers, one that is alone becomes function 0, and each device has a number of its own.
/// `None` for more devices than a bus has places for, which is 32.
pub(super) fn choose(members: &[PciAddress]) -> Option<Vec<DeviceFunction>> {
    let device = |address: &PciAddress| (address.domain(), address.bus(), address.device());
    let mut devices = Vec::new();
    for address in members {
        if !devices.contains(&device(address)) {
            devices.push(device(address));
        }
    }
    members
        .iter()
        .map(|address| {
            let same = |other: &&PciAddress| device(other) == device(address);
            let number = devices.iter().position(|&known| known == device(address))?;
            let is_alone = members.iter().filter(same).count() == 1;
            let function = if is_alone { 0 } else { address.function() };
            DeviceFunction::new(u8::try_from(number).ok()?, function)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(members: &[&str]) -> Option<Vec<(u8, u8)>> {
        let parsed: Vec<PciAddress> = members
            .iter()
            .map(|text| text.parse().expect("address"))
            .collect();
        let places = choose(&parsed)?;
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
}
