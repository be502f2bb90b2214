//! Guests that are told something else of attacks by speculation than the host's KVM would say.
//!
//! The lab's KVM knows nothing of its processor, and promises nothing.

use crate::harness::Vmm;
use crate::harness::front_end::FrontEnd;
use crate::harness::refusal::{Refusal, request};
use crate::harness::vulnerabilities::{NAME_VULNERABILITIES, assert_as_wary_as_host};

#[test]
fn a_guest_defends_itself_where_kvm_cannot_be_asked() {
    let refusal = Refusal {
        request: request::KVM_PPC_GET_CPU_CHAR,
        argument: None,
        errno: u16::try_from(libc::ENOTTY).expect("a small number"),
    };
    let finished = Vmm::job(NAME_VULNERABILITIES)
        .refusing(refusal)
        .option("--log", "info")
        .run()
        .assert_job_done();
    let said = "KVM does not say what attacks the processor is safe from (KVM_PPC_GET_CPU_CHAR";
    assert!(finished.errors().contains(said), "{finished}");
    assert_as_wary_as_host(finished.console());
}

#[test]
fn a_guest_that_is_called_broken_defends_itself() {
    let broken = "cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off";
    let front_end = FrontEnd::job(NAME_VULNERABILITIES).option("-machine", broken);
    let (running, _monitor) = front_end.start();
    let finished = running.finish();
    finished.assert_status(0);
    assert_as_wary_as_host(finished.console());
}

#[test]
fn what_kvm_does_not_promise_is_refused_by_the_option() {
    for option in [
        "cap-cfpc=workaround",
        "cap-cfpc=fixed",
        "cap-sbbc=workaround",
        "cap-sbbc=fixed",
        "cap-ibs=workaround",
        "cap-ibs=fixed-ibs",
        "cap-ibs=fixed-ccd",
        "cap-ibs=fixed-na",
        "cap-ccf-assist=on",
    ] {
        let front_end = FrontEnd::bare_metal("flood-guest", "lines=1");
        let (running, _path) = front_end.option("-machine", option).start_alone();
        let finished = running.finish();
        finished.assert_status(1);
        let expected = format!("-machine: {option}: this host's KVM does not promise ");
        assert!(finished.errors().contains(&expected), "{finished}");
        assert_eq!(finished.console(), "", "{finished}");
    }
}
