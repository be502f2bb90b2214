//! Which interrupt controller a guest has: XIVE on hosts with pages of 64 KiB, XICS on the others.

use crate::harness::Vmm;
use crate::harness::host::lab;
use crate::harness::jobs::NAME_CONTROLLER;

#[test]
fn a_guest_has_xive_and_where_the_hosts_pages_are_too_small_for_it_xics() {
    let controller = |vmm: Vmm| {
        let finished = vmm.run().assert_job_done();
        finished.guest("CONTROLLER").to_owned()
    };
    if lab("LAB_HOST").ends_with("-64k") {
        assert_eq!(controller(Vmm::job(NAME_CONTROLLER)), "XIVE-IRQ");
        return;
    }
    assert_eq!(controller(Vmm::job(NAME_CONTROLLER)), "XICS");
    let vmm = Vmm::job(NAME_CONTROLLER).option("--interrupt-controller", "xive");
    vmm.run().assert_refused(&[
        "0x1000 bytes",
        "--interrupt-controller: ",
        "xics works on any host",
    ]);
}
