//! A guest that passes nonsense to everything that the VMM serves.

use std::time::Duration;

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::{assert_nothing_is_left, checks_where_lists_end};
use crate::harness::jobs::{READ_HEAD, WAIT_FOR_NVME, head_sha256};
use crate::harness::kernel_log::KernelLog;

/// The longest that the guest takes, many times over.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Runs the guest, and checks what it says.
fn check(vmm: Vmm) -> Finished {
    let kernel_log = KernelLog::from_now();
    let finished = vmm.run().assert_powered_off();
    kernel_log.assert_no_complaint();
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
    finished
}

/// Runs the guest with a device and dynamic windows; checks also that ranges behind the end of its windows were
/// tried and refused.
fn check_with_windows(vmm: Vmm) -> Finished {
    let finished = check(vmm);
    for (window, fewest_lists) in [("default", 400), ("dynamic", 5_000)] {
        let [stuffs, lists] = ranges(&finished, window);
        assert!(stuffs > 1_000 && lists > fewest_lists, "{finished}");
    }
    assert_nothing_is_left();
    finished
}

/// How many ranges behind the end of a window were tried with H_STUFF_TCE and with H_PUT_TCE_INDIRECT; fails
/// unless all were refused.
fn ranges(finished: &Finished, window: &str) -> [u64; 2] {
    let start = format!("HOSTILE-GUEST-RANGES {window} ");
    let mut lines = finished.console().lines();
    let line = lines.find_map(|line| line.split_once(&start));
    let counts = line
        .unwrap_or_else(|| panic!("no {start}\n{finished}"))
        .1
        .trim()
        .split(' ');
    let tried: Vec<u64> = counts
        .zip(["H_STUFF_TCE=", "H_PUT_TCE_INDIRECT="])
        .map(|(word, call)| {
            let counts = word.strip_prefix(call).and_then(|it| it.split_once('/'));
            let (refused, tried) = counts.expect("two counts");
            assert_eq!(refused, tried, "{window}: {word}\n{finished}");
            tried.parse().expect("a number")
        })
        .collect();
    tried.try_into().expect("two calls")
}

#[test]
fn nonsense_gets_error_codes_and_the_vmm_lives() {
    check(Vmm::bare_metal("hostile-guest", "seed=1 rounds=4000"));
}

#[test]
fn nonsense_about_a_device_gets_error_codes_in_auto_mode() {
    let vmm = Vmm::bare_metal("hostile-guest", "seed=2 rounds=4000").nvme_with_windows();
    let finished = check_with_windows(vmm);
    assert_eq!(finished.stat("/windows/0/path"), "bound", "{finished}");
    let handed_over = |call: &str| finished.number(&format!("/bulk_calls/{call}/handed_over"));
    assert_eq!(handed_over("H_STUFF_TCE"), 0, "{finished}");
    // Where the kernel is trusted with lists, the guest did bring that about.
    let lists = handed_over("H_PUT_TCE_INDIRECT");
    assert_eq!(lists > 0, checks_where_lists_end(), "{finished}");
}

#[test]
fn ranges_behind_a_windows_end_are_refused_with_a_version_1_container() {
    let vmm = Vmm::bare_metal("hostile-guest", "seed=7 rounds=500").nvme_with_windows();
    let finished = check(vmm.option("--iommu", "v1"));
    let [stuffs, lists] = ranges(&finished, "default");
    assert!(stuffs > 1_000 && lists > 400, "{finished}");
    assert_nothing_is_left();
}

#[test]
fn a_device_works_after_a_guest_that_passed_nonsense_about_it() {
    check_with_windows(Vmm::bare_metal("hostile-guest", "seed=6 rounds=1500").nvme_with_windows());
    let vmm = Vmm::job(&[WAIT_FOR_NVME, READ_HEAD].concat()).nvme_with_windows();
    let finished = vmm.run().assert_job_done();
    assert_eq!(finished.guest("SHA256"), head_sha256(), "{finished}");
}

#[test]
fn nonsense_about_a_device_gets_error_codes_in_user_mode() {
    let vmm = Vmm::bare_metal("hostile-guest", "seed=3 rounds=4000").nvme_with_windows();
    check_with_windows(vmm.option("--tce", "user"));
}

#[test]
fn nonsense_about_interrupts_gets_error_codes_with_the_other_controller() {
    let vmm = Vmm::bare_metal("hostile-guest", "seed=4 rounds=4000").nvme_with_windows();
    check_with_windows(vmm.option("--interrupt-controller", "xics"));
}
