//! The host is what the other tests rely on.

use std::env;
use std::path::Path;
use std::process::Command;

/// What the lab says about the host.
fn lab(variable: &str) -> String {
    env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: not in a lab host"))
}

#[test]
fn kvm_is_there() {
    assert!(Path::new("/dev/kvm").exists());
}

#[test]
fn scripts_have_jq_and_guests_networks() {
    let jq = Command::new("jq").args(["-n", "[1, 2] | add"]).output();
    let jq = jq.expect("jq does not start");
    assert_eq!(String::from_utf8_lossy(&jq.stdout), "3\n", "{jq:?}");
    let tun = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    assert!(tun.is_ok(), "{tun:?}");
}

#[test]
fn the_kernel_is_the_one_that_was_asked_for() {
    let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("no version");
    assert_eq!(version.trim(), lab("LAB_KERNEL"));
}

#[test]
fn the_nvme_is_bound_to_vfio_pci_and_its_group_is_there() {
    let driver = format!("/sys/bus/pci/devices/{}/driver", lab("LAB_NVME"));
    let driver = std::fs::read_link(&driver).expect("the NVMe has no driver");
    assert_eq!(driver.file_name().expect("a driver has a name"), "vfio-pci");
    assert!(Path::new("/dev/vfio").join(lab("LAB_NVME_GROUP")).exists());
}

#[test]
fn the_page_size_is_what_the_hosts_name_says() {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("no smaps");
    let line = smaps
        .lines()
        .find(|line| line.starts_with("KernelPageSize:"))
        .expect("no line");
    let kib = line.split_whitespace().nth(1).expect("no value");
    let wanted = if lab("LAB_HOST").ends_with("-64k") {
        "64"
    } else {
        "4"
    };
    assert_eq!(kib, wanted);
}
