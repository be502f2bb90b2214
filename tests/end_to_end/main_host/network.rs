//! Guests with virtio network cards: beside a passed-through NVMe, and by a socket.

use crate::every_host::network::{SET_UP_EXITS, assert_passed};
use crate::harness::Vmm;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::interface::Interface;
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256, reboot_once};
use crate::harness::scratch::NETWORK_MARK;
use crate::harness::vmm::Folder;
use crate::harness::wire::Wire;

#[test]
fn a_card_and_a_passed_through_nvme_work_side_by_side_also_after_a_reboot() {
    let interface = Interface::new("vm0", 1);
    let listener = interface.listen();
    // The card's thread of a second life has the filter of who starts it.
    let again = reboot_once(NETWORK_MARK, "a-mark-of-the-network-test");
    let job = [WAIT_FOR_NVME, &again, &interface.job(), READ_HEAD].concat();
    let finished = Vmm::job(&job)
        .nvme_with_windows()
        .option("--net", "tap=vm0")
        .option("--cpus", "2")
        .argument("--sandbox")
        .run()
        .assert_job_done();
    assert_eq!(finished.number("/reboots"), 1, "{finished}");
    assert_passed(&finished, listener);
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_eq!(finished.errors(), "", "{finished}");
    assert_nothing_is_left();
}

#[test]
fn what_a_card_lacks_is_said() {
    let _interface = Interface::new("vm0", 1);
    let missing = Vmm::job("true").option("--net", "tap=vm1").run();
    missing
        .assert_refused(&["--net: this host has no interface vm1; make it: ip tuntap add dev vm1"]);
    let other = Vmm::job("true").option("--net", "tap=lo").run();
    other.assert_refused(&["--net: lo is no TAP interface"]);
    let twice = Vmm::job("true")
        .option("--net", "tap=vm0")
        .option("--net", "tap=vm0")
        .run();
    twice.assert_refused(&["--net: another program has the interface vm0 open"]);
    let descriptor = Vmm::job("true").option("--net", "fd=0").run();
    descriptor.assert_refused(&["--net: file descriptor 0 is not that of a TAP interface"]);
    let socket = Vmm::job("true").option("--net", "passt=/no/socket").run();
    socket.assert_refused(&["--net: cannot connect to /no/socket"]);
    assert_nothing_is_left();
}

#[test]
fn a_guest_has_the_network_of_a_program_that_listens_at_a_socket() {
    let interface = Interface::new("vm0", 1);
    let listener = interface.listen();
    let folder = Folder::new();
    let socket = folder.file("socket");
    let _wire = Wire::start("vm0", &socket);
    let finished = Vmm::job(&interface.job())
        .option("--net", &format!("passt={}", socket.display()))
        .argument("--sandbox")
        .run()
        .assert_job_done();
    assert_passed(&finished, listener);
    let exits = finished.number("/exits/mmio");
    assert!(exits < SET_UP_EXITS, "{exits}: {finished}");
    assert_eq!(finished.errors(), "", "{finished}");
    assert_nothing_is_left();
}
