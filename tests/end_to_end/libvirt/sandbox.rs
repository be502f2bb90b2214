//! The sandbox that libvirt asks for.

use std::fs;

use crate::harness::libvirt::Description;

#[test]
fn every_thread_of_a_domain_has_a_filter() {
    let domain = Description::new("sandbox").define();
    domain.start();
    let mut names = Vec::new();
    for task in domain.threads() {
        let name = fs::read_to_string(task.join("comm")).expect("comm");
        let status = fs::read_to_string(task.join("status")).expect("status");
        assert!(status.contains("Seccomp:\t2"), "{name}: {status}");
        names.push(name.trim().to_owned());
    }
    names.sort();
    let expected = [
        "CPU 0/KVM",
        "CPU 1/KVM",
        "console",
        "console log",
        "console-input",
        "dump",
        "log",
        "monitor",
        "spapr-vmm-qemu",
        "terminal",
    ];
    assert_eq!(names, expected);
}
