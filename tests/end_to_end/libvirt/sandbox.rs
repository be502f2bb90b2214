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
        // KVM's own workers are the kernel's and run none of our code.
        if !name.starts_with("kvm-") {
            assert!(status.contains("Seccomp:\t2"), "{name}: {status}");
        }
        names.push(name.trim().to_owned());
    }
    for name in [
        "CPU 0/KVM",
        "CPU 1/KVM",
        "monitor",
        "console",
        "console log",
    ] {
        assert!(
            names.iter().any(|known| known == name),
            "no {name} in {names:?}"
        );
    }
}
