//! Reboot, by the guest's own doing.

use crate::harness::Vmm;
use crate::harness::finished::WHY_XICS;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{COUNT_CPUS, READ_HEAD, WAIT_FOR_NVME, head_sha256, reboot_once};
use crate::harness::scratch::REBOOT_MARK;

#[test]
fn a_guest_that_reboots_starts_again_with_its_device() {
    let first_or_second = reboot_once(REBOOT_MARK, "a-mark-of-the-reboot-test");
    let job = [WAIT_FOR_NVME, &first_or_second, COUNT_CPUS, READ_HEAD].concat();
    let finished = Vmm::job(&job)
        .nvme()
        .option("--cpus", "2")
        .run()
        .assert_job_done();
    // What each life said, of which the end alone would be shown.
    let said: Vec<&str> = finished
        .console()
        .lines()
        .filter(|line| line.contains("LAB-GUEST-") || line.contains("nvme"))
        .collect();
    assert_eq!(finished.number("/reboots"), 1, "{said:#?}\n{finished}");
    assert_eq!(
        finished.console().matches("LAB-GUEST-REBOOTS").count(),
        1,
        "{finished}"
    );
    assert_eq!(
        finished.console().matches("LAB-GUEST-INIT").count(),
        2,
        "{finished}"
    );
    assert_eq!(finished.guest("CPUS"), "2", "{finished}");
    let said = finished.errors().matches(WHY_XICS).count();
    assert!(said <= 1, "said in each life\n{finished}");
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
    assert_nothing_is_left();
}
