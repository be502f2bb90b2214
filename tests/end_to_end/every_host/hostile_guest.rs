//! A guest that passes nonsense to everything that the VMM serves.

use std::time::Duration;

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::assert_nothing_is_left;
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};

/// The longest that the guest takes, many times over.
const TIME_LIMIT: Duration = Duration::from_secs(60);

fn check(finished: Finished) {
    let finished = finished.assert_powered_off();
    assert!(
        !finished.console().contains("HOSTILE-GUEST-WRONG"),
        "{finished}"
    );
    let done = finished
        .console()
        .lines()
        .find_map(|line| line.split_once("HOSTILE-GUEST-DONE "));
    let counts = done
        .unwrap_or_else(|| panic!("the guest did not end\n{finished}"))
        .1
        .trim();
    let (calls, wrong) = counts.split_once(' ').expect("two counts");
    let calls: u64 = calls
        .strip_prefix("calls=")
        .expect("calls")
        .parse()
        .expect("a number");
    assert!(calls > 3_000, "{calls} calls only\n{finished}");
    assert_eq!(wrong, "wrong=0", "{finished}");
    assert!(finished.took() < TIME_LIMIT, "{finished}");
}

#[test]
fn nonsense_gets_error_codes_and_the_vmm_lives() {
    check(Vmm::bare_metal("hostile-guest", "seed=1 rounds=4000").run());
}

#[test]
fn nonsense_about_a_device_gets_error_codes_in_auto_mode() {
    check(
        Vmm::bare_metal("hostile-guest", "seed=2 rounds=4000")
            .nvme_with_windows()
            .run(),
    );
    assert_nothing_is_left();
}

#[test]
fn a_device_works_after_a_guest_that_passed_nonsense_about_it() {
    check(
        Vmm::bare_metal("hostile-guest", "seed=6 rounds=1500")
            .nvme_with_windows()
            .run(),
    );
    let vmm = Vmm::job(&[WAIT_FOR_NVME, READ_HEAD].concat()).nvme_with_windows();
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
}

#[test]
fn nonsense_about_a_device_gets_error_codes_in_user_mode() {
    let vmm = Vmm::bare_metal("hostile-guest", "seed=3 rounds=4000").nvme_with_windows();
    check(vmm.option("--tce", "user").run());
    assert_nothing_is_left();
}

#[test]
fn nonsense_about_interrupts_gets_error_codes_with_the_other_controller() {
    let vmm = Vmm::bare_metal("hostile-guest", "seed=4 rounds=4000").nvme_with_windows();
    check(vmm.option("--interrupt-controller", "xics").run());
    assert_nothing_is_left();
}
