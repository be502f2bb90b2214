//! Tests with libvirt that take too long for every change: more ways to do what the other modules do.

mod documents;
mod dump;
mod full_disk;
mod restart;
mod system;
mod unedited;

use std::net::TcpStream;

use super::limits::works;
use super::terminals::{PAGES, log_of, page_sizes};
use crate::harness::host::HugePages;
use crate::harness::jobs::{READ_ALL, WAIT_FOR_NVME, data_sha256};
use crate::harness::libvirt::{Description, driver, nvme};
use crate::harness::typist::Typist;

#[test]
fn libvirts_limit_is_enough_for_each_way_to_lock() {
    for iommu in ["v1", "v2"] {
        for lock in ["first-map", "attach"] {
            for devices in [1, 2] {
                works(&format!("lock={lock},iommu={iommu}"), devices);
            }
        }
    }
}

#[test]
fn a_guest_in_a_memfd_of_huge_pages_has_its_terminal_on_a_tcp_socket() {
    let _pages = HugePages::take(PAGES);
    let domain = Description::new("tcp")
        .element("<memoryBacking><hugepages/><source type='memfd'/></memoryBacking>")
        .terminal(&format!(
            "<serial type='tcp'><source mode='bind' host='127.0.0.1' service='4555'/>\
             <protocol type='raw'/>{}</serial>",
            log_of("tcp")
        ))
        .define();
    domain.start();
    assert!(domain.proc("cmdline").contains("memory-backend-memfd"));
    assert_eq!(page_sizes(&domain), [2048]);
    domain.wait_for_prompt(1);
    let client = TcpStream::connect("127.0.0.1:4555").expect("connect");
    let mut typist = Typist::new(client.try_clone().expect("clone"), client);
    typist.command("echo typed-$((40 + 2))", "typed-42");
}

#[test]
fn a_managed_device_works_and_is_given_back() {
    let address = nvme();
    assert_eq!(driver(&address), "nvme");
    let log = "dmesg | grep pe-dma-window\n";
    let domain = Description::new("hostdev")
        .job(&[WAIT_FOR_NVME, log, READ_ALL].concat())
        .host_device(&address)
        .define();
    domain.start();
    assert_eq!(driver(&address), "vfio-pci");
    domain.wait_for_state("shut off (shutdown)");
    let console = domain.console();
    let expected = format!("LAB-GUEST-SHA256 {}", data_sha256());
    assert!(console.contains(&expected), "{console}");
    assert!(console.contains("LAB-GUEST-STATUS 0"), "{console}");
    // libvirt gives each group a host bridge of its own, from number 1 on.
    let made = "returned 0 (liobn = 0x80000101 ";
    assert!(console.contains(made), "no {made:?}\n{console}");
    assert_eq!(driver(&address), "nvme", "not given back");
}
