//! Devices that cannot be passed through.

use std::path::Path;

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::{self, assert_nothing_is_left, give_to_user, group_node, open_to_all};
use crate::harness::refusal::{Refusal, request};
use crate::harness::vmm::User;

/// Runs a guest with this device, and makes sure that nothing is left of the run.
fn with_device(device: &str) -> Finished {
    let finished = Vmm::linux().option("--vfio", device).run();
    assert_nothing_is_left();
    finished
}

#[test]
fn an_address_that_is_none() {
    for address in ["1:2:3:4", "0001:01:20.0", "0001:01:00.8", "nvme0", ""] {
        with_device(address).assert_refused(&["--vfio", "DDDD:BB:DD.F"]);
    }
}

#[test]
fn a_device_that_is_absent() {
    let finished = with_device("0001:07:00.0");
    finished.assert_refused(&["no PCI device 0001:07:00.0", "lspci -D"]);
}

#[test]
fn a_device_of_the_hosts() {
    let nvme = host::nvme();
    let finished = {
        let _rebound = host::rebind(&nvme, Some("nvme"));
        Vmm::linux().nvme().run()
    };
    let unbind = format!("echo {nvme} > /sys/bus/pci/devices/{nvme}/driver/unbind");
    finished.assert_refused(&[
        &nvme,
        "driver nvme",
        "not to vfio-pci",
        "driver_override",
        &unbind,
    ]);
    assert_nothing_is_left();
}

#[test]
fn a_device_without_a_driver() {
    let nvme = host::nvme();
    let finished = {
        let _rebound = host::rebind(&nvme, None);
        Vmm::linux().nvme().run()
    };
    finished.assert_refused(&[
        &nvme,
        "bound to no driver",
        "modprobe vfio-pci",
        "driver_override",
    ]);
    assert_nothing_is_left();
}

/// The emulated host has no group of two devices; the run sees one, with its network card in it.
#[test]
fn a_device_that_shares_its_group_with_one_of_the_hosts() {
    let (nvme, nic, group) = (host::nvme(), host::nic(), host::group());
    let _rebound = host::rebind(&nic, Some("e1000e"));
    let folder = format!("/sys/kernel/iommu_groups/{group}/devices");
    let link = |device: &str| {
        format!("ln -s $(readlink -f /sys/bus/pci/devices/{device}) {folder}/{device}")
    };
    let commands = format!(
        "mount -t tmpfs tmpfs {folder} && {} && {}",
        link(&nvme),
        link(&nic)
    );
    let finished = Vmm::linux().nvme().in_namespace(&commands).run();
    let member = format!("{nic} (bound to e1000e)");
    finished.assert_refused(&[&format!("IOMMU group {group}"), &member, "vfio-pci"]);
    assert_nothing_is_left();
}

#[test]
fn a_group_that_belongs_to_another_user() {
    let _kvm = open_to_all(Path::new("/dev/kvm"));
    let finished = Vmm::linux().nvme().run_by(User { memlock: 1 << 32 }).run();
    let node = group_node().display().to_string();
    finished.assert_refused(&[
        &format!("no permission to open {node}"),
        "user 1000",
        "chown 1000",
    ]);
    assert_nothing_is_left();
}

#[test]
fn a_group_that_is_in_use() {
    let held = host::open_group().expect("cannot open the group");
    let finished = Vmm::linux().nvme().run();
    drop(held);
    let group = format!("IOMMU group {}", host::group());
    finished.assert_refused(&[&group, "in use by another process", "fuser -v"]);
    assert_nothing_is_left();
}

#[test]
fn a_device_given_twice() {
    let nvme = host::nvme();
    let finished = Vmm::linux().nvme().option("--vfio", &nvme).run();
    finished.assert_refused(&[&nvme, "twice", "--vfio"]);
    assert_nothing_is_left();
}

#[test]
fn a_container_without_spapr_support() {
    let none = Refusal {
        request: request::VFIO_CHECK_EXTENSION,
        argument: None,
        errno: 0,
    };
    let finished = Vmm::linux().nvme().refusing(none).run();
    finished.assert_refused(&["no SPAPR TCE support", "modprobe vfio_iommu_spapr_tce"]);
    assert_nothing_is_left();
}

#[test]
fn a_host_without_the_container_device() {
    let finished = Vmm::linux()
        .nvme()
        .in_namespace("mount -t tmpfs tmpfs /dev/vfio")
        .run();
    finished.assert_refused(&[
        "/dev/vfio/vfio does not exist",
        "modprobe vfio_iommu_spapr_tce",
    ]);
    assert_nothing_is_left();
}

#[test]
fn a_limit_on_locked_memory_that_is_too_low() {
    let _kvm = open_to_all(Path::new("/dev/kvm"));
    let _group = give_to_user(&group_node());
    for (lock, least_needed) in [("first-map", 8 << 20), ("attach", 1 << 30)] {
        let vmm = Vmm::linux()
            .nvme()
            .option("--lock", lock)
            .run_by(User { memlock: 8 << 20 });
        let finished = vmm.run();
        finished.assert_refused(&[
            "only 8388608 bytes are available",
            "RLIMIT_MEMLOCK is 8388608 bytes",
            "ulimit -l",
            "LimitMEMLOCK=",
        ]);
        let needed = finished
            .errors()
            .split_once("DMA needs ")
            .expect("what is needed")
            .1;
        let needed: u64 = needed
            .split_whitespace()
            .next()
            .expect("a number")
            .parse()
            .expect("bytes");
        assert!(needed > least_needed, "{finished}");
        assert_nothing_is_left();
    }
}
