//! Tests with libvirt that take too long for every change: more ways to do what the other modules do.

use std::fs;
use std::net::TcpStream;

use super::dump::{assert_dump, auto_dumps};
use super::limits::works;
use super::terminals::{PAGES, log_of, page_sizes};
use crate::harness::host::HugePages;
use crate::harness::libvirt::Description;
use crate::harness::typist::Typist;

#[test]
fn a_domain_that_crashes_is_dumped_and_destroyed() {
    let domain = Description::new("crash-end")
        .on_crash("coredump-destroy")
        .job("echo c >/proc/sysrq-trigger")
        .define();
    domain.start();
    domain.wait_for_state("shut off (crashed)");
    let dumps = auto_dumps("crash-end");
    let [dump] = &dumps[..] else {
        panic!("{dumps:?}")
    };
    assert_dump(dump, "sysrq: Trigger a crash");
    fs::remove_file(dump).expect("remove");
}

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
