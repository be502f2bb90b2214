//! Managed PCI devices of the host: taken from their driver, given to a guest, and given back.

use crate::harness::jobs::{READ_ALL, WAIT_FOR_NVME, data_sha256};
use crate::harness::libvirt::{Description, driver, nvme};

#[test]
fn a_managed_device_works_and_is_given_back() {
    let address = nvme();
    assert_eq!(driver(&address), "nvme");
    let domain = Description::new("hostdev")
        .job(&[WAIT_FOR_NVME, READ_ALL].concat())
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
