//! What a guest does with its devices beside DMA: taking and freeing interrupts, and having two.

use std::fs::File;
use std::path::Path;

use crate::harness::Vmm;
use crate::harness::host::{assert_nothing_is_left, lab};
use crate::harness::jobs::{READ_ALL, WAIT_FOR_NVME, data_sha256};

/// Takes the NVMe from its driver and gives it back, time and again; says how many interrupt
/// vectors it had first and last.
const BIND_AGAIN: &str = "
device=$(basename $(readlink -f /sys/block/nvme0n1/device/device))
driver=/sys/bus/pci/drivers/nvme
vectors() { grep -c nvme /proc/interrupts; }
echo LAB-GUEST-FIRST $(vectors)
for _ in 1 2 3 4 5 6 7 8; do
    echo $device >$driver/unbind || exit 1
    [ -b /dev/nvme0n1 ] && { echo LAB-GUEST-ERROR still there; exit 1; }
    [ $(vectors) = 0 ] || { echo LAB-GUEST-ERROR vectors are left; exit 1; }
    echo $device >$driver/bind || exit 1
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ -b /dev/nvme0n1 ] && break
        sleep 0.25
    done
done
echo LAB-GUEST-LAST $(vectors)
";

#[test]
fn interrupt_vectors_that_a_driver_frees_can_be_had_again() {
    let job = [WAIT_FOR_NVME, BIND_AGAIN, WAIT_FOR_NVME, READ_ALL].concat();
    let vmm = Vmm::job(&job).nvme_with_windows().option("--cpus", "4");
    let finished = vmm.run().assert_job_done();
    let first: u64 = finished.guest("FIRST").parse().expect("a number");
    // One for the administration queue and one for each processor's.
    assert_eq!(first, 5, "{finished}");
    assert_eq!(finished.guest("LAST"), "5", "{finished}");
    assert_eq!(finished.guest("SHA256"), data_sha256(), "{finished}");
    assert_nothing_is_left();
}

/// Says which PCI devices there are, and their drivers.
const LIST_DEVICES: &str = "
for device in /sys/bus/pci/devices/*; do
    echo LAB-GUEST-DEVICE $(cat $device/class) $(basename $(readlink $device/driver))
done
";

#[test]
fn a_guest_has_devices_of_two_groups() {
    let job = [WAIT_FOR_NVME, LIST_DEVICES, READ_ALL].concat();
    let finished = Vmm::job(&job).nic().nvme().run().assert_job_done();
    let mut devices: Vec<&str> = finished
        .console()
        .lines()
        .filter_map(|line| Some(line.split_once("LAB-GUEST-DEVICE ")?.1.trim()))
        .collect();
    devices.sort_unstable();
    // PCI class codes: NVM Express, and an Ethernet controller.
    let expected = ["0x010802 nvme", "0x020000 e1000e"];
    assert_eq!(devices, expected, "{finished}");
    assert_eq!(finished.guest("SHA256"), data_sha256(), "{finished}");
    assert_nothing_is_left();
    let nic = Path::new("/dev/vfio").join(lab("LAB_NIC_GROUP"));
    File::open(nic).expect("the network card's group is still in use");
}
