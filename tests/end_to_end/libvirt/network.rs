//! libvirt's networks, which guests' cards are put into.

use std::path::Path;
use std::process::Command;

use crate::harness::interface::{Interface, Listener};
use crate::harness::libvirt::{Description, start, virsh};
use crate::main_host::queue_pairs;

const NETWORK: &str = "<network><name>lab</name><forward mode='open'/>\
                       <bridge name='lab-bridge' stp='off' delay='0'/></network>";

#[test]
fn a_network_is_started_with_its_bridge_and_goes_with_it() {
    start();
    // /tmp is the same folder for libvirt.
    std::fs::write("/tmp/network.xml", NETWORK).expect("write");
    virsh(&["net-define", "/tmp/network.xml"]);
    virsh(&["net-start", "lab"]);
    let bridge = Path::new("/sys/class/net/lab-bridge/bridge");
    let is_there = bridge.exists();
    virsh(&["net-destroy", "lab"]);
    virsh(&["net-undefine", "lab"]);
    assert!(is_there, "libvirt made no bridge");
    assert!(!bridge.exists(), "libvirt left its bridge behind");
}

#[test]
fn a_domain_in_a_bridge_has_an_address_and_its_cable_is_pulled() {
    start();
    let bridge = Bridge::new("lab-bridge");
    let interface = Interface::with_address(&bridge.0, 3);
    let listener = interface.listen();
    let link = "
echo LAB-GUEST-IDLE yes
until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do sleep 0.2; done
echo LAB-GUEST-PULLED yes
until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.2; done
ping -c 3 -i 0.2 -W 5 -q 10.77.3.1 >/dev/null && echo LAB-GUEST-PLUGGED yes
";
    let card = format!(
        "<interface type='bridge'><mac address='52:54:00:77:03:01'/><source bridge='{}'/>\
         <model type='virtio'/><mtu size='1400'/></interface>",
        bridge.0
    );
    let domain = Description::new("networked")
        .device(&card)
        .job(&[&interface.job(), link].concat())
        .define();
    domain.start();
    domain.wait_for_console("LAB-GUEST-IDLE yes", 1);
    let console = domain.console();
    for line in [
        "LAB-GUEST-MAC 52:54:00:77:03:01",
        "LAB-GUEST-MTU 1400",
        "LAB-GUEST-ADDRESS 10.77.3.",
    ] {
        assert!(console.contains(line), "{line}: {console}");
    }
    assert_passed(listener, &console);
    let list = domain.virsh("domiflist");
    let name = list.lines().find(|line| line.contains("52:54:00:77:03:01"));
    let name = name.and_then(|line| line.split_whitespace().next());
    let name = name
        .unwrap_or_else(|| panic!("no interface: {list}"))
        .to_owned();
    let counts = virsh(&["domifstat", "networked", &name]);
    assert!(
        counts.contains("rx_bytes") && counts.contains("tx_bytes"),
        "{counts}"
    );
    virsh(&["domif-setlink", "networked", &name, "down"]);
    domain.wait_for_console("LAB-GUEST-PULLED yes", 1);
    virsh(&["domif-setlink", "networked", &name, "up"]);
    domain.wait_for_console("LAB-GUEST-PLUGGED yes", 1);
    domain.wait_for_state("shut off (shutdown)");
    domain.virsh("undefine");
}

#[test]
fn a_domain_uses_two_pairs_of_queues_that_libvirt_has_opened_with_vhost_and_without() {
    start();
    let bridge = Bridge::new("lab-pairs");
    let interface = Interface::with_address(&bridge.0, 7);
    for driver in ["vhost", "qemu"] {
        let listener = interface.listen();
        let card = format!(
            "<interface type='bridge'><source bridge='{}'/><model type='virtio'/>\
             <driver name='{driver}' queues='2'/></interface>",
            bridge.0
        );
        let domain = Description::new("paired")
            .device(&card)
            .job(&queue_pairs::job(&interface, 1))
            .define();
        domain.start();
        domain.wait_for_state("shut off (shutdown)");
        let console = domain.console();
        assert!(console.contains("LAB-GUEST-QUEUES 2"), "{console}");
        assert_passed(listener, &console);
        queue_pairs::assert_by_both(&console, 2);
        domain.virsh("undefine");
    }
}

#[test]
fn a_domain_has_a_network_by_passt_which_libvirt_starts() {
    start();
    let uplink = Bridge::new("lab-uplink");
    let interface = Interface::of_passt(&uplink.0, 5);
    let listener = interface.listen();
    let card = format!(
        "<interface type='user'><backend type='passt'/><mac address='52:54:00:77:05:01'/>\
         <source dev='{}'/><model type='virtio'/></interface>",
        uplink.0
    );
    let domain = Description::new("by-passt")
        .device(&card)
        .job(&interface.job())
        .define();
    domain.start();
    domain.wait_for_state("shut off (shutdown)");
    let console = domain.console();
    // The host's own, which the guest has by DHCP from passt.
    for line in [
        "LAB-GUEST-MAC 52:54:00:77:05:01",
        "LAB-GUEST-ADDRESS 10.77.5.2",
    ] {
        assert!(console.contains(line), "{line}: {console}");
    }
    assert_passed(listener, &console);
    domain.virsh("undefine");
}

/// Fails unless what a guest fetched and sent is the same on both sides.
#[track_caller]
fn assert_passed(listener: Listener, console: &str) {
    for (key, digest) in ["FETCHED", "SENT"].into_iter().zip(listener.digests()) {
        let line = format!("LAB-GUEST-{key} {digest}");
        assert!(console.contains(&line), "{line}: {console}");
    }
}

/// A bridge of the host's; it goes with the test.
pub(super) struct Bridge(pub(super) String);

impl Bridge {
    pub(super) fn new(name: &str) -> Self {
        ip(&["link", "add", name, "type", "bridge"]);
        Self(name.to_owned())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        ip(&["link", "delete", &self.0]);
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(status.expect("no ip").success(), "ip {arguments:?}");
}
