//! Managed PCI devices of the host: taken from their driver, given to a guest, and given back.

use crate::harness::jobs::data_sha256;
use crate::harness::libvirt::{Description, driver, nic, nvme};

#[test]
fn a_managed_device_works_and_is_given_back() {
    let address = nvme();
    assert_eq!(driver(&address), "nvme");
    let domain = Description::new("hostdev")
        .append("job=nvme-digest")
        .host_device(&address)
        .define();
    domain.start();
    assert_eq!(driver(&address), "vfio-pci");
    domain.wait_for_state("shut off (shutdown)");
    let console = domain.console();
    let expected = format!("LAB-GUEST-SHA256 {}", data_sha256());
    assert!(console.contains(&expected), "{console}");
    assert!(console.contains("LAB-GUEST-STATUS 0"), "{console}");
    assert_eq!(driver(&address), "nvme", "not given back");
}

#[test]
fn two_managed_devices_of_two_groups_are_behind_two_host_bridges() {
    let (nvme, nic) = (nvme(), nic());
    let domain = Description::new("two-devices")
        .append("job=nvme-digest")
        .host_device(&nvme)
        .host_device(&nic)
        .define();
    domain.start();
    domain.wait_for_state("shut off (shutdown)");
    let console = domain.console();
    assert!(console.contains(&data_sha256()), "{console}");
    assert!(console.contains("e1000e"), "{console}");
    assert_eq!(
        (driver(&nvme), driver(&nic)),
        ("nvme".into(), "e1000e".into())
    );
}
