//! libvirtd that is killed and starts again finds its domains.

use crate::harness::libvirt::{Description, kill, start};

const SHELL_STARTS: &str = "LAB-GUEST-INIT";

#[test]
fn libvirtd_finds_a_domain_again_whatever_it_does() {
    let domain = Description::new("found-again").define();
    domain.start();
    // While it boots.
    for _ in 0..7 {
        kill();
        start();
        assert!(domain.state().starts_with("running"), "{}", domain.state());
    }
    domain.wait_for_console(SHELL_STARTS, 1);
    for _ in 0..7 {
        kill();
        start();
        assert!(domain.state().starts_with("running"), "{}", domain.state());
    }
    domain.virsh("suspend");
    for _ in 0..6 {
        kill();
        start();
        assert!(domain.state().starts_with("paused"), "{}", domain.state());
    }
    domain.virsh("resume");
    domain.virsh("shutdown");
    domain.wait_for_state("shut off (shutdown)");
}
