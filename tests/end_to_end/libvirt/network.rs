//! libvirt's networks, which guests' cards are put into.

use std::path::Path;

use crate::harness::libvirt::{start, virsh};

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
