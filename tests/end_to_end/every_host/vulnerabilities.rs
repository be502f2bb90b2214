//! What guests know of attacks by speculation.

use crate::harness::Vmm;
use crate::harness::vulnerabilities::{NAME_VULNERABILITIES, assert_as_wary_as_host};

#[test]
fn a_guest_knows_of_every_vulnerability_of_its_host() {
    let finished = Vmm::job(NAME_VULNERABILITIES).run().assert_job_done();
    assert_as_wary_as_host(finished.console());
}
