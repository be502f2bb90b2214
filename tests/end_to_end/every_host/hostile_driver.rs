//! A driver of virtio devices that writes nonsense into its registers and rings.

use std::fs;

use super::disk::image;
use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::interface::Interface;
use crate::harness::vmm::Folder;

/// Rounds of nonsense, of which the device is reset after each fourth.
const ROUNDS: u64 = 800;

/// The number behind `name=` in the guest's last line.
#[track_caller]
fn count(finished: &Finished, name: &str) -> u64 {
    let mut lines = finished.console().lines();
    let done = lines.find(|line| line.contains("VIRTIO-GUEST-DONE "));
    let words = done.and_then(|line| line.split_once(&format!(" {name}=")));
    let number = words.and_then(|(_, rest)| rest.split(' ').next());
    let number = number.and_then(|number| number.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no {name}\n{finished}"))
}

fn hostile(device: &[&str], by_bus_address: bool) {
    let arguments = format!("seed={} rounds={ROUNDS}", u8::from(by_bus_address) + 1);
    let mut vmm = Vmm::bare_metal("virtio-guest", &arguments);
    for argument in device {
        vmm = vmm.argument(argument);
    }
    if by_bus_address {
        vmm = vmm.argument("--iommu-platform");
    }
    let finished = vmm.run().assert_powered_off();
    assert!(
        !finished.console().contains("VIRTIO-GUEST-WRONG"),
        "{finished}"
    );
    assert_eq!(count(&finished, "wrong"), 0, "{finished}");
    assert_eq!(count(&finished, "requests"), ROUNDS / 4, "{finished}");
    // It was nonsense that it noticed.
    assert!(count(&finished, "stopped") > ROUNDS / 20, "{finished}");
    assert_nothing_is_left();
}

#[test]
fn nonsense_stops_the_device_until_it_is_reset_and_not_the_vmm() {
    for by_bus_address in [false, true] {
        hostile(&["--rng"], by_bus_address);
    }
}

#[test]
fn nonsense_stops_a_serial_device_until_it_is_reset() {
    for by_bus_address in [false, true] {
        let folder = Folder::new();
        let path = folder.file("port");
        let port = format!("port={}", path.display());
        hostile(&["--serial-port", &port, "--sandbox"], by_bus_address);
    }
}

#[test]
fn nonsense_stops_a_disk_until_it_is_reset_and_stays_in_its_image() {
    for (by_bus_address, words) in [(false, ""), (true, ",cache=none"), (false, ",aio=threads")] {
        let folder = Folder::new();
        let path = image(&folder, "disk.img");
        let bytes = || fs::metadata(&path).expect("an image").len();
        let before = bytes();
        let disk = format!("{}{words}", path.display());
        hostile(&["--disk", &disk, "--sandbox"], by_bus_address);
        assert_eq!(bytes(), before);
    }
}

#[test]
fn nonsense_stops_a_network_card_until_it_is_reset_and_not_the_vmm() {
    let _interface = Interface::new("vm0", 1);
    for by_bus_address in [false, true] {
        hostile(&["--net", "tap=vm0", "--sandbox"], by_bus_address);
    }
}
