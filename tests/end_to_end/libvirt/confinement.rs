//! What libvirt confines an emulator to by default: a /dev and control groups of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::host;
use crate::harness::libvirt::{Description, Domain, nvme};

/// A device of the host that no guest needs.
const NOT_NEEDED: &str = "kmsg";

fn domain(name: &str) -> Domain {
    let domain = Description::new(name).host_device(&nvme()).define();
    domain.start();
    assert!(Path::new("/dev").join(NOT_NEEDED).exists());
    domain
}

#[test]
fn a_domain_has_the_devices_that_libvirt_gives_it_and_no_others() {
    let domain = domain("own-devices");
    let devices = domain.devices();
    let group = format!("vfio/{}", host::group());
    for given in ["null", "kvm", "vfio/vfio", &group] {
        assert!(devices.join(given).exists(), "no {given}");
    }
    assert!(!devices.join(NOT_NEEDED).exists());
}

#[test]
fn a_domains_threads_are_in_its_control_groups_which_keep_other_devices_from_it() {
    let domain = domain("control-groups");
    let own = domain.proc("cgroup");
    let group = own
        .trim()
        .strip_prefix("0::")
        .and_then(|own| own.strip_suffix("/emulator"))
        .unwrap_or_else(|| panic!("{own}"));
    let mut processors = 0;
    for thread in domain.threads() {
        let name = fs::read_to_string(thread.join("comm")).expect("comm");
        let part = match name.trim() {
            "CPU 0/KVM" => "vcpu0",
            "CPU 1/KVM" => "vcpu1",
            _ => "emulator",
        };
        processors += usize::from(part != "emulator");
        let found = fs::read_to_string(thread.join("cgroup")).expect("cgroup");
        assert_eq!(found.trim(), format!("0::{group}/{part}"), "{name}");
    }
    assert_eq!(processors, 2);
    // Another process there is kept from them as the emulator is.
    let open = |device: &str| {
        let script = format!("echo $$ >/sys/fs/cgroup{group}/cgroup.procs && exec </dev/{device}");
        let output = Command::new("sh").args(["-c", &script]).output();
        output.expect("sh")
    };
    let allowed = open("null");
    assert!(allowed.status.success(), "{allowed:?}");
    let denied = open(NOT_NEEDED);
    let why = String::from_utf8_lossy(&denied.stderr);
    let expected = format!("/dev/{NOT_NEEDED}: Operation not permitted");
    assert!(why.contains(&expected), "{why}");
}
