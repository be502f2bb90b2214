//! Ranges of bulk calls that end outside of their window, in the default mode, after the calls that had them
//! handed over to kernels that do not look where a range ends.

use crate::harness::host::assert_nothing_is_left;
use crate::harness::kernel_log::KernelLog;
use crate::harness::tce_calls::{H_PARAMETER, H_SUCCESS, TceCalls};

/// The last page of the default window.
const LAST_PAGE: u64 = 0x3fff_f000;

fn ranges_past_the_end_are_refused(options: &[&str]) {
    let kernel_log = KernelLog::from_now();
    let vmm = options
        .iter()
        .fold(TceCalls::vmm(), |vmm, option| vmm.argument(option));
    let mut guest = TceCalls::start(vmm);
    // Short calls are cheapest in the kernel: some of them had it take over, each kind for itself.
    for _ in 0..40 {
        assert_eq!(guest.make("list 0 1003 1").0, H_SUCCESS);
        assert_eq!(guest.make("stuff 0 1").0, H_SUCCESS);
    }
    assert_eq!(guest.make(&format!("put {LAST_PAGE:x} 5003")).0, H_SUCCESS);
    for _ in 0..5 {
        for count in ["2", "200", "40000", "7fffffffffffffff", "ffffffffffffffff"] {
            let stuff = format!("stuff {LAST_PAGE:x} {count}");
            assert_eq!(guest.make(&stuff).0, H_PARAMETER, "{stuff}");
        }
        for count in ["2", "200"] {
            let list = format!("list {LAST_PAGE:x} 1003 {count}");
            assert_eq!(guest.make(&list).0, H_PARAMETER, "{list}");
        }
    }
    let view = guest.make(&format!("get {LAST_PAGE:x}"));
    assert_eq!(view, (H_SUCCESS, 0x5003));
    assert_eq!(guest.make(&format!("stuff {LAST_PAGE:x} 1")).0, H_SUCCESS);
    let finished = guest.power_off().assert_powered_off();
    assert_eq!(
        finished.stat("/bulk_calls/H_STUFF_TCE/in_kernel"),
        false,
        "{finished}"
    );
    assert_eq!(finished.number("/bulk_calls/H_STUFF_TCE/handed_over"), 0);
    assert_nothing_is_left();
    kernel_log.assert_no_complaint();
}

#[test]
fn in_the_default_mode_ranges_past_the_windows_end_are_refused_after_short_calls() {
    ranges_past_the_end_are_refused(&[]);
}

#[test]
fn so_they_are_with_a_container_of_version_1() {
    ranges_past_the_end_are_refused(&["--iommu", "v1"]);
}
