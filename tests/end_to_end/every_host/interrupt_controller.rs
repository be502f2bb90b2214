//! Which interrupt controller a guest has: XIVE on bare-metal hosts with pages of 64 KiB, XICS on the others.

use crate::harness::Vmm;
use crate::harness::host::{is_lpar, lab};
use crate::harness::jobs::NAME_CONTROLLER;

#[test]
fn a_guest_has_xive_and_where_the_host_has_none_for_it_xics() {
    let controller = |vmm: Vmm| {
        let finished = vmm.run().assert_job_done();
        finished.guest("CONTROLLER").to_owned()
    };
    let has_small_pages = !lab("LAB_HOST").ends_with("-64k");
    if !has_small_pages && !is_lpar() {
        assert_eq!(controller(Vmm::job(NAME_CONTROLLER)), "XIVE-IRQ");
        return;
    }
    assert_eq!(controller(Vmm::job(NAME_CONTROLLER)), "XICS");
    let vmm = Vmm::job(NAME_CONTROLLER).option("--interrupt-controller", "xive");
    let why = match is_lpar() {
        true => "KVM_CAP_PPC_IRQ_XIVE",
        false => "0x1000 bytes",
    };
    vmm.run()
        .assert_refused(&[why, "--interrupt-controller: ", "xics works on any host"]);
}
