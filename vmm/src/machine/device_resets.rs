//! Resetting passed-through devices before their guest has them: each by itself, or with its bus where it has no reset
//! of its own and this machine has all that is on the bus.

use std::collections::BTreeSet;

use log::Level;
use spapr_devices::error_chain::chain;
use spapr_devices::guest_message;
use spapr_devices::vfio::{Device, DeviceError, Group, GroupNumber, PciAddress, ResetMember};

/// The resets of one start of a machine.
pub(super) struct DeviceResets<'a> {
    /// The groups that the machine has.
    groups: Vec<&'a Group>,
    /// What has been reset with its bus.
    done: BTreeSet<PciAddress>,
}

impl<'a> DeviceResets<'a> {
    /// Resets in a machine that has `groups`.
    pub(super) fn new(groups: impl IntoIterator<Item = &'a Group>) -> Self {
        Self {
            groups: groups.into_iter().collect(),
            done: BTreeSet::new(),
        }
    }

    /// Resets a device that has just been opened, as far as it can be. One that cannot is told of.
    ///
    /// # Errors
    /// The host's refusal of a reset of the device's own.
    pub(super) fn reset(&mut self, device: &Device) -> Result<(), DeviceError> {
        if device.reset()? || self.done.contains(&device.address()) {
            return Ok(());
        }
        if let Err(obstacle) = self.reset_bus(device) {
            guest_message!(
                Level::Warn,
                "PCI device {} has no reset of its own, and {obstacle}: the guest finds it as its last user left it",
                device.address()
            );
        }
        Ok(())
    }

    fn reset_bus(&mut self, device: &Device) -> Result<(), String> {
        let members = device.hot_reset_members();
        let members = members.map_err(|error| format!("its bus has none ({})", chain(&error)))?;
        let groups: Vec<GroupNumber> = self.groups.iter().map(|group| group.number()).collect();
        if let Some(obstacle) = obstacle(&members, &groups) {
            return Err(obstacle);
        }
        let needed = self.groups.iter().copied();
        let needed =
            needed.filter(|group| members.iter().any(|member| member.group == group.number()));
        let reset = device.hot_reset(needed);
        reset.map_err(|error| format!("its bus was not reset ({})", chain(&error)))?;
        let names: Vec<_> = members.iter().map(|it| it.address.to_string()).collect();
        guest_message!(
            Level::Info,
            "PCI device {} has no reset of its own: its bus was reset, with {}",
            device.address(),
            names.join(", ")
        );
        self.done
            .extend(members.iter().map(|member| member.address));
        Ok(())
    }
}

/// Why a machine that has `groups` cannot reset a bus with `members` on it.
fn obstacle(members: &[ResetMember], groups: &[GroupNumber]) -> Option<String> {
    if members.is_empty() {
        return Some("its bus has none".to_owned());
    }
    let others = members
        .iter()
        .filter(|member| !groups.contains(&member.group));
    let others: Vec<_> = others.map(ResetMember::to_string).collect();
    if others.is_empty() {
        return None;
    }
    Some(format!(
        "its bus is reset only for whoever has {} too",
        others.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(address: &str, group: u32) -> ResetMember {
        ResetMember {
            address: address.parse().expect("an address"),
            group: GroupNumber(group),
        }
    }

    #[test]
    fn a_bus_is_reset_for_whoever_has_all_groups_on_it_and_others_are_named() {
        let members = [
            member("0001:01:00.0", 1),
            member("0001:01:00.1", 1),
            member("0001:01:00.2", 4),
        ];
        let groups = [GroupNumber(1), GroupNumber(4), GroupNumber(9)];
        assert_eq!(obstacle(&members, &groups), None);
        assert_eq!(obstacle(&members[..2], &groups[..1]), None);
        let missing = obstacle(&members, &groups[..1]).expect("one is missing");
        assert!(
            missing.contains("has 0001:01:00.2 (IOMMU group 4) too"),
            "{missing}"
        );
        assert!(!missing.contains("00.1"), "{missing}");
        let none = obstacle(&[], &groups).expect("a root bus");
        assert!(none.contains("has none"), "{none}");
    }
}
