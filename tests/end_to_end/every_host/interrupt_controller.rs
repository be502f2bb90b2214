//! Which interrupt controller a guest has: XIVE on hosts with pages of 64 KiB, XICS on the others.

use crate::harness::Vmm;
use crate::harness::host::lab;

const NAME_CONTROLLER: &str = "
echo LAB-GUEST-CONTROLLER $(awk '/hvc_console/ { print $(NF - 3) }' /proc/interrupts)
";

fn has_xive() -> bool {
    lab("LAB_HOST").ends_with("-64k")
}

#[test]
fn a_guest_has_the_better_one_that_the_host_can_give() {
    let finished = Vmm::job(NAME_CONTROLLER).run().assert_job_done();
    let expected = if has_xive() { "XIVE-IRQ" } else { "XICS" };
    assert_eq!(finished.guest("CONTROLLER"), expected, "{finished}");
}

#[test]
fn xive_is_refused_where_the_hosts_pages_are_small() {
    let vmm = Vmm::job(NAME_CONTROLLER).option("--interrupt-controller", "xive");
    let finished = vmm.run();
    if has_xive() {
        finished.assert_job_done();
    } else {
        finished.assert_refused(&["0x1000 bytes", "--interrupt-controller auto or xics"]);
    }
}
