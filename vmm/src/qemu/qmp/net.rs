//! What commands about network cards do.

use serde_json::{Value, json};
use spapr_devices::net::Mac;
use spapr_devices::virtio::net::Table;

use super::commands::{Answer, Request};
use super::error::QmpError;
use super::instead::HOT_PLUG;
use super::types::Type::{Any, Bool, Enum, Int, List, Object, Str};
use super::types::{Member, Type, Variants, optional, required};
use crate::qemu::monitor::NicFacts;

/// Which frames of a kind come: all, those to known addresses, or none.
const STATE: Type = Enum(&["all", "none", "normal"]);

/// What a card's driver wants, as `query-rx-filter` has it.
pub(super) const FILTER: Type = Object(&[
    required("name", Str),
    required("promiscuous", Bool),
    required("multicast", STATE),
    required("unicast", STATE),
    required("vlan", STATE),
    required("broadcast-allowed", Bool),
    required("multicast-overflow", Bool),
    required("unicast-overflow", Bool),
    required("main-mac", Str),
    required("vlan-table", List(&Int)),
    required("unicast-table", List(&Str)),
    required("multicast-table", List(&Str)),
]);

/// What `-netdev` takes, as `netdev_add` has it.
pub(super) const NETDEV: &[Member] = &[
    required("type", Enum(&["stream", "tap"])),
    required("id", Str),
    optional("addr", Any),
    optional("server", Bool),
    optional("reconnect", Int),
    optional("fd", Str),
    optional("ifname", Str),
    optional("vhost", Bool),
    optional("vhostfd", Str),
];

/// Which of that go together.
pub(super) const NETDEVS: Variants = Variants {
    tag: "type",
    cases: &[
        (
            "stream",
            &[
                required("addr", Any),
                optional("server", Bool),
                optional("reconnect", Int),
            ],
        ),
        (
            "tap",
            &[
                optional("fd", Str),
                optional("ifname", Str),
                optional("vhost", Bool),
                optional("vhostfd", Str),
            ],
        ),
    ],
};

/// Cards are there from the start; libvirt learns from this command what `-netdev` takes.
pub(super) fn netdev_add(_: &mut Request<'_>) -> Answer {
    let why = format!("The command netdev_add is not supported: {HOT_PLUG}");
    Err(QmpError::Generic(why))
}

/// The card of that name, its device's or its netdev's.
fn find<'a>(request: &'a Request<'_>, name: &str) -> Result<&'a NicFacts, QmpError> {
    let is_it = |facts: &NicFacts| facts.device.as_deref() == Some(name) || facts.netdev == name;
    let mut nics = request.monitor.facts.nics.iter();
    let found = nics.find(|facts| is_it(facts));
    found.ok_or_else(|| QmpError::DeviceNotFound(format!("Device '{name}' not found")))
}

pub(super) fn set_link(request: &mut Request<'_>) -> Answer {
    let name = request.text("name").unwrap_or_default();
    find(request, name)?
        .nic
        .plug(request.flag("up") == Some(true));
    Ok(json!({}))
}

pub(super) fn query_rx_filter(request: &mut Request<'_>) -> Answer {
    if let Some(name) = request.text("name") {
        return Ok(json!([filter(find(request, name)?)]));
    }
    Ok(request.monitor.facts.nics.iter().map(filter).collect())
}

fn filter(facts: &NicFacts) -> Value {
    let filter = facts.nic.filter();
    let state = |none: bool, all: bool| match (none, all) {
        (true, _) => "none",
        (_, true) => "all",
        _ => "normal",
    };
    let table = |table: &Table| -> Value { table.addresses.iter().map(Mac::to_string).collect() };
    json!({
        "name": facts.device.as_deref().unwrap_or(&facts.netdev),
        "promiscuous": filter.promiscuous,
        "multicast": state(filter.no_multicast, filter.all_multicast),
        "unicast": state(filter.no_unicast, filter.all_unicast),
        // Nothing is left out for its VLAN.
        "vlan": "all",
        "broadcast-allowed": !filter.no_broadcast,
        "multicast-overflow": filter.multicast.overflows,
        "unicast-overflow": filter.unicast.overflows,
        "main-mac": filter.mac.to_string(),
        "vlan-table": [],
        "unicast-table": table(&filter.unicast),
        "multicast-table": table(&filter.multicast),
    })
}

#[cfg(test)]
mod tests {
    use super::super::commands::ask;
    use super::*;
    use crate::qemu::monitor::sample::monitor;

    #[test]
    fn a_card_is_asked_about_and_unplugged_by_either_name() {
        let (monitor, _events) = monitor();
        let all = ask(&monitor, query_rx_filter, &json!({})).unwrap();
        assert_eq!(all[0]["name"], "net0");
        assert_eq!(all[0]["main-mac"], "52:54:00:00:00:01");
        assert_eq!(
            (&all[0]["promiscuous"], &all[0]["multicast"]),
            (&json!(true), &json!("normal"))
        );
        let one = ask(&monitor, query_rx_filter, &json!({"name": "net0"})).unwrap();
        assert_eq!(one, all);
        let is_up = || monitor.facts.nics[0].nic.is_up();
        for name in ["net0", "hostnet0"] {
            for up in [false, true] {
                ask(&monitor, set_link, &json!({"name": name, "up": up})).unwrap();
                assert_eq!(is_up(), up);
            }
        }
        let refused = ask(&monitor, set_link, &json!({"name": "other", "up": false})).unwrap_err();
        assert_eq!(refused.to_json()["class"], "DeviceNotFound");
    }
}
