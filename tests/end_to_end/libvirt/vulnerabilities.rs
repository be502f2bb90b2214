//! What a domain's features have the guest told of attacks by speculation.

use crate::harness::libvirt::{Description, virsh_refuses};
use crate::harness::vulnerabilities::{NAME_VULNERABILITIES, assert_as_wary_as_host};

#[test]
fn a_domain_whose_processor_is_called_broken_defends_itself() {
    let broken = "<features><cfpc value='broken'/><sbbc value='broken'/><ibs value='broken'/>\
                  <ccf-assist state='off'/></features>";
    let domain = Description::new("wary")
        .element(broken)
        .job(NAME_VULNERABILITIES)
        .define();
    domain.start();
    domain.wait_for_state("shut off (shutdown)");
    let console = domain.console();
    assert!(console.contains("LAB-GUEST-STATUS 0"), "{console}");
    assert_as_wary_as_host(&console);
}

#[test]
fn a_domain_is_not_promised_what_kvm_does_not_promise() {
    let fixed = "<features><cfpc value='fixed'/></features>";
    let _domain = Description::new("safe").element(fixed).define();
    let message = virsh_refuses(&["start", "safe"]);
    let told = "-machine: cap-cfpc=fixed: this host's KVM does not promise";
    assert!(message.contains(told), "{message}");
}
