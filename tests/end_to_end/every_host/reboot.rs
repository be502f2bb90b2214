//! Reboot, by the guest's own doing.

use crate::harness::Vmm;
use crate::harness::finished::WHY_XICS;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{COUNT_CPUS, READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::scratch::REBOOT_MARK;

const MARK: &str = "a-mark-of-the-reboot-test";

#[test]
fn a_guest_that_reboots_starts_again_with_its_device() {
    let place = REBOOT_MARK.start_4k();
    let first_or_second = format!(
        "
mark() {{ dd if=/dev/nvme0n1 bs=4096 skip={place} count=1 iflag=direct; }}
mark >/tmp/mark 2>/tmp/error || echo LAB-GUEST-ERROR $(cat /tmp/error)
if ! grep -q {MARK} /tmp/mark; then
    echo LAB-GUEST-FOUND $(head -c 40 /tmp/mark | tr -c '[:alnum:]-' .) of $(wc -c </tmp/mark)
    printf '%-4096s' {MARK} |
        dd of=/dev/nvme0n1 bs=4096 seek={place} iflag=fullblock oflag=direct || exit 1
    echo LAB-GUEST-REBOOTS
    reboot -f
    sleep 60
    exit 1
fi
"
    );
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
